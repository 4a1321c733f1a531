package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// sqlQueueClaim picks a team, then its next build, and moves it: a few index
// look-ups for each team, however long the queue. The status is asked for again
// outside, so that a claimer that waited for another sees what became of the
// build.
const sqlQueueClaim = `
UPDATE template_builds
SET status = 'running', attempt = attempt + 1, current_step = 0, started_at = COALESCE(started_at, {now})
WHERE status = 'pending' AND id = (
  SELECT p.id
  FROM template_builds p
  WHERE p.status = 'pending' AND p.team_id = (
    SELECT t.id
    FROM (
      SELECT m.id,
        m.max_running_builds AS most,
        (SELECT COUNT(*) FROM template_builds r WHERE r.team_id = m.id AND r.status = 'running') AS running,
        (SELECT o.priority FROM template_builds o WHERE o.team_id = m.id AND o.status = 'pending' AND o.not_before <= {now}
         ORDER BY o.priority DESC, o.id LIMIT 1) AS priority,
        (SELECT o.id FROM template_builds o WHERE o.team_id = m.id AND o.status = 'pending' AND o.not_before <= {now}
         ORDER BY o.priority DESC, o.id LIMIT 1) AS oldest
      FROM teams m) t
    WHERE t.oldest IS NOT NULL AND (t.most = 0 OR t.running < t.most)
    ORDER BY t.priority DESC, t.running, t.oldest LIMIT 1)
    AND p.not_before <= {now}
  ORDER BY p.priority DESC, p.id
  LIMIT 1 {skip_locked})
RETURNING id, attempt, team_id`

// sqlQueueWaiting finds a build that Claim may take.
const sqlQueueWaiting = `
SELECT 1 FROM teams m
WHERE EXISTS (SELECT 1 FROM template_builds o WHERE o.team_id = m.id AND o.status = 'pending' AND o.not_before <= {now})
  AND (m.max_running_builds = 0 OR m.max_running_builds >
       (SELECT COUNT(*) FROM template_builds r WHERE r.team_id = m.id AND r.status = 'running'))
LIMIT 1`

const sqlTeamRunning = `
SELECT max_running_builds FROM teams WHERE id = $1`

// claimTries bounds how often a claimer looks again that found nothing though
// builds wait, because others were about to claim them.
const claimTries = 10

const sqlAttemptInsert = `
INSERT INTO build_attempts (build_id, number, team_id, worker, lease_ends_at, started_at)
SELECT b.id, b.attempt, b.team_id, $2, {now} + $3, {now} FROM template_builds b WHERE b.id = $1`

const sqlAttemptRenew = `
UPDATE build_attempts SET lease_ends_at = {now} + $3
WHERE build_id = $1 AND number = $2 AND ended_at IS NULL`

const sqlAttemptPlace = `
UPDATE build_attempts SET host_id = $3, sandbox_id = $4
WHERE build_id = $1 AND number = $2 AND ended_at IS NULL`

const sqlAttemptEnd = `
UPDATE build_attempts SET ended_at = {now}, ended_as = $3
WHERE build_id = $1 AND number = $2 AND ended_at IS NULL`

type queue struct{ s *Store }

// Claim implements store.Queue.
func (q queue) Claim(ctx context.Context, worker string, lease time.Duration) (lehr.Build, bool, error) {
	const op = "store.Queue.Claim"
	if worker == "" || lease < time.Microsecond {
		return lehr.Build{}, false, errs.New(errs.Invalid, "a claim needs a worker's name and a lease").WithOp(op)
	}
	for range claimTries {
		claimed, err := write(ctx, q.s, op, func(ctx context.Context, t tx) (*lehr.Build, error) {
			return t.claim(ctx, worker, lease)
		})
		if errors.Is(err, errTeamFull) {
			continue
		}
		if err != nil || claimed != nil {
			return deref(claimed), claimed != nil, err
		}
		waiting, err := read(ctx, q.s, op, func(ctx context.Context, t tx) (bool, error) {
			_, ok, err := one(ctx, t, scanValue[int64], sqlQueueWaiting)
			return ok, err
		})
		if err != nil || !waiting {
			return lehr.Build{}, false, err
		}
	}
	return lehr.Build{}, false, nil
}

// errTeamFull undoes a claim that another one overtook.
var errTeamFull = errors.New("the team runs as many builds as it may")

// claim returns nil where it finds nothing.
func (t tx) claim(ctx context.Context, worker string, lease time.Duration) (*lehr.Build, error) {
	type claimed struct {
		lehr.Fence
		team lehr.TeamID
	}
	scan := func(row scanner) (c claimed, err error) { return c, row.Scan(&c.BuildID, &c.Attempt, &c.team) }
	f, ok, err := one(ctx, t, scan, sqlQueueClaim)
	if err != nil || !ok {
		return nil, err
	}
	if err := t.roomToRun(ctx, f.team); err != nil {
		return nil, err
	}
	if _, err := t.exec(ctx, sqlAttemptInsert, string(f.BuildID), worker, lease.Microseconds()); err != nil {
		return nil, err
	}
	b, err := t.build(ctx, f.BuildID)
	return &b, err
}

// roomToRun counts again, with the team locked, what claims at the same time
// could not see of each other.
func (t tx) roomToRun(ctx context.Context, team lehr.TeamID) error {
	most, _, err := one(ctx, t, scanValue[int32], sqlTeamRunning, string(team))
	if err != nil || most == 0 {
		return err
	}
	a, err := t.lockTeam(ctx, team)
	if err != nil {
		return err
	}
	n, _, err := one(ctx, t, scanValue[int32], sqlBuildUsage, string(team), string(lehr.BuildRunning))
	if err == nil && a.limits.RunningBuilds > 0 && n > a.limits.RunningBuilds {
		err = errs.New(errs.Conflict, "%w", errTeamFull)
	}
	return err
}

// Renew implements store.Queue.
func (q queue) Renew(ctx context.Context, f lehr.Fence, lease time.Duration) error {
	const op = "store.Queue.Renew"
	if lease < time.Microsecond {
		return errs.New(errs.Invalid, "a lease must be positive").WithOp(op)
	}
	return q.onAttempt(ctx, op, f, sqlAttemptRenew, string(f.BuildID), f.Attempt, lease.Microseconds())
}

// Place implements store.Queue.
func (q queue) Place(ctx context.Context, f lehr.Fence, host lehr.HostID, sandbox lehr.SandboxID) error {
	const op = "store.Queue.Place"
	return q.onAttempt(ctx, op, f, sqlAttemptPlace, string(f.BuildID), f.Attempt, orNull(host), orNull(sandbox))
}

// onAttempt runs one statement that must hit the fence's running attempt.
func (q queue) onAttempt(ctx context.Context, op string, f lehr.Fence, query string, args ...any) error {
	n, err := writeOne(ctx, q.s, op, func(ctx context.Context, t tx) (int64, error) {
		return t.exec(ctx, query, args...)
	})
	if err != nil || n > 0 {
		return err
	}
	_, err = read(ctx, q.s, op, func(ctx context.Context, t tx) (bool, error) {
		return false, t.fenceError(ctx, f)
	})
	return err
}

// attemptEnd ends the attempt where it runs; ended is false where it does not.
func (t tx) attemptEnd(ctx context.Context, f lehr.Fence, as lehr.AttemptEnd) (ended bool, err error) {
	n, err := t.exec(ctx, sqlAttemptEnd, string(f.BuildID), f.Attempt, string(as))
	return n > 0, err
}

func scanFence(row scanner) (f lehr.Fence, err error) {
	return f, row.Scan(&f.BuildID, &f.Attempt)
}
