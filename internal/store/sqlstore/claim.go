package sqlstore

import (
	"context"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// sqlClaimFence locks the build's row, under which attempts end and are cleaned.
const sqlClaimFence = `
UPDATE template_builds SET next_seq = next_seq WHERE id = $1 AND attempt = $2 AND status = 'running'`

// sqlMarkLock makes or locks the row of a digest.
const sqlMarkLock = `
INSERT INTO artifact_marks (digest, host_id) VALUES ($1, '')
ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest
RETURNING CASE WHEN condemned_at IS NULL THEN 0 ELSE 1 END`

const sqlClaimPut = `
INSERT INTO artifact_claims (build_id, attempt, host_id, digest, made, claimed_at) VALUES ($1, $2, $3, $4, $5, {now})
ON CONFLICT (build_id, attempt, host_id, digest) DO NOTHING`

const sqlClaimList = `
SELECT host_id, digest, made FROM artifact_claims WHERE build_id = $1 AND attempt = $2 ORDER BY claimed_at, digest`

// sqlClaimDrop gives up one claim of an attempt on an artifact.
const sqlClaimDrop = `
DELETE FROM artifact_claims WHERE digest = $1 AND host_id = $2 AND build_id = $3 AND attempt = $4`

const sqlClaimUse = `
SELECT 1 FROM artifact_claims WHERE digest = $1 AND host_id = $2 LIMIT 1`

const sqlMarkCondemn = `
UPDATE artifact_marks SET host_id = $2, condemned_at = {now} WHERE digest = $1`

const sqlMarkCondemned = `
SELECT host_id, digest FROM artifact_marks
WHERE condemned_at IS NOT NULL AND condemned_at <= {now} - $1 ORDER BY condemned_at LIMIT $2`

const sqlMarkAbsolve = `
DELETE FROM artifact_marks WHERE digest = $1 AND host_id = $2 AND condemned_at IS NOT NULL`

// sqlMarkRelease and sqlClaimRelease let go of what an attempt claimed.
const sqlMarkRelease = `
DELETE FROM artifact_marks WHERE condemned_at IS NULL AND digest IN
  (SELECT c.digest FROM artifact_claims c WHERE c.build_id = $1 AND c.attempt = $2)`

const sqlClaimRelease = `
DELETE FROM artifact_claims WHERE build_id = $1 AND attempt = $2`

// Codes of artifacts that somebody else works with.
const (
	codeCondemned     = "artifact_condemned"
	codeArtifactInUse = "artifact_in_use"
)

// Claim implements store.Claims.
func (r templates) Claim(ctx context.Context, f lehr.Fence, h store.Held) error {
	_, err := write(ctx, r.s, "store.Templates.Claim", func(ctx context.Context, t tx) (bool, error) {
		if h.Host == "" || h.Digest == "" {
			return false, errs.New(errs.Invalid, "a claim needs a host and a digest")
		}
		n, err := t.exec(ctx, sqlClaimFence, string(f.BuildID), f.Attempt)
		if err == nil && n == 0 {
			err = t.fenceError(ctx, f)
		}
		if err != nil {
			return false, err
		}
		if err := t.markLock(ctx, h.Digest); err != nil {
			return false, err
		}
		_, err = t.exec(ctx, sqlClaimPut, string(f.BuildID), f.Attempt, string(h.Host), string(h.Digest), flag(h.Made))
		return true, err
	})
	return err
}

// markLock locks a digest for the transaction. One that is being removed is
// Conflict.
func (t tx) markLock(ctx context.Context, d lehr.Digest) error {
	condemned, _, err := one(ctx, t, scanValue[int64], sqlMarkLock, string(d))
	if err == nil && condemned == 1 {
		err = errs.New(errs.Conflict, "%s is being removed", d).WithCode(codeCondemned).WithRemedy("try again in a moment")
	}
	return err
}

// Claimed implements store.Claims.
func (r templates) Claimed(ctx context.Context, f lehr.Fence) ([]store.Held, error) {
	return read(ctx, r.s, "store.Templates.Claimed", func(ctx context.Context, t tx) ([]store.Held, error) {
		scan := func(row scanner) (h store.Held, err error) {
			var made int64
			err = row.Scan(&h.Host, &h.Digest, &made)
			h.Made = made == 1
			return h, err
		}
		return all(ctx, t, scan, sqlClaimList, string(f.BuildID), f.Attempt)
	})
}

// Condemn implements store.Claims.
func (r templates) Condemn(ctx context.Context, h store.Held, by lehr.Fence) error {
	_, err := write(ctx, r.s, "store.Templates.Condemn", func(ctx context.Context, t tx) (bool, error) {
		if h.Host == "" || h.Digest == "" {
			return false, errs.New(errs.Invalid, "a removal needs a host and a digest")
		}
		if err := t.markLock(ctx, h.Digest); err != nil {
			return false, err
		}
		if _, err := t.exec(ctx, sqlClaimDrop, string(h.Digest), string(h.Host), string(by.BuildID), by.Attempt); err != nil {
			return false, err
		}
		named, _, err := one(ctx, t, scanValue[int64], sqlVersionReferences, string(h.Digest))
		if err != nil {
			return false, err
		}
		_, claimed, err := one(ctx, t, scanValue[int64], sqlClaimUse, string(h.Digest), string(h.Host))
		if err != nil {
			return false, err
		}
		if named == 1 || claimed {
			return false, errs.New(errs.Conflict, "%s is needed by a version or a build", h.Digest).WithCode(codeArtifactInUse)
		}
		_, err = t.exec(ctx, sqlMarkCondemn, string(h.Digest), string(h.Host))
		return true, err
	})
	return err
}

// Condemned implements store.Claims.
func (r templates) Condemned(ctx context.Context, age time.Duration, limit int) ([]store.Held, error) {
	return read(ctx, r.s, "store.Templates.Condemned", func(ctx context.Context, t tx) ([]store.Held, error) {
		limit, err := sweepLimit(limit)
		if err != nil {
			return nil, err
		}
		scan := func(row scanner) (h store.Held, err error) { return h, row.Scan(&h.Host, &h.Digest) }
		return all(ctx, t, scan, sqlMarkCondemned, age.Microseconds(), limit)
	})
}

// Absolve implements store.Claims.
func (r templates) Absolve(ctx context.Context, h store.Held) error {
	_, err := writeOne(ctx, r.s, "store.Templates.Absolve", func(ctx context.Context, t tx) (int64, error) {
		return t.exec(ctx, sqlMarkAbsolve, string(h.Digest), string(h.Host))
	})
	return err
}

// claimsRelease lets go of what a clean attempt claimed.
func (t tx) claimsRelease(ctx context.Context, f lehr.Fence) error {
	if _, err := t.exec(ctx, sqlMarkRelease, string(f.BuildID), f.Attempt); err != nil {
		return err
	}
	_, err := t.exec(ctx, sqlClaimRelease, string(f.BuildID), f.Attempt)
	return err
}

// versionLock keeps a version from naming what is being removed.
func (t tx) versionLock(ctx context.Context, v lehr.Version) error {
	for _, d := range []lehr.Digest{v.ImageDigest, v.SnapshotDigest} {
		if d == "" {
			continue
		}
		if err := t.markLock(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

const sqlCensusBuilds = `
SELECT status, COUNT(*) FROM template_builds WHERE status IN ('pending', 'running') GROUP BY status`

const sqlCensusSandboxes = `
SELECT state, COUNT(*) FROM sandboxes WHERE ended_at IS NULL GROUP BY state`

// Census implements store.Garbage.
func (r templates) Census(ctx context.Context) (store.Census, error) {
	type row struct {
		name  string
		count int64
	}
	scan := func(s scanner) (r row, err error) { return r, s.Scan(&r.name, &r.count) }
	return read(ctx, r.s, "store.Templates.Census", func(ctx context.Context, t tx) (store.Census, error) {
		c := store.Census{Builds: map[lehr.BuildStatus]int64{}, Sandboxes: map[lehr.SandboxState]int64{}}
		builds, err := all(ctx, t, scan, sqlCensusBuilds)
		if err != nil {
			return c, err
		}
		boxes, err := all(ctx, t, scan, sqlCensusSandboxes)
		for _, b := range builds {
			c.Builds[lehr.BuildStatus(b.name)] = b.count
		}
		for _, b := range boxes {
			c.Sandboxes[lehr.SandboxState(b.name)] = b.count
		}
		return c, err
	})
}
