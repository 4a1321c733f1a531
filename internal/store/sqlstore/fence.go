package sqlstore

import (
	"context"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const sqlFenceGet = `
SELECT status, attempt, cleaned_attempt FROM template_builds WHERE id = $1`

// fenceError says why a statement under the fence found no row.
func (t tx) fenceError(ctx context.Context, f lehr.Fence) error {
	type state struct {
		status           lehr.BuildStatus
		attempt, cleaned int32
	}
	scan := func(row scanner) (s state, err error) { return s, row.Scan(&s.status, &s.attempt, &s.cleaned) }
	s, ok, err := one(ctx, t, scan, sqlFenceGet, string(f.BuildID))
	switch {
	case err != nil:
		return err
	case !ok:
		return unknownBuild(f.BuildID)
	case f.Attempt < 1 || f.Attempt > s.attempt:
		return errs.New(errs.NotFound, "build %s has no attempt %d", f.BuildID, f.Attempt)
	case f.Attempt < s.attempt:
		return errs.New(errs.Conflict, "attempt %d of build %s was followed by attempt %d", f.Attempt, f.BuildID, s.attempt).
			WithCode(codeAttemptOver)
	case s.cleaned >= f.Attempt:
		return errs.New(errs.Conflict, "attempt %d of build %s is cleaned up; the build is %s", f.Attempt, f.BuildID, s.status).
			WithCode(codeAttemptOver)
	default:
		return errs.New(errs.Conflict, "attempt %d is over; build %s is %s", f.Attempt, f.BuildID, s.status).
			WithCode(codeAttemptOver)
	}
}
