package sqlstore

import (
	"context"
	"database/sql"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const sqlAttemptUnclean = `
SELECT build_id, number, worker, COALESCE(host_id, ''), COALESCE(sandbox_id, ''), lease_ends_at,
       started_at, ended_at, ended_as, cleaned_at
FROM build_attempts
WHERE cleaned_at IS NULL AND ended_at IS NOT NULL
ORDER BY ended_at, build_id, number LIMIT $1`

const sqlAttemptClean = `
UPDATE build_attempts SET cleaned_at = COALESCE(cleaned_at, {now})
WHERE build_id = $1 AND number = $2 AND ended_at IS NOT NULL`

// sqlBuildClean is what refuses later log rows and steps: they write the same
// row.
const sqlBuildClean = `
UPDATE template_builds SET cleaned_attempt = CASE WHEN cleaned_attempt < $2 THEN $2 ELSE cleaned_attempt END
WHERE id = $1 AND attempt >= $2`

// Unclean implements store.Cleaner.
func (q queue) Unclean(ctx context.Context, limit int) ([]lehr.Attempt, error) {
	return read(ctx, q.s, "store.Queue.Unclean", func(ctx context.Context, t tx) ([]lehr.Attempt, error) {
		limit, err := sweepLimit(limit)
		if err != nil {
			return nil, err
		}
		return all(ctx, t, scanAttempt, sqlAttemptUnclean, limit)
	})
}

// MarkClean implements store.Cleaner. A running attempt is Conflict.
func (q queue) MarkClean(ctx context.Context, f lehr.Fence) error {
	_, err := write(ctx, q.s, "store.Queue.MarkClean", func(ctx context.Context, t tx) (bool, error) {
		known, err := t.exec(ctx, sqlBuildClean, string(f.BuildID), f.Attempt)
		if err != nil {
			return false, err
		}
		if known == 0 || f.Attempt < 1 {
			return false, errs.New(errs.NotFound, "build %s has no attempt %d", f.BuildID, f.Attempt)
		}
		marked, err := t.exec(ctx, sqlAttemptClean, string(f.BuildID), f.Attempt)
		if err == nil && marked == 0 {
			err = errs.New(errs.Conflict, "attempt %d of build %s still runs", f.Attempt, f.BuildID)
		}
		if err != nil {
			return false, err
		}
		return true, t.claimsRelease(ctx, f)
	})
	return err
}

func scanAttempt(row scanner) (a lehr.Attempt, err error) {
	var lease, started, ended, cleaned sql.Null[int64]
	var as sql.Null[string]
	err = row.Scan(&a.BuildID, &a.Number, &a.Worker, &a.HostID, &a.SandboxID, &lease, &started, &ended, &as, &cleaned)
	a.LeaseEnds, a.StartedAt, a.EndedAt, a.CleanedAt = instant(lease), instant(started), instant(ended), instant(cleaned)
	a.End = lehr.AttemptEnd(as.V)
	return a, err
}
