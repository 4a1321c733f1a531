package sqlstore

import (
	"context"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// sqlQueueClaim picks and moves in one statement. The status is asked for
// again outside, so that a claimer that waited for another sees what became of
// the build.
const sqlQueueClaim = `
UPDATE template_builds
SET status = 'running', attempt = attempt + 1, current_step = 0, started_at = COALESCE(started_at, {now})
WHERE status = 'pending' AND id = (
  SELECT p.id
  FROM template_builds p
  LEFT JOIN (SELECT team_id, COUNT(*) AS running FROM template_builds WHERE status = 'running' GROUP BY team_id) r
    ON r.team_id = p.team_id
  WHERE p.status = 'pending'
  ORDER BY p.priority DESC, COALESCE(r.running, 0), p.id
  LIMIT 1 {skip_locked})
RETURNING id, attempt`

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
	claimed, err := write(ctx, q.s, op, func(ctx context.Context, t tx) (*lehr.Build, error) {
		f, ok, err := one(ctx, t, scanFence, sqlQueueClaim)
		if err != nil || !ok {
			return nil, err
		}
		if _, err := t.exec(ctx, sqlAttemptInsert, string(f.BuildID), worker, lease.Microseconds()); err != nil {
			return nil, err
		}
		b, err := t.build(ctx, f.BuildID)
		return &b, err
	})
	if err != nil || claimed == nil {
		return lehr.Build{}, false, err
	}
	return *claimed, true, nil
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
