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
// error $5 where it was number $4. It is not claimed again for $6.
const sqlQueueGiveBack = `
UPDATE template_builds
SET lost_attempts = lost_attempts + $3,
    status        = CASE WHEN $3 = 1 AND lost_attempts + 1 >= $4 THEN 'failed' ELSE 'pending' END,
    error         = CASE WHEN $3 = 1 AND lost_attempts + 1 >= $4 THEN $5 END,
    completed_at  = CASE WHEN $3 = 1 AND lost_attempts + 1 >= $4 THEN {now} END,
    registry_login = CASE WHEN $3 = 1 AND lost_attempts + 1 >= $4 THEN NULL ELSE registry_login END,
    queued_at     = {now},
    not_before    = CASE WHEN CAST($6 AS BIGINT) = 0 THEN 0 ELSE {now} + $6 END
WHERE id = $1 AND attempt = $2 AND status = 'running'
RETURNING status`

// sqlQueueTakeBack is sqlQueueGiveBack at the start of a control plane, which
// is counted apart: $3 is the most, $4 the error.
const sqlQueueTakeBack = `
UPDATE template_builds
SET taken_back   = taken_back + 1,
    status       = CASE WHEN taken_back + 1 >= $3 THEN 'failed' ELSE 'pending' END,
    error        = CASE WHEN taken_back + 1 >= $3 THEN $4 END,
    completed_at = CASE WHEN taken_back + 1 >= $3 THEN {now} END,
    registry_login = CASE WHEN taken_back + 1 >= $3 THEN NULL ELSE registry_login END,
    queued_at    = {now}
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
UPDATE template_builds SET status = 'failed', error = $1, completed_at = {now}, registry_login = NULL
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
		return t.giveBackNow(ctx, f, giveBack{end: end, last: last})
	})
}

// Defer implements store.Queue.
func (q queue) Defer(ctx context.Context, f lehr.Fence, wait time.Duration) error {
	_, err := write(ctx, q.s, "store.Queue.Defer", func(ctx context.Context, t tx) (lehr.BuildStatus, error) {
		if wait < 0 {
			return "", errs.New(errs.Invalid, "a wait cannot be negative")
		}
		return t.giveBackNow(ctx, f, giveBack{end: lehr.AttemptGivenBack, wait: wait})
	})
	return err
}

// giveBack says how an attempt is given back.
type giveBack struct {
	end  lehr.AttemptEnd
	last *lehr.BuildError // the build's, where it was the last that may be lost; nil: a usual one
	wait time.Duration    // until the build may be claimed again
}

// giveBackNow moves the build and ends the attempt.
func (t tx) giveBackNow(ctx context.Context, f lehr.Fence, g giveBack) (lehr.BuildStatus, error) {
	status, ok, err := t.giveBack(ctx, f, g)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", t.fenceError(ctx, f)
	}
	_, err = t.attemptEnd(ctx, f, g.end)
	return status, err
}

// giveBack moves the build, not the attempt. ok is false where the fence is
// over.
func (t tx) giveBack(ctx context.Context, f lehr.Fence, g giveBack) (lehr.BuildStatus, bool, error) {
	if g.last == nil {
		g.last = &lehr.BuildError{
			Code:    codeAttemptsExhausted,
			Message: fmt.Sprintf("%d attempts were lost: their workers or hosts went away", lehr.MaxLostAttempts),
			Remedy:  "look at the hosts' health, then build again",
			Fault:   lehr.FaultPlatform,
		}
	}
	return one(ctx, t, scanValue[lehr.BuildStatus], sqlQueueGiveBack,
		string(f.BuildID), f.Attempt, flag(g.end == lehr.AttemptLost), lehr.MaxLostAttempts, toJSON(errorRecord(*g.last)),
		g.wait.Microseconds())
}

// takeBack moves the build of an attempt that a start of the control plane
// ended.
func (t tx) takeBack(ctx context.Context, f lehr.Fence) (ok bool, err error) {
	last := toJSON(errorRecord{
		Code:    codeAttemptsExhausted,
		Message: fmt.Sprintf("the control plane ended %d times under this build", lehr.MaxTakenBack),
		Remedy:  "look into the server's log for what ended it, then build again",
		Fault:   lehr.FaultPlatform,
	})
	_, ok, err = one(ctx, t, scanValue[lehr.BuildStatus], sqlQueueTakeBack, string(f.BuildID), f.Attempt, lehr.MaxTakenBack, last)
	return ok, err
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
	ok, err := t.reapMove(ctx, f, every)
	if err != nil {
		return lehr.Build{}, err
	}
	if !ok {
		return lehr.Build{}, errs.New(errs.Conflict, "%w", errNotExpired)
	}
	return t.build(ctx, f.BuildID)
}

// reapMove moves the build and ends the attempt; ok is false where it is not
// to be reaped any more.
func (t tx) reapMove(ctx context.Context, f lehr.Fence, every bool) (ok bool, err error) {
	if every {
		if ok, err = t.takeBack(ctx, f); err != nil || !ok {
			return false, err
		}
		return t.attemptEnd(ctx, f, lehr.AttemptLost)
	}
	if _, ok, err = t.giveBack(ctx, f, giveBack{end: lehr.AttemptLost}); err != nil || !ok {
		return false, err
	}
	n, err := t.exec(ctx, sqlAttemptEndExpired, string(f.BuildID), f.Attempt)
	return n > 0, err
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
