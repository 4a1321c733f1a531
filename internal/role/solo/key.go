package solo

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/api"
	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/store"
)

// defaultTeam is the team of the administrator key that `lehr up` makes.
const defaultTeam = "default"

// adminKey returns the administrator key of a data folder, making it at the
// first start or when the one in the folder was revoked.
func adminKey(ctx context.Context, data string, accounts store.Accounts) (string, error) {
	path := filepath.Join(data, "admin.key")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", errs.Wrap(err, errs.Unavailable, "solo.adminKey", "the administrator key cannot be read")
	}
	secret := strings.TrimSpace(string(b))
	if hash, ok := api.HashKey(secret); ok {
		_, err := accounts.KeyByHash(ctx, hash)
		if err == nil {
			return secret, nil
		}
		if !errs.IsKind(err, errs.NotFound) {
			return "", err
		}
	}
	return makeAdminKey(ctx, path, accounts)
}

func makeAdminKey(ctx context.Context, path string, accounts store.Accounts) (string, error) {
	team, err := accounts.EnsureTeam(ctx, defaultTeam)
	if err != nil {
		return "", err
	}
	key, secret := api.NewKey(team.ID, "lehr up", true, time.Now())
	// The file comes first: a key whose secret nobody has would stay for ever.
	if err := config.WritePrivate(path, []byte(secret+"\n")); err != nil {
		return "", errs.Wrap(err, errs.Unavailable, "solo.makeAdminKey", "the administrator key cannot be stored")
	}
	hash, _ := api.HashKey(secret)
	return secret, accounts.CreateKey(ctx, key, hash)
}
