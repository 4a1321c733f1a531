package sqlstore

import (
	"context"
	"database/sql"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const sqlKeyColumns = `id, team_id, name, prefix, admin, created_at, revoked_at`

const sqlKeyInsert = `
INSERT INTO api_keys (id, team_id, name, prefix, admin, secret_hash, created_at)
VALUES ($1, $2, $3, $4, $5, $6, {now})`

const sqlKeyByHash = `
SELECT ` + sqlKeyColumns + ` FROM api_keys WHERE secret_hash = $1 AND revoked_at IS NULL`

const sqlKeyRevoke = `
UPDATE api_keys SET revoked_at = COALESCE(revoked_at, {now}) WHERE id = $1
RETURNING ` + sqlKeyColumns

var pageKeys = page{
	head:    "\nSELECT " + sqlKeyColumns + " FROM api_keys\nWHERE TRUE",
	filters: []string{"team_id = ?", "id < ?"},
	tail:    "ORDER BY id DESC LIMIT ?",
}

type accounts struct{ s *Store }

// CreateKey implements store.Accounts.
func (a accounts) CreateKey(ctx context.Context, k lehr.Key, secretHash lehr.Digest) error {
	_, err := writeOne(ctx, a.s, "store.Accounts.CreateKey", func(ctx context.Context, t tx) (int64, error) {
		if k.ID == "" || k.TeamID == "" {
			return 0, errs.New(errs.Invalid, "a key needs an id and a team")
		}
		if _, err := lehr.ParseDigest(string(secretHash)); err != nil {
			return 0, errs.New(errs.Invalid, "the hash of a key: %w", err)
		}
		n, err := t.exec(ctx, sqlKeyInsert, string(k.ID), string(k.TeamID), plain(k.Name), k.Prefix, flag(k.Admin), string(secretHash))
		switch {
		case t.s.is(err, TroubleUnique):
			err = errs.New(errs.Exists, "there is such a key already")
		case t.s.is(err, TroubleReference):
			err = unknownTeam(string(k.TeamID))
		}
		return n, err
	})
	return err
}

// KeyByHash implements store.Accounts.
func (a accounts) KeyByHash(ctx context.Context, secretHash lehr.Digest) (lehr.Key, error) {
	return read(ctx, a.s, "store.Accounts.KeyByHash", func(ctx context.Context, t tx) (lehr.Key, error) {
		k, ok, err := one(ctx, t, scanKey, sqlKeyByHash, string(secretHash))
		if err == nil && !ok {
			err = errs.New(errs.NotFound, "the key is unknown or revoked").WithCode(codeKeyUnknown)
		}
		return k, err
	})
}

// ListKeys implements store.Accounts, newest first. An empty team means every
// team.
func (a accounts) ListKeys(ctx context.Context, team lehr.TeamID, before lehr.KeyID, limit int) ([]lehr.Key, error) {
	return read(ctx, a.s, "store.Accounts.ListKeys", func(ctx context.Context, t tx) ([]lehr.Key, error) {
		if err := checkLimit(limit); err != nil {
			return nil, err
		}
		text, args := pageKeys.build(limit, given(team), given(before))
		return all(ctx, t, scanKey, text, args...)
	})
}

// RevokeKey implements store.Accounts. An empty team means any team.
func (a accounts) RevokeKey(ctx context.Context, team lehr.TeamID, id lehr.KeyID) (lehr.Key, error) {
	return write(ctx, a.s, "store.Accounts.RevokeKey", func(ctx context.Context, t tx) (lehr.Key, error) {
		k, ok, err := one(ctx, t, scanKey, sqlKeyRevoke, string(id))
		if err == nil && (!ok || (team != "" && k.TeamID != team)) {
			err = errs.New(errs.NotFound, "there is no key %.80s", id).WithCode(codeKeyUnknown).
				WithRemedy("`lehr keys ls` lists them")
		}
		return k, err // an error undoes the revocation of another team's key
	})
}

func scanKey(row scanner) (k lehr.Key, err error) {
	var admin int64
	var created, revoked sql.Null[int64]
	err = row.Scan(&k.ID, &k.TeamID, &k.Name, &k.Prefix, &admin, &created, &revoked)
	k.Admin, k.CreatedAt, k.RevokedAt = admin == 1, instant(created), instant(revoked)
	return k, err
}
