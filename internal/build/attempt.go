package build

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/build/plan"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// attempt is one try of a build. Its worker's goroutine owns it; the fields
// under mu are also read by the goroutine that keeps the sandbox alive. Every
// goroutine it starts is in group and ends with its context.
type attempt struct {
	*BuildService
	build  lehr.Build
	fence  lehr.Fence
	worker string
	log    *logWriter
	cancel context.CancelCauseFunc
	group  sync.WaitGroup

	base   lehr.Tagged
	plan   plan.Plan
	avoid  []lehr.HostID // hosts that this process lost an attempt on
	hostID lehr.HostID
	info   agent.Info    // of the host
	made   []lehr.Digest // artifacts made by this attempt, published or not
	starts []*start      // running START processes

	mu      sync.Mutex
	at      spot           // where the attempt is, for errors without a step
	host    agent.Agent    // nil before a host was chosen
	sandbox lehr.SandboxID // the one that is recorded, empty before and after
}

// runAttempt carries a claimed build as far as it goes and leaves nothing
// behind. stop is the worker's context: its end gives the build back. lost says
// that the platform broke it off.
func (c *crew) runAttempt(stop context.Context, worker string, b lehr.Build) (lost bool) {
	ctx, cancel := context.WithCancelCause(stop)
	defer cancel(nil)
	a := &attempt{
		BuildService: c.BuildService, build: b, worker: worker, cancel: cancel,
		fence: lehr.Fence{BuildID: b.ID, Attempt: b.Attempt}, at: spot{phase: lehr.PhasePreBuild},
	}
	a.avoid = c.lostOn(b.ID)
	a.log = newLogWriter(a.logTarget())
	a.log.start(ctx)
	a.spawn(func() { a.keepLease(ctx) })
	a.spawn(func() { a.keepSandbox(ctx) })
	a.spawn(func() { a.limitBuild(ctx) })

	err := a.guard(func() error { return a.run(ctx) })
	v := a.verdict(ctx, stop, err)
	cancel(errAttemptOver)
	a.group.Wait()
	a.conclude(stop, v)
	lost = v.end == lehr.AttemptLost
	c.setLost(b.ID, a.hostID, lost)
	return lost
}

// run does the work of the attempt in order.
func (a *attempt) run(ctx context.Context) error {
	a.sayBegin(ctx)
	if err := a.hit(ctx, failpoint.ClaimAfterCommit); err != nil {
		return err
	}
	if err := a.settle(ctx); err != nil {
		return err
	}
	if err := a.makePlan(ctx); err != nil {
		return err
	}
	for _, s := range a.plan.Before() {
		if err := a.runStep(ctx, s); err != nil {
			return err
		}
	}
	return a.finish(ctx)
}

// sayBegin writes the line that says why the attempt starts.
func (a *attempt) sayBegin(ctx context.Context) {
	if a.fence.Attempt == 1 {
		a.say(ctx, a.where(), "attempt 1 begins on worker %s", a.worker)
		return
	}
	a.say(ctx, a.where(), "attempt %d begins on worker %s: the one before did not end the build (%d of at most %d lost)",
		a.fence.Attempt, a.worker, a.build.LostAttempts, lehr.MaxLostAttempts)
}

// spawn runs f in a goroutine of the attempt; a panic in it ends the attempt.
func (a *attempt) spawn(f func()) {
	a.group.Go(func() {
		if err := a.guard(func() error { f(); return nil }); err != nil {
			a.cancel(err)
		}
	})
}

// guard turns a panic into a failure of this build alone.
func (a *attempt) guard(f func() error) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		a.o.Log.Error("panic in a build", "build", a.build.ID, "attempt", a.fence.Attempt, "panic", p, "stack", string(debug.Stack()))
		fault := buildError(a.where(), lehr.FaultPlatform, CodePanic, "a fault in Lehr ended the build")
		err = &failure{BuildError: fault, final: true, cause: fmt.Errorf("panic: %v", p)}
	}()
	return f()
}

// hit passes a failpoint; an injected error is the platform's.
func (a *attempt) hit(ctx context.Context, p failpoint.Point) error {
	if err := failpoint.Hit(ctx, p); err != nil {
		return platformFault(ctx, a.where(), CodePlatform, err)
	}
	return nil
}

// verdict is what becomes of the attempt.
type verdict struct {
	status lehr.BuildStatus // success, failed, pending (given back), or empty: nothing to write
	end    lehr.AttemptEnd  // with pending
	wait   time.Duration    // with pending: until the build may be claimed again
	fault  *lehr.BuildError
	line   string // the attempt's last words
}

// verdict judges run's error. An error of the attempt's own counts first; then
// why its context ended.
func (a *attempt) verdict(ctx, stop context.Context, err error) verdict {
	var f *failure
	var none *noPlace
	own := errors.As(err, &f)
	if err != nil && !own && ctx.Err() != nil {
		err = context.Cause(ctx)
		own = errors.As(err, &f)
	}
	switch {
	case err == nil:
		return verdict{status: lehr.BuildSuccess}
	case own:
		return f.verdict()
	case errors.Is(err, errAttemptOver):
		return verdict{line: a.overWords(ctx)}
	case errors.Is(err, errLeaseLost):
		return verdict{line: "the attempt lost its lease: " + err.Error()}
	case errors.Is(err, errBuildTimeout):
		fault := a.timeoutError()
		return verdict{status: lehr.BuildFailed, fault: &fault, line: fault.Message}
	case errors.As(err, &none):
		line := fmt.Sprintf("waiting for a host: %s; the next try is in %v", none.why, none.wait.Round(time.Second))
		return verdict{status: lehr.BuildPending, end: lehr.AttemptGivenBack, wait: none.wait, line: line}
	case stop.Err() != nil:
		return verdict{status: lehr.BuildPending, end: lehr.AttemptGivenBack, line: "the worker stops; the build goes back to the queue"}
	}
	fault := buildError(a.where(), lehr.FaultPlatform, CodePlatform, safeMessage(err))
	return (&failure{BuildError: fault}).verdict()
}

func (f *failure) verdict() verdict {
	if f.Fault == lehr.FaultUser || f.final {
		return verdict{status: lehr.BuildFailed, fault: &f.BuildError, line: f.Message}
	}
	return verdict{
		status: lehr.BuildPending, end: lehr.AttemptLost, fault: &f.BuildError,
		line: "attempt lost by a fault of the platform: " + f.Message,
	}
}

// overWords says why an attempt ended that did not end itself.
func (a *attempt) overWords(ctx context.Context) string {
	row, cancel := a.rowContext(ctx)
	defer cancel()
	b, err := a.o.Store.Builds().Get(row, "", a.build.ID)
	switch {
	case err == nil && b.Status == lehr.BuildCancelled:
		return "the build was cancelled"
	case err == nil && b.Attempt == a.fence.Attempt:
		return fmt.Sprintf("the attempt is over: the build is %s", b.Status)
	}
	return "the attempt was taken over"
}

func (a *attempt) timeoutError() lehr.BuildError {
	return buildError(a.where(), lehr.FaultUser, CodeBuildTimeout,
		fmt.Sprintf("the build exceeded its time limit of %v", a.buildLimit()))
}

// conclude makes the last lines durable, records the end, takes away what the
// attempt made, and records that too. Whatever fails here is left to the reaper
// and the sweeper.
func (a *attempt) conclude(ctx context.Context, v verdict) {
	log := a.o.Log.With("build", a.build.ID, "attempt", a.fence.Attempt)
	flush, cancel := a.rowContext(ctx)
	if v.line != "" {
		a.say(flush, a.where(), "%s", v.line)
	}
	a.log.flush(flush)
	cancel()
	if err := failpoint.Hit(ctx, failpoint.EndBeforeRecord); err != nil {
		log.Warn("before the end of an attempt is recorded", "error", err)
	}
	if err := a.record(ctx, v); err != nil && !errors.Is(err, errAttemptOver) {
		log.Warn("recording the end of an attempt", "error", err)
	}
	if err := failpoint.Hit(ctx, failpoint.EndAfterRecord); err != nil {
		log.Warn("after the end of an attempt was recorded", "error", err)
	}
	a.announce(ctx, a.build.ID)
	err := a.cleanUp(ctx)
	a.log.close()
	if err != nil {
		log.Warn("cleaning up after an attempt", "error", err)
		return
	}
	if err := a.markClean(ctx, a.fence); err != nil {
		log.Warn("recording a clean-up", "error", err)
	}
	log.Info("attempt ended", "status", v.status, "end", v.end, "words", v.line)
}

// record writes the verdict; success was written when the version was
// published.
func (a *attempt) record(ctx context.Context, v verdict) error {
	row, cancel := a.rowContext(ctx)
	defer cancel()
	switch v.status {
	case lehr.BuildFailed:
		return a.row(row, func(ctx context.Context) error {
			return a.o.Store.Queue().Finish(ctx, a.fence, store.Finish{Status: lehr.BuildFailed, Error: v.fault})
		})
	case lehr.BuildPending:
		if v.wait > 0 {
			return a.row(row, func(ctx context.Context) error { return a.o.Store.Queue().Defer(ctx, a.fence, v.wait) })
		}
		var status lehr.BuildStatus
		err := a.row(row, func(ctx context.Context) (err error) {
			status, err = a.o.Store.Queue().GiveBack(ctx, a.fence, v.end, v.fault)
			return err
		})
		if err == nil && status == lehr.BuildPending {
			a.push(ctx, a.build.ID)
		}
		return err
	}
	return nil
}

// row runs one write to the store, again where the store is not available, for
// as long as a clean-up write may take. A refused fence ends the attempt.
func (a *attempt) row(ctx context.Context, write func(context.Context) error) error {
	deadline := a.o.Clock.Now().Add(a.o.Timing.RowClean)
	for {
		err := write(ctx)
		switch {
		case err == nil:
			return nil
		case errs.IsKind(err, errs.Conflict), errs.IsKind(err, errs.NotFound):
			return fmt.Errorf("%w: %w", errAttemptOver, err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errs.IsKind(err, errs.Unavailable) || a.o.Clock.Now().After(deadline):
			return platformFault(ctx, a.where(), CodePlatform, err)
		}
		if err := a.o.Clock.Sleep(ctx, appendAgain); err != nil {
			return err
		}
	}
}

// cleanUp destroys the attempt's sandbox and the artifacts that no version
// names.
func (a *attempt) cleanUp(ctx context.Context) error {
	if err := failpoint.Hit(ctx, failpoint.CleanBeforeDestroy); err != nil {
		return err
	}
	if err := a.closeSandbox(ctx); err != nil {
		return err
	}
	ctx, cancel := a.hostContext(ctx)
	defer cancel()
	if err := failpoint.Hit(ctx, failpoint.CleanBeforeArtifacts); err != nil {
		return err
	}
	host, _ := a.place()
	for _, d := range a.made {
		if err := a.removeMade(ctx, host, store.Held{Host: a.hostID, Digest: d}, a.fence); err != nil {
			return err
		}
	}
	return nil
}
