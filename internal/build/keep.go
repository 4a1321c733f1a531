package build

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/bus"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// sandboxLeases is the time-to-live of a build's sandbox in leases: it outlives
// a lost control plane by no more.
const sandboxLeases = 4

// keepLease renews the attempt's lease, and looks at once when a cancel is
// signalled. It ends the attempt when the lease is refused, or in time before
// it ends by itself, because then another worker may begin.
func (a *attempt) keepLease(ctx context.Context) {
	t := a.o.Timing
	tick := a.o.Clock.NewTicker(t.Renew)
	defer tick.Stop()
	var cancelled <-chan struct{}
	renewed := a.o.Clock.Now() // the claim, no later than that
	for {
		if cancelled == nil {
			cancelled = a.subscribeCancel(ctx)
		}
		began := a.o.Clock.Now()
		switch err := a.renewLease(ctx, renewed.Add(t.Lease-t.Renew/2).Sub(began)); {
		case ctx.Err() != nil:
			return
		case err == nil:
			renewed = began
		case errs.IsKind(err, errs.Conflict), errs.IsKind(err, errs.NotFound):
			a.cancel(fmt.Errorf("%w: %w", errAttemptOver, err))
			return
		case a.o.Clock.Now().Sub(renewed)+t.Renew >= t.Lease:
			a.cancel(fmt.Errorf("%w: %w", errLeaseLost, err))
			return
		}
		select {
		case <-tick.C():
		case <-cancelled:
		case <-ctx.Done():
			return
		}
	}
}

// renewLease gives up a little before the lease ends.
func (a *attempt) renewLease(ctx context.Context, left time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	return a.o.Store.Queue().Renew(ctx, a.fence, a.o.Timing.Lease)
}

func (a *attempt) subscribeCancel(ctx context.Context) <-chan struct{} {
	c, err := a.o.Bus.Subscribe(ctx, bus.CancelTopic(a.build.ID))
	if err != nil && ctx.Err() == nil {
		a.o.Log.Debug("cancels come by heartbeat only", "build", a.build.ID, "error", err)
	}
	return c
}

// keepSandbox renews the time-to-live of the attempt's sandbox. A host that did
// not answer for a lease's time is lost, and so is the attempt.
func (a *attempt) keepSandbox(ctx context.Context) {
	tick := a.o.Clock.NewTicker(a.o.Timing.Renew)
	defer tick.Stop()
	heard := a.o.Clock.Now()
	for {
		select {
		case <-tick.C():
		case <-ctx.Done():
			return
		}
		err := a.renewSandbox(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil || !hostSilent(err):
			heard = a.o.Clock.Now()
		case a.o.Clock.Now().Sub(heard) >= a.o.Timing.Lease:
			a.cancel(&failure{BuildError: buildError(a.where(), lehr.FaultPlatform, CodeHostLost,
				"the host does not answer any more"), cause: err})
			return
		}
	}
}

func (a *attempt) renewSandbox(ctx context.Context) error {
	host, id := a.place()
	if host == nil || id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.o.Timing.Renew)
	defer cancel()
	return host.RenewSandbox(ctx, id, a.sandboxTTL())
}

func (a *attempt) sandboxTTL() time.Duration { return sandboxLeases * a.o.Timing.Lease }

// hostSilent tells a host that does not answer from one that refuses: what a
// refusal means is found out by the call that needs the sandbox.
func hostSilent(err error) bool {
	kind := errs.KindOf(err)
	return kind == errs.Unavailable || kind == errs.Timeout || kind == errs.Cancelled || kind == errs.Internal
}

// limitBuild ends the attempt at the build's time limit.
func (a *attempt) limitBuild(ctx context.Context) {
	if a.o.Clock.Sleep(ctx, a.buildLimit()) == nil {
		a.cancel(errBuildTimeout)
	}
}

func (a *attempt) buildLimit() time.Duration {
	if d := a.build.Spec.Limits.Build; d > 0 {
		return d
	}
	return lehr.DefaultLimits.Build
}

// place returns the host and the present sandbox of the attempt.
func (a *attempt) place() (agent.Agent, lehr.SandboxID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.host, a.sandbox
}

// where is the part of the build that runs.
func (a *attempt) where() spot {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at
}

// enter says which part of the build runs from now on.
func (a *attempt) enter(at spot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = at
}

func (a *attempt) setPlace(host agent.Agent, id lehr.SandboxID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.host, a.sandbox = host, id
}

// logTarget connects the attempt's log to the store and the bus.
func (a *attempt) logTarget() logTarget {
	return logTarget{
		clock: a.o.Clock,
		retry: a.o.Timing.RowClean,
		append: func(ctx context.Context, lines []lehr.LogLine) error {
			if _, err := a.o.Store.Logs().Append(ctx, a.fence, lines); err != nil {
				return err
			}
			return a.guard(func() error { return a.hit(ctx, failpoint.LogAfterAppend) })
		},
		publish: func(ctx context.Context) { a.announce(ctx, a.build.ID) },
		broken:  a.logBroken,
	}
}

// logBroken ends the attempt whose log cannot be kept.
func (a *attempt) logBroken(err error) {
	if errs.IsKind(err, errs.Conflict) || errs.IsKind(err, errs.NotFound) {
		a.cancel(fmt.Errorf("%w: %w", errAttemptOver, err))
		return
	}
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{BuildError: buildError(a.where(), lehr.FaultPlatform, CodePlatform,
			"the log cannot be written"), cause: err}
	}
	a.cancel(f)
}

// say puts a line of Lehr's own words into the log.
func (a *attempt) say(ctx context.Context, at spot, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	var l lineSplitter
	emit := func(line string) {
		a.log.put(ctx, lehr.LogLine{Phase: at.phase, Step: at.step, Stream: lehr.StreamSystem, Text: line})
	}
	l.write([]byte(text), emit)
	l.flush(emit)
}
