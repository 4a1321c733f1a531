package build

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// flaky is a store whose queue fails as a test says.
type flaky struct {
	store.Store
	mu   sync.Mutex
	fail map[string]error // by method
}

func (f *flaky) set(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		f.fail = map[string]error{}
	}
	f.fail[method] = err
}

func (f *flaky) err(method string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail[method]
}

func (f *flaky) Queue() store.Queue { return flakyQueue{f.Store.Queue(), f} }

type flakyQueue struct {
	store.Queue
	f *flaky
}

func (q flakyQueue) Renew(ctx context.Context, f lehr.Fence, lease time.Duration) error {
	if err := q.f.err("Renew"); err != nil {
		return err
	}
	return q.Queue.Renew(ctx, f, lease)
}

// Finish can commit and lose the answer.
func (q flakyQueue) Finish(ctx context.Context, f lehr.Fence, end store.Finish) error {
	err := q.Queue.Finish(ctx, f, end)
	if lost := q.f.err("Finish"); lost != nil && err == nil {
		return lost
	}
	return err
}

// Fault 6 of the original: a graceful stop leaves no build running behind.
func TestGracefulStopGivesTheBuildBack(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = runs(time.Minute)
		stop := w.work(w.svc, WorkerOptions{Name: "one"})
		b := w.create(w.request("RUN work"))
		time.Sleep(10 * time.Second)
		begun := time.Now()
		stop()
		if got := time.Since(begun); got > 30*time.Second {
			t.Errorf("the stop took %v, want at most 30s", got)
		}
		if got := w.get(b.ID); got.Status != lehr.BuildPending || got.LostAttempts != 0 {
			t.Errorf("status = %q with %d lost, want pending with none", got.Status, got.LostAttempts)
		}
		w.wantNothingLeft()
		w.work(w.service(), WorkerOptions{Name: "two"})
		b = w.wait(b.ID)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		log := strings.Join(w.lines(b.ID), "\n")
		if !strings.Contains(log, "the worker stops") || !strings.Contains(log, "attempt 2 begins on worker two") {
			t.Errorf("log does not say why attempt 2 began:\n%s", log)
		}
		w.wantGapless(b.ID)
	})
}

// Fault 1 of the original: a build whose worker died runs again, and what was
// left is cleaned up.
func TestLostWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		b := w.create(w.request("RUN work"))
		dead, ok, err := w.store.Queue().Claim(w.ctx(), "dead", 15*time.Second)
		if err != nil || !ok {
			t.Fatalf("Claim() = %v, %v", ok, err)
		}
		f := lehr.Fence{BuildID: dead.ID, Attempt: dead.Attempt}
		w.orphan(f)
		begun := time.Now()
		w.work(w.svc, WorkerOptions{})
		for w.get(b.ID).Attempt < 2 {
			time.Sleep(100 * time.Millisecond)
		}
		if got := time.Since(begun); got > 20*time.Second {
			t.Errorf("the build ran again after %v, want at most 20s", got)
		}
		b = w.wait(b.ID)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if b.LostAttempts != 1 {
			t.Errorf("%d lost attempts, want 1", b.LostAttempts)
		}
		w.wantNothingLeft()
	})
}

// orphan makes the sandbox of an attempt whose worker is gone.
func (w *world) orphan(f lehr.Fence) {
	w.t.Helper()
	image, err := w.host().MakeMinimal(w.ctx())
	if err != nil {
		w.t.Fatal(err)
	}
	id := lehr.NewSandboxID()
	if err := w.store.Queue().Place(w.ctx(), f, w.host().ID, id); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.host().CreateSandbox(w.ctx(), agent.CreateSandbox{ID: id, Image: image.Digest, Fence: f}); err != nil {
		w.t.Fatal(err)
	}
}

// The embedded default takes everything back at once when it starts.
func TestEmbeddedStartTakesLeasesBack(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		b := w.create(w.request("RUN work"))
		dead, _, err := w.store.Queue().Claim(w.ctx(), "earlier life", 15*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		w.orphan(lehr.Fence{BuildID: dead.ID, Attempt: dead.Attempt})
		begun := time.Now()
		w.work(w.svc, WorkerOptions{Embedded: true})
		w.wantEnd(w.wait(b.ID), lehr.BuildSuccess, "", "")
		if got := time.Since(begun); got > 2*time.Second {
			t.Errorf("done after %v, want at most 2s", got)
		}
		w.wantNothingLeft()
	})
}

// A worker that cannot renew its lease stops before it ends, and what it does
// late is refused.
func TestLostLeaseEndsTheAttempt(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		broken := &flaky{Store: w.store}
		broken.set("Renew", errs.New(errs.Unavailable, "cut off"))
		first := New(Options{Store: broken, Bus: w.bus, Scheduler: w, Pool: w, Bases: w})
		ended := make(chan time.Time, 2)
		w.host().Run = func(ctx context.Context, _ agent.Exec, _ agent.Output) (agent.Exit, error) {
			select {
			case <-ctx.Done():
				ended <- time.Now()
				return agent.Exit{}, context.Cause(ctx)
			case <-time.After(40 * time.Second):
				return agent.Exit{}, nil
			}
		}
		stop := w.work(first, WorkerOptions{Workers: 1, Name: "cut off"})
		b := w.create(w.request("RUN work"))
		begun := time.Now()
		if got := (<-ended).Sub(begun); got >= 15*time.Second {
			t.Errorf("the command was ended after %v, want before the lease of 15s", got)
		}
		broken.set("Renew", nil)
		time.Sleep(time.Second)
		stop()
		w.work(w.svc, WorkerOptions{Name: "other"})
		b = w.wait(b.ID)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if b.Attempt < 2 || w.versions("web") != 1 {
			t.Errorf("attempt %d, %d versions, want a later attempt and one version", b.Attempt, w.versions("web"))
		}
		w.wantNothingLeft()
	})
}

// An attempt that was reaped behind its worker's back cannot publish.
func TestReapedAttemptCannotPublish(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		armed := w.fails.Arm(failpoint.PublishBeforeCommit, failpoint.Pause, 1)
		w.work(w.svc, WorkerOptions{Workers: 1})
		b := w.create(w.request("RUN work"))
		<-armed.Reached()
		if _, err := w.store.Queue().Reap(w.ctx(), true, 0); err != nil {
			t.Fatal(err)
		}
		armed.Resume()
		b = w.wait(b.ID)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if b.Attempt != 2 || w.versions("web") != 1 {
			t.Errorf("attempt %d, %d versions, want 2 and 1", b.Attempt, w.versions("web"))
		}
		w.wantNothingLeft()
	})
}

// A commit whose answer got lost is a success, and its artifact stays.
func TestLostAnswerOfTheCommit(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		broken := &flaky{Store: w.store}
		broken.set("Finish", errs.New(errs.Unavailable, "the connection broke"))
		w.work(New(Options{Store: broken, Bus: w.bus, Scheduler: w, Pool: w, Bases: w}), WorkerOptions{Embedded: true})
		b := w.build(w.request("RUN work"))
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if ok, _ := w.host().HasArtifact(w.ctx(), b.Artifact.ImageDigest); !ok {
			t.Errorf("image %s of the published version is gone", b.Artifact.ImageDigest)
		}
		if log := strings.Join(w.lines(b.ID), "\n"); !strings.Contains(log, "published web:default") {
			t.Errorf("the log does not say that the version was published:\n%s", log)
		}
	})
}

// Fault 2 of the original: a dead bus costs the poll interval only.
func TestBuildsRunWithoutABus(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.bus.setCut(true)
		w.work(w.svc, WorkerOptions{})
		time.Sleep(500 * time.Millisecond)
		begun := time.Now()
		b := w.build(w.request("RUN work"))
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if got := time.Since(begun); got > 3*time.Second {
			t.Errorf("it took %v, want at most a poll interval more", got)
		}
	})
}

// Fault 7 of the original: an id that is queued twice is built once.
func TestDoubledWakeUpBuildsOnce(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = runs(time.Minute)
		b := w.create(w.request("RUN work"))
		for range 5 {
			if err := w.bus.PushBuild(w.ctx(), b.ID); err != nil {
				t.Fatal(err)
			}
		}
		w.work(w.svc, WorkerOptions{Workers: 4})
		b = w.wait(b.ID)
		if b.Attempt != 1 || w.versions("web") != 1 {
			t.Errorf("attempt %d, %d versions, want one of each", b.Attempt, w.versions("web"))
		}
	})
}

// A host that stops answering loses the attempt after a lease's time, although
// the command's own connection hangs.
func TestSilentHostLosesTheAttempt(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		silent := false
		var mu sync.Mutex
		w.host().Hook = func(ctx context.Context, method string, _ lehr.SandboxID) error {
			mu.Lock()
			defer mu.Unlock()
			if silent && method == "RenewSandbox" {
				return errs.New(errs.Unavailable, "no route to host")
			}
			return nil
		}
		w.host().Run = func(ctx context.Context, _ agent.Exec, _ agent.Output) (agent.Exit, error) {
			mu.Lock()
			first := !silent
			silent = true
			mu.Unlock()
			if !first {
				return agent.Exit{}, nil
			}
			<-ctx.Done()
			return agent.Exit{}, context.Cause(ctx)
		}
		w.work(w.svc, WorkerOptions{Workers: 1, Embedded: true})
		begun := time.Now()
		b := w.build(w.request("RUN work"))
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if got := time.Since(begun); b.Attempt != 2 || got > time.Minute {
			t.Errorf("attempt %d after %v, want the second within a minute", b.Attempt, got)
		}
	})
}

func TestBuildWaitsForAHost(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.setFull(errs.New(errs.Unavailable, "no host").WithCode("no_host"))
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.create(w.request("RUN work"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.get(b.ID); got.Status != lehr.BuildPending || got.Attempt != 0 {
			t.Errorf("status = %q, attempt %d, want pending before the first", got.Status, got.Attempt)
		}
		w.setFull(nil)
		w.wantEnd(w.wait(b.ID), lehr.BuildSuccess, "", "")
	})
}

// unplaced is how long these tests let a build wait for a host, instead of the
// 40 minutes of DefaultTiming.
const unplaced = 2 * time.Minute

func TestUnplacedBuildFails(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.setFull(errs.New(errs.Unavailable, "no host").WithCode("no_host"))
		w.work(New(Options{
			Store: w.store, Bus: w.bus, Scheduler: w, Pool: w, Bases: w, Timing: Timing{Unplaced: unplaced},
		}), WorkerOptions{Embedded: true})
		begun := time.Now()
		b := w.build(w.request("RUN work"))
		w.wantEnd(b, lehr.BuildFailed, CodeUnplaced, lehr.FaultPlatform)
		if got := time.Since(begun); got < unplaced || got > unplaced+20*time.Second {
			t.Errorf("failed after %v, want %v", got, unplaced)
		}
	})
}

// tight is a scheduler that has room for nothing but the question whether a
// host is ready.
type tight struct{ *world }

func (s tight) SelectHost(ctx context.Context, p lehr.Placement) (lehr.HostID, error) {
	if p.Resources != (lehr.Resources{}) {
		return "", errs.New(errs.Exhausted, "no host can take it").WithCode("no_room")
	}
	return s.world.SelectHost(ctx, p)
}

func TestBuildThatNeverFitsFails(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		svc := New(Options{Store: w.store, Bus: w.bus, Scheduler: tight{w}, Pool: w, Bases: w, Timing: Timing{Unplaced: unplaced}})
		w.work(svc, WorkerOptions{Embedded: true})
		begun := time.Now()
		b := w.build(w.request("RUN work"))
		w.wantEnd(b, lehr.BuildFailed, CodeUnplaced, lehr.FaultPlatform)
		if got := time.Since(begun); got < unplaced || got > unplaced+20*time.Second || b.LostAttempts != 0 {
			t.Errorf("failed after %v with %d lost attempts, want %v and none", got, b.LostAttempts, unplaced)
		}
		if log := strings.Join(w.lines(b.ID), "\n"); !strings.Contains(log, "waiting for a host: no host can take it") {
			t.Errorf("the log does not say what the build waits for:\n%.500s", log)
		}
	})
}

// picky is a scheduler whose hosts are all too small.
type picky struct{ *world }

func (s picky) SelectHost(ctx context.Context, p lehr.Placement) (lehr.HostID, error) {
	if p.Resources != (lehr.Resources{}) {
		return "", errs.New(errs.Exhausted, "every host is too small").WithCode("no_fit")
	}
	return s.world.SelectHost(ctx, p)
}

// A build that is too large for every host fails soon, and by the name of that.
func TestBuildTooLargeForEveryHostFails(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		svc := New(Options{Store: w.store, Bus: w.bus, Scheduler: picky{w}, Pool: w, Bases: w})
		w.work(svc, WorkerOptions{Embedded: true})
		begun := time.Now()
		b := w.build(w.request("RUN work"))
		w.wantEnd(b, lehr.BuildFailed, CodeTooLarge, lehr.FaultUser)
		if got := time.Since(begun); got < DefaultTiming.Unfit || got > 2*DefaultTiming.Unfit {
			t.Errorf("failed after %v, want %v", got, DefaultTiming.Unfit)
		}
	})
}

// crowded is a scheduler that has no room for large builds.
type crowded struct{ *world }

func (s crowded) SelectHost(ctx context.Context, p lehr.Placement) (lehr.HostID, error) {
	if p.Resources.MemoryMB > lehr.DefaultResources.MemoryMB {
		return "", errs.New(errs.Exhausted, "no host can take it").WithCode("no_room")
	}
	return s.world.SelectHost(ctx, p)
}

// A build that waits for room holds no worker: with one worker, ten of them let
// a small one pass.
func TestWaitingBuildsHoldNoWorker(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		svc := New(Options{Store: w.store, Bus: w.bus, Scheduler: crowded{w}, Pool: w, Bases: w})
		w.work(svc, WorkerOptions{Embedded: true, Workers: 1})
		large := lehr.DefaultResources.MemoryMB + 1
		for range 10 {
			r := w.request("RUN work")
			r.MemoryMB = &large
			w.create(r)
		}
		time.Sleep(time.Minute)
		begun := time.Now()
		w.wantEnd(w.build(w.request("RUN work")), lehr.BuildSuccess, "", "")
		if got := time.Since(begun); got > 5*time.Second {
			t.Errorf("a small build behind ten that wait took %v", got)
		}
	})
}

// A control plane that is killed again and again under one build is not the
// build's fault: more starts than attempts that may be lost do not fail it.
func TestManyStartsDoNotFailTheBuild(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		b := w.create(w.request("RUN work"))
		for range lehr.MaxLostAttempts + 3 {
			if _, ok, err := w.store.Queue().Claim(w.ctx(), "killed", time.Minute); err != nil || !ok {
				t.Fatalf("Claim() = %v, %v, want the build", ok, err)
			}
			if _, err := w.store.Queue().Reap(w.ctx(), true, 0); err != nil {
				t.Fatal(err)
			}
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		got := w.wait(b.ID)
		w.wantEnd(got, lehr.BuildSuccess, "", "")
		if got.LostAttempts != 0 || got.Attempt != lehr.MaxLostAttempts+4 {
			t.Errorf("attempt %d with %d lost, want %d with none", got.Attempt, got.LostAttempts, lehr.MaxLostAttempts+4)
		}
	})
}
