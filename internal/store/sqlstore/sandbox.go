package sqlstore

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

const sqlSandboxColumns = `id, team_id, template, version_id, host_id, state, reason, vcpus, memory_mb, disk_mb,
       metadata, COALESCE(idempotency_key, ''), error, COALESCE(build_id, ''), created_at, expires_at, ended_at`

const sqlSandboxSelect = `
SELECT ` + sqlSandboxColumns + ` FROM sandboxes`

const sqlSandboxGet = sqlSandboxSelect + `
WHERE id = $1`

const sqlSandboxByKey = `
SELECT request_digest, ` + sqlSandboxColumns + ` FROM sandboxes
WHERE team_id = $1 AND idempotency_key = $2`

// sqlSandboxInsert inserts nothing where the version is gone, the key is taken,
// or the team has limits ($14 is 1 where they were checked, or do not apply).
const sqlSandboxInsert = `
INSERT INTO sandboxes (id, team_id, template, version_id, uses_version, host_id, state, reason,
                       vcpus, memory_mb, disk_mb, build_id, created_at, expires_at,
                       metadata, idempotency_key, request_digest)
SELECT $1, m.id, $3, v.id, v.id, $5, 'creating', '', $6, $7, $8, $9, {now}, $10, $11, $12, $13
FROM template_versions v JOIN teams m ON m.id = $2
WHERE v.id = $4
  AND ($14 = 1 OR m.max_sandboxes = 0 AND m.max_vcpus = 0 AND m.max_memory_mb = 0 AND m.max_creates_per_minute = 0)
ON CONFLICT (team_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
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

const sqlSandboxFail = `
UPDATE sandboxes
SET state = 'failed', reason = $2, error = $3, ended_at = {now}, uses_version = NULL
WHERE id = $1 AND ended_at IS NULL
RETURNING ` + sqlSandboxColumns

const sqlSandboxExpiry = `
UPDATE sandboxes SET expires_at = CASE WHEN CAST($2 AS BIGINT) = 0 THEN NULL ELSE {now} + $2 END
WHERE id = $1 AND ended_at IS NULL
RETURNING ` + sqlSandboxColumns

// sqlSandboxExpire asks again outside, so that one whose end was put off
// meanwhile stays.
const sqlSandboxExpire = `
UPDATE sandboxes SET state = 'killed', reason = 'ttl', ended_at = {now}, uses_version = NULL
WHERE ended_at IS NULL AND expires_at <= {now} AND id IN (
  SELECT e.id FROM sandboxes e
  WHERE e.ended_at IS NULL AND e.expires_at <= {now} AND e.build_id IS NULL
  ORDER BY e.expires_at LIMIT $1)
RETURNING ` + sqlSandboxColumns

const sqlSandboxForget = `
DELETE FROM sandboxes WHERE ended_at < $1`

var pageSandboxes = page{
	head:    sqlSandboxSelect + "\nWHERE TRUE",
	filters: []string{"team_id = ?", "host_id = ?", "ended_at IS NULL", "build_id IS NULL", "state = ?", "template BETWEEN ? AND ?", "id < ?"},
	tail:    "ORDER BY id DESC LIMIT ?",
}

// pagePairedSandboxes is pageSandboxes for sandboxes with an entry of metadata.
var pagePairedSandboxes = page{
	head: `
SELECT ` + sqlSandboxColumns + `
FROM (SELECT w.* FROM sandbox_pairs p JOIN sandboxes w ON w.id = p.object_id
      WHERE p.team_id = ? AND p.pair = ?`,
	filters: []string{
		otherPairs("sandbox_pairs"), "w.host_id = ?", "w.ended_at IS NULL", "w.build_id IS NULL", "w.state = ?",
		"w.template BETWEEN ? AND ?", "p.object_id < ?",
	},
	tail: "ORDER BY p.object_id DESC LIMIT ?) v ORDER BY id DESC",
}

type sandboxes struct{ s *Store }

// Create implements store.Sandboxes. The usual case, no metadata and a team
// without limits, is one statement.
func (r sandboxes) Create(ctx context.Context, n store.NewSandbox) (lehr.Sandbox, bool, error) {
	const op = "store.Sandboxes.Create"
	switch {
	case n.ID == "" || n.TeamID == "":
		return lehr.Sandbox{}, false, errs.New(errs.Invalid, "a sandbox needs an id and a team").WithOp(op)
	case n.State != "" && n.State != lehr.SandboxCreating:
		return lehr.Sandbox{}, false, errs.New(errs.Invalid, "a sandbox begins as %s, not as %q", lehr.SandboxCreating, n.State).WithOp(op)
	}
	if len(n.Metadata) == 0 {
		made, err := writeOne(ctx, r.s, op, func(ctx context.Context, t tx) (*lehr.Sandbox, error) {
			return t.sandboxInsert(ctx, n, n.BuildID != "")
		})
		if err != nil || made != nil {
			return deref(made), made != nil, err
		}
	}
	type outcome struct {
		box     lehr.Sandbox
		created bool
	}
	o, err := write(ctx, r.s, op, func(ctx context.Context, t tx) (o outcome, err error) {
		o.box, o.created, err = t.sandboxCreate(ctx, n)
		return o, err
	})
	return o.box, o.created, err
}

// sandboxCreate looks for the key once the team's other creates are done: a
// repeated request is never refused for a limit that its first used up.
func (t tx) sandboxCreate(ctx context.Context, n store.NewSandbox) (lehr.Sandbox, bool, error) {
	a, err := t.admit(ctx, n.TeamID)
	if err != nil {
		return lehr.Sandbox{}, false, err
	}
	if found, ok, err := t.sandboxByKey(ctx, n.TeamID, n.IdempotencyKey, n.RequestDigest); err != nil || ok {
		return found, false, err
	}
	if n.BuildID == "" {
		if err := t.roomForSandbox(ctx, a, n.Resources); err != nil {
			return lehr.Sandbox{}, false, err
		}
		if err := t.pay(ctx, a); err != nil {
			return lehr.Sandbox{}, false, err
		}
	}
	made, err := t.sandboxInsert(ctx, n, true)
	if err != nil {
		return lehr.Sandbox{}, false, err
	}
	if made != nil {
		err := t.putPairs(ctx, sqlSandboxPairInsert, string(n.ID), n.TeamID, pairsOf(n.Metadata))
		return *made, true, err
	}
	found, ok, err := t.sandboxByKey(ctx, n.TeamID, n.IdempotencyKey, n.RequestDigest) // one that did not wait for the team
	if err == nil && !ok {
		err = errs.New(errs.NotFound, "there is no version %s", n.VersionID).WithCode("version_not_found")
	}
	return found, false, err
}

// sandboxInsert returns nil where nothing was inserted; checked says that the
// team's limits were looked at.
func (t tx) sandboxInsert(ctx context.Context, n store.NewSandbox, checked bool) (*lehr.Sandbox, error) {
	made, err := found(one(ctx, t, scanSandbox, sqlSandboxInsert, string(n.ID), string(n.TeamID), n.Template,
		string(n.VersionID), string(n.HostID), n.Resources.VCPUs, n.Resources.MemoryMB, n.Resources.DiskMB,
		orNull(n.BuildID), micros(n.ExpiresAt), metadataColumn(n.Metadata), orNull(n.IdempotencyKey),
		string(n.RequestDigest), flag(checked)))
	switch {
	case t.s.is(err, TroubleUnique):
		return nil, errs.New(errs.Exists, "there is a sandbox %s already", n.ID)
	case t.s.is(err, TroubleReference):
		return nil, errs.New(errs.NotFound, "the version, team or build of sandbox %s does not exist", n.ID)
	}
	return made, err
}

// ByKey implements store.Sandboxes.
func (r sandboxes) ByKey(ctx context.Context, team lehr.TeamID, key string, digest lehr.Digest) (lehr.Sandbox, error) {
	return read(ctx, r.s, "store.Sandboxes.ByKey", func(ctx context.Context, t tx) (lehr.Sandbox, error) {
		found, ok, err := t.sandboxByKey(ctx, team, key, digest)
		if err == nil && !ok {
			err = errs.New(errs.NotFound, "no sandbox was asked for under this key")
		}
		return found, err
	})
}

func (t tx) sandboxByKey(ctx context.Context, team lehr.TeamID, key string, digest lehr.Digest) (box lehr.Sandbox, ok bool, err error) {
	if key == "" {
		return box, false, nil
	}
	var given lehr.Digest
	scan := func(row scanner) (lehr.Sandbox, error) { return scanSandbox(withFirst{scanner: row, first: &given}) }
	box, ok, err = one(ctx, t, scan, sqlSandboxByKey, string(team), key)
	if err == nil && ok && given != digest {
		err = keyReused("sandbox", string(box.ID))
	}
	return box, ok, err
}

// withFirst reads a column that stands before the usual ones.
type withFirst struct {
	scanner
	first any
}

// Scan implements scanner.
func (w withFirst) Scan(dest ...any) error { return w.scanner.Scan(append([]any{w.first}, dest...)...) }

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

// Fail implements store.Sandboxes.
func (r sandboxes) Fail(ctx context.Context, id lehr.SandboxID, reason lehr.SandboxReason, why lehr.SandboxError) (lehr.Sandbox, error) {
	const op = "store.Sandboxes.Fail"
	why.Message, why.Remedy = plain(why.Message), plain(why.Remedy)
	failed, err := writeOne(ctx, r.s, op, func(ctx context.Context, t tx) (*lehr.Sandbox, error) {
		return found(one(ctx, t, scanSandbox, sqlSandboxFail, string(id), string(reason), toJSON(why)))
	})
	if err != nil || failed != nil {
		return deref(failed), err
	}
	return r.Move(ctx, id, lehr.SandboxFailed, reason) // says why not
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
		if err := checkPairs("metadata", q.TeamID, q.Metadata); err != nil {
			return nil, err
		}
		filters := []filter{
			given(q.TeamID), given(q.HostID), {on: !q.All}, {on: !q.Builds}, given(q.State), ofTemplate(q.Template), given(q.Before),
		}
		text, args := pageSandboxes.build(q.Limit, filters...)
		if pairs := pairsOf(q.Metadata); len(pairs) > 0 {
			filters[0] = others(pairs) // the team is in the head
			text, args = pagePairedSandboxes.buildWith([]any{string(q.TeamID), pairs[0]}, q.Limit, filters...)
		}
		return all(ctx, t, scanSandbox, text, args...)
	})
}

// ofTemplate filters by "name:tag" as recorded, or by a name with any tag: "~"
// sorts after every character of a tag.
func ofTemplate(name string) filter {
	first, last := name, name
	if !strings.Contains(name, ":") {
		first, last = name+":", name+":~"
	}
	return filter{on: name != "", args: []any{first, last}}
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

// Expire implements store.Sandboxes.
func (r sandboxes) Expire(ctx context.Context, limit int) ([]lehr.Sandbox, error) {
	return write(ctx, r.s, "store.Sandboxes.Expire", func(ctx context.Context, t tx) ([]lehr.Sandbox, error) {
		limit, err := sweepLimit(limit)
		if err != nil {
			return nil, err
		}
		return all(ctx, t, scanSandbox, sqlSandboxExpire, limit)
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
	var metadata, failure sql.Null[string]
	var created, expires, ended sql.Null[int64]
	err = row.Scan(&s.ID, &s.TeamID, &s.Template, &s.VersionID, &s.HostID, &s.State, &s.Reason,
		&s.Resources.VCPUs, &s.Resources.MemoryMB, &s.Resources.DiskMB, &metadata, &s.IdempotencyKey, &failure,
		&s.BuildID, &created, &expires, &ended)
	if err != nil {
		return s, err
	}
	s.CreatedAt, s.ExpiresAt, s.EndedAt = instant(created), instant(expires), instant(ended)
	if s.Metadata, err = scanMetadata(metadata); err != nil {
		return s, err
	}
	s.Error, err = fromJSON[lehr.SandboxError](failure)
	return s, err
}
