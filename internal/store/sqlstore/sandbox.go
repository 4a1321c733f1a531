package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

const sqlSandboxColumns = `id, team_id, template, version_id, host_id, state, reason, vcpus, memory_mb, disk_mb,
       COALESCE(build_id, ''), created_at, expires_at, ended_at`

const sqlSandboxSelect = `
SELECT ` + sqlSandboxColumns + ` FROM sandboxes`

const sqlSandboxGet = sqlSandboxSelect + `
WHERE id = $1`

const sqlSandboxInsert = `
INSERT INTO sandboxes (id, team_id, template, version_id, uses_version, host_id, state, reason,
                       vcpus, memory_mb, disk_mb, build_id, created_at, expires_at)
SELECT $1, $2, $3, v.id, v.id, $5, 'creating', '', $6, $7, $8, $9, {now}, $10
FROM template_versions v WHERE v.id = $4
RETURNING ` + sqlSandboxColumns

// sqlSandboxMove moves from any of the states $4 to $8. $9 is 1 for an end,
// which lets go of the version.
const sqlSandboxMove = `
UPDATE sandboxes
SET state = $2, reason = $3,
    ended_at     = CASE WHEN $9 = 1 THEN {now} END,
    uses_version = CASE WHEN $9 = 1 THEN NULL ELSE uses_version END
WHERE id = $1 AND state IN ($4, $5, $6, $7, $8)
RETURNING ` + sqlSandboxColumns

const sqlSandboxExpiry = `
UPDATE sandboxes SET expires_at = CASE WHEN CAST($2 AS BIGINT) = 0 THEN NULL ELSE {now} + $2 END
WHERE id = $1 AND ended_at IS NULL
RETURNING ` + sqlSandboxColumns

const sqlSandboxExpired = sqlSandboxSelect + `
WHERE ended_at IS NULL AND expires_at <= {now}
ORDER BY expires_at LIMIT $1`

const sqlSandboxForget = `
DELETE FROM sandboxes WHERE ended_at < $1`

var pageSandboxes = page{
	head:    sqlSandboxSelect + "\nWHERE TRUE",
	filters: []string{"team_id = ?", "host_id = ?", "ended_at IS NULL", "build_id IS NULL", "id < ?"},
	tail:    "ORDER BY id DESC LIMIT ?",
}

type sandboxes struct{ s *Store }

// Create implements store.Sandboxes.
func (r sandboxes) Create(ctx context.Context, n lehr.Sandbox) (lehr.Sandbox, error) {
	return writeOne(ctx, r.s, "store.Sandboxes.Create", func(ctx context.Context, t tx) (lehr.Sandbox, error) {
		switch {
		case n.ID == "" || n.TeamID == "":
			return n, errs.New(errs.Invalid, "a sandbox needs an id and a team")
		case n.State != "" && n.State != lehr.SandboxCreating:
			return n, errs.New(errs.Invalid, "a sandbox begins as %s, not as %q", lehr.SandboxCreating, n.State)
		}
		made, ok, err := one(ctx, t, scanSandbox, sqlSandboxInsert, string(n.ID), string(n.TeamID), n.Template,
			string(n.VersionID), string(n.HostID), n.Resources.VCPUs, n.Resources.MemoryMB, n.Resources.DiskMB,
			orNull(n.BuildID), micros(n.ExpiresAt))
		switch {
		case t.s.is(err, TroubleUnique):
			return n, errs.New(errs.Exists, "there is a sandbox %s already", n.ID)
		case t.s.is(err, TroubleReference):
			return n, errs.New(errs.NotFound, "the version, team or build of sandbox %s does not exist", n.ID)
		case err == nil && !ok:
			return n, errs.New(errs.NotFound, "there is no version %s", n.VersionID).WithCode("version_not_found")
		}
		return made, err
	})
}

// Move implements store.Sandboxes.
func (r sandboxes) Move(ctx context.Context, id lehr.SandboxID, to lehr.SandboxState, reason lehr.SandboxReason) (lehr.Sandbox, error) {
	const op = "store.Sandboxes.Move"
	moved, err := writeOne(ctx, r.s, op, func(ctx context.Context, t tx) (*lehr.Sandbox, error) {
		args := []any{string(id), string(to), string(reason)}
		for _, from := range sourcesOf(to) {
			args = append(args, from)
		}
		return found(one(ctx, t, scanSandbox, sqlSandboxMove, append(args, flag(!to.Live()))...))
	})
	if err != nil || moved != nil {
		return deref(moved), err
	}
	return read(ctx, r.s, op, func(ctx context.Context, t tx) (lehr.Sandbox, error) {
		s, err := t.sandbox(ctx, id)
		if err == nil {
			err = errs.New(errs.Conflict, "sandbox %s is %s and cannot become %s", id, s.State, to).WithCode(codeIllegalMove)
		}
		return s, err
	})
}

// sourcesOf returns the states with a move to the state, padded with empty
// ones, which no sandbox is in, to the number that sqlSandboxMove takes.
func sourcesOf(to lehr.SandboxState) [5]string {
	var sources [5]string
	n := 0
	for from, targets := range lehr.SandboxMoves {
		for _, target := range targets {
			if target == to {
				sources[n] = string(from)
				n++
			}
		}
	}
	return sources
}

// Get implements store.Sandboxes. An empty team means any team.
func (r sandboxes) Get(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, error) {
	return read(ctx, r.s, "store.Sandboxes.Get", func(ctx context.Context, t tx) (lehr.Sandbox, error) {
		s, err := t.sandbox(ctx, id)
		if err == nil && team != "" && s.TeamID != team {
			err = unknownSandbox(id)
		}
		return s, err
	})
}

// List implements store.Sandboxes.
func (r sandboxes) List(ctx context.Context, q store.ListSandboxes) ([]lehr.Sandbox, error) {
	return read(ctx, r.s, "store.Sandboxes.List", func(ctx context.Context, t tx) ([]lehr.Sandbox, error) {
		if err := checkLimit(q.Limit); err != nil {
			return nil, err
		}
		text, args := pageSandboxes.build(q.Limit, given(q.TeamID), given(q.HostID),
			filter{on: !q.All}, filter{on: !q.Builds}, given(q.Before))
		return all(ctx, t, scanSandbox, text, args...)
	})
}

// SetExpiry implements store.Sandboxes.
func (r sandboxes) SetExpiry(ctx context.Context, id lehr.SandboxID, ttl time.Duration) (lehr.Sandbox, error) {
	const op = "store.Sandboxes.SetExpiry"
	if ttl < 0 {
		return lehr.Sandbox{}, errs.New(errs.Invalid, "a time-to-live cannot be negative").WithOp(op)
	}
	set, err := writeOne(ctx, r.s, op, func(ctx context.Context, t tx) (*lehr.Sandbox, error) {
		return found(one(ctx, t, scanSandbox, sqlSandboxExpiry, string(id), ttl.Microseconds()))
	})
	if err != nil || set != nil {
		return deref(set), err
	}
	return read(ctx, r.s, op, func(ctx context.Context, t tx) (lehr.Sandbox, error) {
		s, err := t.sandbox(ctx, id)
		if err == nil {
			err = errs.New(errs.Conflict, "sandbox %s is %s", id, s.State).WithCode(codeIllegalMove)
		}
		return s, err
	})
}

// Expired implements store.Sandboxes.
func (r sandboxes) Expired(ctx context.Context, limit int) ([]lehr.Sandbox, error) {
	return read(ctx, r.s, "store.Sandboxes.Expired", func(ctx context.Context, t tx) ([]lehr.Sandbox, error) {
		limit, err := sweepLimit(limit)
		if err != nil {
			return nil, err
		}
		return all(ctx, t, scanSandbox, sqlSandboxExpired, limit)
	})
}

// Forget implements store.Sandboxes.
func (r sandboxes) Forget(ctx context.Context, before time.Time) (int64, error) {
	return writeOne(ctx, r.s, "store.Sandboxes.Forget", func(ctx context.Context, t tx) (int64, error) {
		return t.exec(ctx, sqlSandboxForget, before.UnixMicro())
	})
}

func (t tx) sandbox(ctx context.Context, id lehr.SandboxID) (lehr.Sandbox, error) {
	s, ok, err := one(ctx, t, scanSandbox, sqlSandboxGet, string(id))
	if err == nil && !ok {
		err = unknownSandbox(id)
	}
	return s, err
}

func unknownSandbox(id lehr.SandboxID) error {
	return errs.New(errs.NotFound, "there is no sandbox %.80s", id).WithCode(codeSandboxUnknown).
		WithRemedy("`lehr sandbox ls --all` lists them; records of ended ones go after a day")
}

// found turns one's answer into a pointer that is nil where there is no row.
func found[T any](v T, ok bool, err error) (*T, error) {
	if err != nil || !ok {
		return nil, err
	}
	return &v, nil
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func scanSandbox(row scanner) (s lehr.Sandbox, err error) {
	var created, expires, ended sql.Null[int64]
	err = row.Scan(&s.ID, &s.TeamID, &s.Template, &s.VersionID, &s.HostID, &s.State, &s.Reason,
		&s.Resources.VCPUs, &s.Resources.MemoryMB, &s.Resources.DiskMB, &s.BuildID, &created, &expires, &ended)
	s.CreatedAt, s.ExpiresAt, s.EndedAt = instant(created), instant(expires), instant(ended)
	return s, err
}
