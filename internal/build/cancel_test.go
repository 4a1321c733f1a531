package build

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// healthy is a request whose build passes every failpoint.
func (w *world) healthy() CreateParams {
	p := w.request("RUN prepare", "START serve")
	p.Healthcheck = "CMD probe"
	return p
}

// serving plays START processes that run until they are let go.
func serving(play map[string]agenttest.Script) agenttest.Script {
	play["serve"] = func(ctx context.Context, _ agent.Exec, _ agent.Output) (agent.Exit, error) {
		<-ctx.Done()
		return agent.Exit{}, context.Cause(ctx)
	}
	return shell(play)
}

// attemptPoints are the failpoints that a worker passes while it may still be
// cancelled.
func attemptPoints() []failpoint.Point {
	return []failpoint.Point{
		failpoint.ClaimAfterCommit, failpoint.PlaceAfterCommit, failpoint.HoldAfterCommit, failpoint.SandboxAfterCreate,
		failpoint.StepBeforeStart, failpoint.StepAfterEnd, failpoint.StepAfterRecord, failpoint.StartAfterBegin,
		failpoint.LogAfterAppend, failpoint.FlattenAfterMake, failpoint.LiveBeforeOpen, failpoint.HealthBeforeProbe,
		failpoint.HealthAfterPass, failpoint.PublishBeforeArtifact, failpoint.SnapshotAfterMake,
		failpoint.PublishAfterArtifact, failpoint.PublishBeforeCommit,
	}
}

// Faults 3 to 5 of the original: a cancel wins at every point, from any
// process, and nothing is left of the build.
func TestCancelAtEveryPoint(t *testing.T) {
	t.Parallel()
	for _, point := range attemptPoints() {
		for _, cut := range []bool{false, true} {
			name := string(point)
			if cut {
				name += " without a bus"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				inWorld(t, func(w *world) {
					w.host().Run = serving(map[string]agenttest.Script{})
					armed := w.fails.Arm(point, failpoint.Pause, 1)
					w.work(w.svc, WorkerOptions{Embedded: true})
					b := w.create(w.healthy())
					<-armed.Reached()
					w.bus.setCut(cut)
					other := w.service()
					if got, err := other.Cancel(context.Background(), w.team, b.ID); err != nil || got.Status != lehr.BuildCancelled {
						t.Fatalf("Cancel() = %q, %v, want cancelled", got.Status, err)
					}
					begun := time.Now()
					if point == failpoint.LogAfterAppend {
						armed.Resume()
					}
					b = w.wait(b.ID)
					w.wantEnd(b, lehr.BuildCancelled, "", "")
					if got := time.Since(begun); cut && got > 6*time.Second || !cut && got > time.Second {
						t.Errorf("everything was gone after %v", got)
					}
					lines := w.lines(b.ID)
					if last := lines[len(lines)-1]; last != "system: the build was cancelled" {
						t.Errorf("last line = %q, want the cancel", last)
					}
					if got := w.versions("web"); got != 0 {
						t.Errorf("%d versions of a cancelled build, want none", got)
					}
					w.wantGapless(b.ID)
					w.wantNothingLeft()
				})
			})
		}
	}
}

func TestCancelOfAPendingBuild(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		b := w.create(w.request("RUN work"))
		if _, err := w.svc.Cancel(w.ctx(), w.team, b.ID); err != nil {
			t.Fatalf("Cancel() = %v, want nil", err)
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		time.Sleep(10 * time.Second)
		b = w.wait(b.ID)
		w.wantEnd(b, lehr.BuildCancelled, "", "")
		if b.Attempt != 0 {
			t.Errorf("attempt = %d, want none", b.Attempt)
		}
	})
}

func TestCancelOfAFinishedBuildNamesItsState(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.build(w.request("RUN work"))
		_, err := w.svc.Cancel(w.ctx(), w.team, b.ID)
		if !errs.IsKind(err, errs.Conflict) || !strings.Contains(err.Error(), "success") {
			t.Errorf("Cancel() = %v, want a conflict that names success", err)
		}
	})
}

// Output written before the cancel is kept (fault 22 of the original), and the
// interrupted step is shown as cancelled.
func TestCancelKeepsTheLastLines(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = func(ctx context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
			if err := out(lehr.StreamStderr, []byte("last words")); err != nil {
				return agent.Exit{}, err
			}
			<-ctx.Done()
			return agent.Exit{}, context.Cause(ctx)
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.create(w.request("RUN work"))
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		var followed []string
		var reader sync.WaitGroup
		reader.Go(func() {
			for batch, err := range w.svc.Logs(w.ctx(), LogQuery{BuildID: b.ID, Follow: true}) {
				if err != nil {
					t.Errorf("Logs() = %v", err)
				}
				for _, l := range batch {
					followed = append(followed, l.Text)
				}
			}
		})
		synctest.Wait()
		if _, err := w.svc.Cancel(w.ctx(), w.team, b.ID); err != nil {
			t.Fatalf("Cancel() = %v, want nil", err)
		}
		b = w.wait(b.ID)
		reader.Wait()
		if len(b.Steps) != 1 || b.Steps[0].Status != lehr.StepCancelled || b.Steps[0].StderrTail != "last words" {
			t.Errorf("steps = %+v, want one cancelled with its tail", b.Steps)
		}
		if !slices.Contains(followed, "last words") || followed[len(followed)-1] != "the build was cancelled" {
			t.Errorf("a follower got %q, want the last words and the cancel", followed)
		}
	})
}

// A cancel and the publication at the same moment have one winner.
func TestCancelAgainstSuccess(t *testing.T) {
	t.Parallel()
	won := map[lehr.BuildStatus]int{}
	for range 20 {
		inWorld(t, func(w *world) {
			armed := w.fails.Arm(failpoint.PublishBeforeCommit, failpoint.Pause, 1)
			w.work(w.svc, WorkerOptions{Embedded: true})
			b := w.create(w.request("RUN work"))
			<-armed.Reached()
			var race sync.WaitGroup
			var cancelErr error
			race.Go(func() { armed.Resume() })
			race.Go(func() { _, cancelErr = w.svc.Cancel(w.ctx(), w.team, b.ID) })
			race.Wait()
			b = w.wait(b.ID)
			won[b.Status]++
			switch b.Status {
			case lehr.BuildCancelled:
				if cancelErr != nil || w.versions("web") != 0 || b.Artifact != nil {
					t.Errorf("cancelled: Cancel() = %v, %d versions, artifact %v, want nil and none", cancelErr, w.versions("web"), b.Artifact)
				}
			case lehr.BuildSuccess:
				if !errs.IsKind(cancelErr, errs.Conflict) || w.versions("web") != 1 {
					t.Errorf("success: Cancel() = %v, %d versions, want a conflict and one", cancelErr, w.versions("web"))
				}
			default:
				t.Errorf("status = %q, want cancelled or success", b.Status)
			}
			w.wantNothingLeft()
		})
	}
	t.Logf("winners: %v", won)
}

// A cancel that is committed while Finish waits for the store wins; the version
// is invisible and its image removed.
func TestCancelBeforeCommitRemovesTheArtifact(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.bus.setCut(true)
		armed := w.fails.Arm(failpoint.PublishBeforeCommit, failpoint.Pause, 1)
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.create(w.request("RUN work"))
		<-armed.Reached()
		if _, err := w.store.Builds().Cancel(w.ctx(), w.team, b.ID); err != nil {
			t.Fatalf("Cancel() = %v, want nil", err)
		}
		armed.Resume()
		w.wantEnd(w.wait(b.ID), lehr.BuildCancelled, "", "")
		w.wantNothingLeft()
	})
}

// An injected error at every point is a fault of the platform: the build is
// tried again and ends well.
func TestErrorAtEveryPointIsRetried(t *testing.T) {
	t.Parallel()
	for _, point := range attemptPoints() {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.host().Run = serving(map[string]agenttest.Script{})
				w.fails.Arm(point, failpoint.Error, 1)
				w.work(w.svc, WorkerOptions{Embedded: true})
				b := w.build(w.healthy())
				w.wantEnd(b, lehr.BuildSuccess, "", "")
				if b.Attempt != 2 || w.versions("web") != 1 {
					t.Errorf("attempt %d, %d versions, want 2 and 1", b.Attempt, w.versions("web"))
				}
				w.wantGapless(b.ID)
				w.wantNothingLeft()
			})
		})
	}
}

// Signals that are lost, and ends that are recorded but not told, cost nothing
// but time.
func TestLostSignalsDelayOnly(t *testing.T) {
	t.Parallel()
	points := []failpoint.Point{
		failpoint.CreateAfterInsert, failpoint.CreateAfterPush, failpoint.QueueAfterPop, failpoint.PublishAfterCommit,
		failpoint.EndBeforeRecord, failpoint.EndAfterRecord, failpoint.CleanBeforeDestroy,
		failpoint.CleanBeforeArtifacts, failpoint.CleanBeforeMark, failpoint.CleanAfterMark,
	}
	for _, point := range points {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.fails.Arm(point, failpoint.Error, 1)
				w.work(w.svc, WorkerOptions{Embedded: true})
				begun := time.Now()
				b := w.build(w.request("RUN work"))
				w.wantEnd(b, lehr.BuildSuccess, "", "")
				if got := time.Since(begun); got > 3*time.Second {
					t.Errorf("it took %v, want at most a poll interval more", got)
				}
				w.wantNothingLeft()
			})
		})
	}
}

// A panic at every point fails the build and leaves the worker alive.
func TestPanicAtEveryPoint(t *testing.T) {
	t.Parallel()
	for _, point := range attemptPoints() {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.host().Run = serving(map[string]agenttest.Script{})
				w.fails.Arm(point, failpoint.Panic, 1)
				w.work(w.svc, WorkerOptions{Workers: 1, Embedded: true})
				w.wantEnd(w.build(w.healthy()), lehr.BuildFailed, CodePanic, lehr.FaultPlatform)
				w.wantEnd(w.build(w.healthy()), lehr.BuildSuccess, "", "")
				w.wantNothingLeft()
			})
		})
	}
}
