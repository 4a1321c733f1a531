package host

import (
	"context"
	"errors"
	"time"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
)

// How long a guest daemon may be silent while a call waits for it. Whoever is
// root in a sandbox can stop the daemon with a signal; a sandbox that has too
// much to do answers late, but it answers.
const (
	silenceLook  = 15 * time.Second // from one look to the next, and the time each gets
	silenceLooks = 4                // that fail one after the other
)

// CodeGuestSilent says that a call was given up because the guest daemon stands
// still, which only its own sandbox can bring about.
const CodeGuestSilent = "guest_silent"

var errSilent = errs.New(errs.Unavailable, "the guest daemon has not answered for %s", silenceLooks*silenceLook).
	WithCode(CodeGuestSilent).
	WithRemedy("continue or do not stop process 1 of the sandbox, or kill the sandbox and create another one")

// hearing runs f, and ends it with errSilent when the guest daemon stands still.
// The looks of a sandbox that does not run, for it is paused, do not count.
type hearing struct {
	clock   clock.Clock
	running func() bool
	health  func(context.Context) error
}

func (g hearing) run(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if g.listen(ctx) {
			cancel(errSilent)
		}
	}()
	err := f(ctx)
	cancel(context.Canceled)
	<-done
	if errors.Is(context.Cause(ctx), errSilent) && err != nil {
		return errSilent
	}
	return err
}

// listen looks at the daemon until ctx ends, which it reports as false, or the
// daemon has been silent for too long.
func (g hearing) listen(ctx context.Context) (silent bool) {
	tick := g.clock.NewTicker(silenceLook)
	defer tick.Stop()
	var answer chan error // of the look under way
	stop := func() {}
	defer func() { stop() }()
	for missed := 0; missed < silenceLooks; {
		select {
		case <-tick.C():
		case err := <-answer:
			answer = nil
			if err == nil {
				missed = 0
			}
			continue
		case <-ctx.Done():
			return false
		}
		if answer != nil {
			missed++
		}
		if stop(); !g.running() {
			missed = 0
		}
		answer = make(chan error, 1)
		look, cancel := context.WithCancel(ctx)
		stop = cancel
		go func(answer chan<- error) { answer <- g.health(look) }(answer)
	}
	return true
}
