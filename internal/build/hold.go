package build

import (
	"context"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// codeCondemned is of artifacts that are being removed.
const codeCondemned = "artifact_condemned"

// makeTries bounds how often an artifact is made again that was removed before
// it could be claimed: the same content was garbage a moment ago.
const makeTries = 3

// hold claims an artifact on the attempt's host until the attempt is clean. It
// waits while the artifact is being removed. What was there before may be gone
// after that, so the caller looks.
func (a *attempt) hold(ctx context.Context, d lehr.Digest, made bool) error {
	began := a.o.Clock.Now()
	for {
		condemned := false
		err := a.row(ctx, func(ctx context.Context) error {
			err := a.o.Store.Templates().Claim(ctx, a.fence, store.Held{Host: a.hostID, Digest: d, Made: made})
			if condemned = errs.CodeOf(err) == codeCondemned; condemned {
				return nil
			}
			return err
		})
		switch {
		case err != nil:
			return err
		case !condemned:
			return a.hit(ctx, failpoint.HoldAfterCommit)
		case a.o.Clock.Now().Sub(began) >= a.o.Timing.HostClean:
			return platformFault(ctx, a.where(), CodePlatform, errs.New(errs.Unavailable, "%s is being removed for too long", d))
		}
		if err := a.o.Clock.Sleep(ctx, appendAgain); err != nil {
			return err
		}
	}
}

// makeHeld makes an artifact, again where it was removed as garbage of the same
// content before the attempt could claim it.
func (a *attempt) makeHeld(ctx context.Context, after failpoint.Point, produce func() (lehr.Digest, error)) error {
	for range makeTries {
		d, err := produce()
		if err != nil {
			return err
		}
		a.made = append(a.made, d)
		if err := a.hit(ctx, after); err != nil {
			return err
		}
		if err := a.hold(ctx, d, true); err != nil {
			return err
		}
		there, err := a.host.HasArtifact(ctx, d)
		if err != nil {
			return a.callFault(ctx, a.where(), err)
		}
		if there {
			return nil
		}
	}
	return platformFault(ctx, a.where(), CodePlatform, errs.New(errs.Unavailable, "what was made was removed %d times", makeTries))
}

// removeMade removes an artifact that the ended attempt by made, unless a
// version names it or another attempt works with it: the same content may have
// been made before. What a sandbox uses is left to the garbage collection.
func (s *BuildService) removeMade(ctx context.Context, host agent.Agent, h store.Held, by lehr.Fence) error {
	garbage := s.o.Store.Templates()
	if used, err := garbage.Referenced(ctx, h.Digest); err != nil || used {
		return err
	}
	if err := garbage.Condemn(ctx, h, by); err != nil {
		if errs.IsKind(err, errs.Conflict) {
			return nil // needed, or going already
		}
		return err
	}
	if err := host.RemoveArtifact(ctx, h.Digest); err != nil && !errs.IsKind(err, errs.Conflict) {
		return err // the garbage collection ends what was begun
	}
	return garbage.Absolve(ctx, h)
}
