package sqlstore

import (
	"context"
	"database/sql"
	"encoding/base64"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const sqlBuildLogin = `
SELECT registry_login FROM template_builds WHERE id = $1 AND attempt = $2 AND status = 'running'`

// RegistryLogin implements store.Builds.
func (b builds) RegistryLogin(ctx context.Context, f lehr.Fence) ([]byte, error) {
	return read(ctx, b.s, "store.Builds.RegistryLogin", func(ctx context.Context, t tx) ([]byte, error) {
		login, ok, err := one(ctx, t, scanValue[sql.Null[string]], sqlBuildLogin, string(f.BuildID), f.Attempt)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, t.fenceError(ctx, f)
		}
		if !login.Valid {
			return nil, nil
		}
		sealed, err := base64.StdEncoding.DecodeString(login.V)
		if err != nil {
			return nil, errs.New(errs.Corrupt, "the login of build %s is damaged", f.BuildID)
		}
		return sealed, nil
	})
}
