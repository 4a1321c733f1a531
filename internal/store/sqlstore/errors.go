package sqlstore

import (
	"context"
	"errors"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// CodeSchemaNewer is the code of the error that Migrate returns for a database
// written by a newer release.
const CodeSchemaNewer = "schema_newer"

// Codes of what does not exist.
const (
	codeBuildUnknown    = "build_not_found"
	codeSandboxUnknown  = "sandbox_not_found"
	codeTemplateUnknown = "template_not_found"
	codeKeyUnknown      = "key_not_found"
	codeTeamUnknown     = "team_not_found"
)

func unknownBuild(id lehr.BuildID) error {
	return errs.New(errs.NotFound, "there is no build %.80s", id).WithCode(codeBuildUnknown).
		WithRemedy("`lehr builds ls` lists them")
}

// unknownTeam takes an id or a name.
func unknownTeam(team string) error {
	return errs.New(errs.NotFound, "there is no team %.80s", team).WithCode(codeTeamUnknown).
		WithRemedy("`lehr teams ls` lists them")
}

// Codes of conflicts that callers tell apart.
const (
	codeAttemptOver   = "attempt_over"         // the fence is another attempt's, or the build ended
	codeBuildFinished = "build_finished"       // cancel came too late
	codeKeyReused     = "idempotency_mismatch" // the same key with another request
	codeInUse         = "in_use"               // live sandboxes use it
	codeIllegalMove   = "illegal_move"         // the sandbox's state has no such move
)

// explain turns err into an *errs.Error with op. Errors of ours keep kind,
// code and message; a driver's are classified and hidden from callers.
func (s *Store) explain(ctx context.Context, op string, err error) error {
	var ours *errs.Error
	if errors.As(err, &ours) {
		if ours.Op == "" {
			ours = ours.WithOp(op)
		}
		return ours
	}
	if ctx.Err() != nil {
		return errs.Wrap(err, errs.KindOf(ctx.Err()), op, "the caller left before the database answered")
	}
	switch s.dialect.Classify(err) {
	case TroubleUnique:
		return errs.Wrap(err, errs.Exists, op, "it exists already")
	case TroubleReference:
		return errs.Wrap(err, errs.NotFound, op, "what it refers to does not exist")
	case TroubleValue:
		return errs.Wrap(err, errs.Invalid, op, "the database refuses a value")
	case TroubleUnavailable:
		return errs.Wrap(err, errs.Unavailable, op, "the database is unavailable")
	default:
		return errs.Wrap(err, errs.Internal, op, "the database failed")
	}
}

// is reports whether err is the driver's way to say t.
func (s *Store) is(err error, t Trouble) bool {
	return err != nil && s.dialect.Classify(err) == t
}

// maxPage bounds the entries of a page.
const maxPage = 1000

// checkLimit refuses page sizes outside of 1 to maxPage.
func checkLimit(limit int) error {
	if limit < 1 || limit > maxPage {
		return errs.New(errs.Invalid, "limit is %d; it must be from 1 to %d", limit, maxPage).WithField("limit")
	}
	return nil
}

// sweepLimit is checkLimit for internal sweeps, which may ask for any number
// and come again for what is left.
func sweepLimit(limit int) (int, error) {
	if limit < 1 {
		return 0, errs.New(errs.Invalid, "limit is %d; it must be positive", limit).WithField("limit")
	}
	return min(limit, 10*maxPage), nil
}
