package sqlstore

import (
	"context"
	"database/sql"
)

// MigrateTo brings the schema to an earlier release's version.
func MigrateTo(ctx context.Context, db *sql.DB, d Dialect, version int64) error {
	provider, err := newProvider(db, d)
	if err != nil {
		return err
	}
	_, err = provider.UpTo(ctx, version)
	return err
}
