package sqlstore

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// sqlStepFence is the fence of step results; it also shows the progress.
const sqlStepFence = `
UPDATE template_builds SET current_step = CASE WHEN current_step < $3 THEN $3 ELSE current_step END
WHERE id = $1 AND attempt = $2 AND cleaned_attempt < $2
RETURNING team_id`

const sqlStepPut = `
INSERT INTO build_steps (build_id, attempt, step, team_id, phase, cmd, status, exit_code, ok, elapsed_us,
                         cached, cache_reason, stdout_tail, stderr_tail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (build_id, attempt, step) DO UPDATE SET
  phase = excluded.phase, cmd = excluded.cmd, status = excluded.status, exit_code = excluded.exit_code,
  ok = excluded.ok, elapsed_us = excluded.elapsed_us, cached = excluded.cached,
  cache_reason = excluded.cache_reason, stdout_tail = excluded.stdout_tail, stderr_tail = excluded.stderr_tail`

const sqlStepList = `
SELECT attempt, step, phase, cmd, status, exit_code, ok, elapsed_us, cached, cache_reason, stdout_tail, stderr_tail
FROM build_steps WHERE build_id = $1 AND attempt = $2 ORDER BY step`

// PutStep implements store.Queue. Tails are cut to their last StepTailBytes.
func (q queue) PutStep(ctx context.Context, f lehr.Fence, r lehr.StepResult) error {
	_, err := write(ctx, q.s, "store.Queue.PutStep", func(ctx context.Context, t tx) (int64, error) {
		team, ok, err := one(ctx, t, scanValue[string], sqlStepFence, string(f.BuildID), f.Attempt, r.Step)
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, t.fenceError(ctx, f)
		}
		var exit any
		if r.Exit != nil {
			exit = *r.Exit
		}
		return t.exec(ctx, sqlStepPut, string(f.BuildID), f.Attempt, r.Step, team, string(r.Phase), plain(r.Cmd),
			string(r.Status), exit, flag(r.OK), r.Elapsed.Microseconds(), flag(r.Cached), plain(r.CacheReason),
			tail(r.StdoutTail), tail(r.StderrTail))
	})
	return err
}

// tail returns the last StepTailBytes of s, beginning with a whole character.
func tail(s string) string {
	s = plain(s)
	if len(s) <= lehr.StepTailBytes {
		return s
	}
	return strings.ToValidUTF8(s[len(s)-lehr.StepTailBytes:], "")
}

func scanStep(row scanner) (r lehr.StepResult, err error) {
	var exit sql.Null[int32]
	var ok, cached, elapsed int64
	err = row.Scan(&r.Attempt, &r.Step, &r.Phase, &r.Cmd, &r.Status, &exit, &ok, &elapsed, &cached,
		&r.CacheReason, &r.StdoutTail, &r.StderrTail)
	if exit.Valid {
		r.Exit = &exit.V
	}
	r.OK, r.Cached, r.Elapsed = ok == 1, cached == 1, time.Duration(elapsed)*time.Microsecond
	return r, err
}
