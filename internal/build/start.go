package build

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// start is one START process. Its goroutine follows it until it ends, or until
// the attempt seals it because the version is about to be made; whoever comes
// first closes the step.
type start struct {
	run  *stepRun
	stop context.CancelFunc // lets go of the process, which lives on

	mu    sync.Mutex
	over  bool  // it ended, or was sealed
	fault error // why it fails the build, nil
}

// begin starts a START step and goes on at once. From now on the attempt's
// context ends when the process fails.
func (a *attempt) begin(ctx context.Context, r *stepRun) error {
	if err := r.open(ctx); err != nil {
		return err
	}
	if err := r.writeFile(ctx); err != nil {
		return r.close(ctx, err)
	}
	if err := a.hit(ctx, failpoint.StartAfterBegin); err != nil {
		return r.close(ctx, err)
	}
	r.begun = a.o.Clock.Now()
	ctx, stop := context.WithCancel(ctx)
	s := &start{run: r, stop: stop}
	a.starts = append(a.starts, s)
	a.spawn(func() { s.follow(ctx) })
	return nil
}

func (s *start) follow(ctx context.Context) {
	defer s.stop()
	r := s.run
	command := r.command()
	command.Linger = true
	exit, err := r.a.exec(ctx, command, &r.out)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	switch {
	case err != nil:
		s.fault = startFault(r.a.callFault(ctx, r.at, err))
	case exit.Code != 0:
		_, stderr := r.out.tails()
		r.entry.Exit = &exit.Code
		s.fault = userFault(ctx, r.at, CodeStartFailed, exitReason(exit, stderr))
	default:
		r.entry.Exit = &exit.Code
	}
	if err := r.close(ctx, s.fault); err != nil {
		r.a.cancel(err)
	}
}

// startFault says of a command that could not be run that START failed.
func startFault(err error) error {
	if f, ok := err.(*failure); ok && f.Code == CodeStepFailed { //nolint:errorlint // made by callFault, never wrapped
		f.Code = CodeStartFailed
	}
	return err
}

// seal ends the watch over a process that runs, or says why it failed.
func (s *start) seal(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return s.fault
	}
	s.over = true
	s.stop()
	return s.run.close(ctx, nil)
}

// lookAtStarts looks at every START once more: none may have failed, and each
// was given a moment to fail in. The question to the host makes sure that what
// it knows of the sandbox has arrived.
func (a *attempt) lookAtStarts(ctx context.Context) error {
	if len(a.starts) == 0 {
		return nil
	}
	last := a.starts[len(a.starts)-1].run
	if err := a.o.Clock.Sleep(ctx, a.o.Timing.StartSettle-last.elapsed()); err != nil {
		return err
	}
	box, err := a.host.GetSandbox(ctx, a.sandbox)
	if err != nil {
		return a.callFault(ctx, last.at, err)
	}
	if !box.State.Live() {
		return a.endFault(last.at, box)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// sealStarts ends the watch over all START processes.
func (a *attempt) sealStarts(ctx context.Context) error {
	for _, s := range a.starts {
		if err := s.seal(ctx); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// live runs what follows the boundary in one life of a fresh sandbox of image,
// and returns the version's artifacts.
func (a *attempt) live(ctx context.Context, image agent.Image) (made, error) {
	if err := a.closeSandbox(ctx); err != nil {
		return made{}, a.hostFault(ctx, err)
	}
	if err := a.hit(ctx, failpoint.LiveBeforeOpen); err != nil {
		return made{}, err
	}
	if err := a.reopen(ctx, image.Digest); err != nil {
		return made{}, err
	}
	for _, s := range a.plan.After() {
		if err := a.runStep(ctx, s); err != nil {
			return made{}, err
		}
	}
	if !a.plan.Snapshot() {
		return a.endLife(ctx)
	}
	if err := a.checkHealth(ctx, a.plan.Healthcheck); err != nil {
		return made{}, err
	}
	return a.snapshot(ctx, image)
}

// reopen makes the fresh sandbox where the image is, waiting a while for room.
func (a *attempt) reopen(ctx context.Context, image lehr.Digest) error {
	began := a.o.Clock.Now()
	for {
		err := a.openSandbox(ctx, chosen{id: a.hostID, agent: a.host}, image)
		if err == nil || !noRoom(err) {
			return err
		}
		if a.o.Clock.Now().Sub(began) >= placePatience {
			return platformFault(ctx, a.where(), CodePlatform, err)
		}
		if err := a.o.Clock.Sleep(ctx, a.o.Timing.Replace); err != nil {
			return err
		}
	}
}

// endLife ends the processes and flattens once more.
func (a *attempt) endLife(ctx context.Context) (made, error) {
	if err := a.lookAtStarts(ctx); err != nil {
		return made{}, err
	}
	if err := a.sealStarts(ctx); err != nil {
		return made{}, err
	}
	a.enter(spot{phase: lehr.PhasePublish})
	a.say(ctx, a.where(), "warning: START without a healthcheck: its processes end here, the template holds their files only")
	image, err := a.flatten(ctx)
	return made{image: image}, err
}

// snapshot makes the snapshot and looks at the START processes right before and
// after it: one that ended meanwhile is not in it as the recipe means it.
func (a *attempt) snapshot(ctx context.Context, image agent.Image) (made, error) {
	if err := a.lookAtStarts(ctx); err != nil {
		return made{}, err
	}
	a.enter(spot{phase: lehr.PhasePublish})
	if err := a.hit(ctx, failpoint.PublishBeforeArtifact); err != nil {
		return made{}, err
	}
	began := a.o.Clock.Now()
	var snap agent.Snapshot
	err := a.makeHeld(ctx, failpoint.SnapshotAfterMake, func() (lehr.Digest, error) {
		var err error
		if snap, err = a.host.CreateSnapshot(ctx, a.sandbox); err != nil {
			return "", a.callFault(ctx, a.where(), err)
		}
		return snap.Digest, nil
	})
	if err != nil {
		return made{}, err
	}
	if err := a.hit(ctx, failpoint.PublishAfterArtifact); err != nil {
		return made{}, err
	}
	if err := a.sealStarts(ctx); err != nil {
		return made{}, err
	}
	if snap.Image != "" && snap.Image != image.Digest {
		return made{}, platformFault(ctx, a.where(), CodePlatform,
			errs.New(errs.Internal, "the snapshot is of image %s instead of %s", snap.Image, image.Digest))
	}
	a.say(ctx, a.where(), "snapshot %s: %s in %v", snap.Digest, sizeText(snap.Bytes), a.o.Clock.Now().Sub(began).Round(time.Millisecond))
	return made{image: image, snapshot: &snap}, nil
}

func sizeText(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/(1<<20)) }
