package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// sqlQueueGiveBack counts a lost attempt ($3 is 1) and fails the build with
// error $5 where it was number $4.
const sqlQueueGiveBack = `
UPDATE template_builds
SET lost_attempts = lost_attempts + $3,
    status        = CASE WHEN $3 = 1 AND lost_attempts + 1 >= $4 THEN 'failed' ELSE 'pending' END,
    error         = CASE WHEN $3 = 1 AND lost_attempts + 1 >= $4 THEN $5 END,
    completed_at  = CASE WHEN $3 = 1 AND lost_attempts + 1 >= $4 THEN {now} END,
    queued_at     = {now}
WHERE id = $1 AND attempt = $2 AND status = 'running'
RETURNING status`

const sqlAttemptEndExpired = `
UPDATE build_attempts SET ended_at = {now}, ended_as = 'lost'
WHERE build_id = $1 AND number = $2 AND ended_at IS NULL AND lease_ends_at <= {now}`

const sqlAttemptRunning = `
SELECT build_id, number FROM build_attempts WHERE ended_at IS NULL`

const sqlAttemptExpired = `
SELECT build_id, number FROM build_attempts WHERE ended_at IS NULL AND lease_ends_at <= {now} ORDER BY lease_ends_at`

const sqlQueueUnplaced = `
UPDATE template_builds SET status = 'failed', error = $1, completed_at = {now}
WHERE status = 'pending' AND queued_at <= {now} - $2
RETURNING id`

// Codes of the errors of builds that the store itself fails.
const (
	codeAttemptsExhausted = "attempts_exhausted"
	codeUnplaced          = "unplaced"
)

// GiveBack implements store.Queue.
func (q queue) GiveBack(ctx context.Context, f lehr.Fence, end lehr.AttemptEnd, last *lehr.BuildError) (lehr.BuildStatus, error) {
	return write(ctx, q.s, "store.Queue.GiveBack", func(ctx context.Context, t tx) (lehr.BuildStatus, error) {
		if end != lehr.AttemptLost && end != lehr.AttemptGivenBack {
			return "", errs.New(errs.Invalid, "an attempt cannot be given back as %q", end)
		}
		status, ok, err := t.giveBack(ctx, f, end, last)
		if err != nil {
			return "", err
		}
		if !ok {
			return "", t.fenceError(ctx, f)
		}
		_, err = t.attemptEnd(ctx, f, end)
		return status, err
	})
}

// giveBack moves the build, not the attempt. ok is false where the fence is
// over.
func (t tx) giveBack(ctx context.Context, f lehr.Fence, end lehr.AttemptEnd, last *lehr.BuildError) (lehr.BuildStatus, bool, error) {
	if last == nil {
		last = &lehr.BuildError{
			Code:    codeAttemptsExhausted,
			Message: fmt.Sprintf("%d attempts were lost: their workers or hosts went away", lehr.MaxLostAttempts),
			Remedy:  "look at the hosts' health, then build again",
			Fault:   lehr.FaultPlatform,
		}
	}
	return one(ctx, t, scanValue[lehr.BuildStatus], sqlQueueGiveBack,
		string(f.BuildID), f.Attempt, flag(end == lehr.AttemptLost), lehr.MaxLostAttempts, toJSON(errorRecord(*last)))
}

// errNotExpired undoes a reap that a renewal or an end overtook.
var errNotExpired = errors.New("the attempt is not to be reaped")

// Reap implements store.Queue. Each build is a transaction of its own, so that
// a fault in the middle loses nothing that was done.
func (q queue) Reap(ctx context.Context, every bool, unplaced time.Duration) ([]lehr.Build, error) {
	const op = "store.Queue.Reap"
	query := sqlAttemptExpired
	if every {
		query = sqlAttemptRunning
	}
	fences, err := read(ctx, q.s, op, func(ctx context.Context, t tx) ([]lehr.Fence, error) {
		return all(ctx, t, scanFence, query)
	})
	if err != nil {
		return nil, err
	}
	touched := []lehr.Build{}
	for _, f := range fences {
		b, err := write(ctx, q.s, op, func(ctx context.Context, t tx) (lehr.Build, error) {
			return t.reap(ctx, f, every)
		})
		if errors.Is(err, errNotExpired) {
			continue
		}
		if err != nil {
			return touched, err
		}
		touched = append(touched, b)
	}
	late, err := q.failUnplaced(ctx, op, unplaced)
	return append(touched, late...), err
}

func (t tx) reap(ctx context.Context, f lehr.Fence, every bool) (lehr.Build, error) {
	_, ok, err := t.giveBack(ctx, f, lehr.AttemptLost, nil)
	if err != nil {
		return lehr.Build{}, err
	}
	if ok && every {
		ok, err = t.attemptEnd(ctx, f, lehr.AttemptLost)
	} else if ok {
		var n int64
		n, err = t.exec(ctx, sqlAttemptEndExpired, string(f.BuildID), f.Attempt)
		ok = n > 0
	}
	if err != nil {
		return lehr.Build{}, err
	}
	if !ok {
		return lehr.Build{}, errs.New(errs.Conflict, "%w", errNotExpired)
	}
	return t.build(ctx, f.BuildID)
}

// failUnplaced fails builds that waited for longer than unplaced; zero and
// less means for ever.
func (q queue) failUnplaced(ctx context.Context, op string, unplaced time.Duration) ([]lehr.Build, error) {
	if unplaced <= 0 {
		return nil, nil
	}
	failure := toJSON(errorRecord{
		Code:    codeUnplaced,
		Message: fmt.Sprintf("no worker took the build within %v", unplaced),
		Remedy:  "add workers or hosts, then build again",
		Fault:   lehr.FaultPlatform,
	})
	return write(ctx, q.s, op, func(ctx context.Context, t tx) ([]lehr.Build, error) {
		ids, err := all(ctx, t, scanValue[lehr.BuildID], sqlQueueUnplaced, failure, unplaced.Microseconds())
		if err != nil {
			return nil, err
		}
		failed := make([]lehr.Build, len(ids))
		for i, id := range ids {
			if failed[i], err = t.build(ctx, id); err != nil {
				return nil, err
			}
		}
		return failed, nil
	})
}
