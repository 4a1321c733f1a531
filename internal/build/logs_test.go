package build

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// talks writes n lines, one each period.
func talks(n int, period time.Duration) func(context.Context, agent.Exec, agent.Output) (agent.Exit, error) {
	return func(_ context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		for i := range n {
			if err := out(lehr.StreamStdout, fmt.Appendf(nil, "line %d\n", i)); err != nil {
				return agent.Exit{}, err
			}
			time.Sleep(period)
		}
		return agent.Exit{}, nil
	}
}

// follow reads a log to its end, waiting after each batch.
func (w *world) follow(q LogQuery, pause time.Duration) (seqs []int64) {
	q.Follow = true
	for batch, err := range w.svc.Logs(w.ctx(), q) {
		if err != nil {
			w.t.Errorf("Logs() = %v, want nil", err)
			return seqs
		}
		for _, l := range batch {
			seqs = append(seqs, l.Seq)
		}
		time.Sleep(pause)
	}
	return seqs
}

// Followers that begin at any time, with or without a bus, slow or fast, get
// every line once; the slow one slows nobody.
func TestFollowersMissNothing(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprintf("without bus %v", cut), func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.host().Run = talks(3000, time.Millisecond)
				w.work(w.svc, WorkerOptions{Embedded: true})
				w.bus.setCut(cut)
				begun := time.Now()
				b := w.create(w.request("RUN work"))
				var group sync.WaitGroup
				for i, pause := range []time.Duration{0, 0, 5 * time.Second, time.Minute} {
					group.Go(func() {
						time.Sleep(time.Duration(i) * 700 * time.Millisecond)
						seqs := w.follow(LogQuery{TeamID: w.team, BuildID: b.ID, After: int64(i)}, pause)
						for k, seq := range seqs {
							if want := int64(i + k + 1); seq != want {
								t.Errorf("follower %d: seq %d, want %d", i, seq, want)
								return
							}
						}
						if len(seqs) < 3000 {
							t.Errorf("follower %d got %d lines, want at least 3000", i, len(seqs))
						}
					})
				}
				b = w.wait(b.ID)
				if got := time.Since(begun); got > 10*time.Second {
					t.Errorf("the build took %v with a slow follower, want about 5s at most", got)
				}
				group.Wait()
			})
		})
	}
}

// The log of a build that has ended holds nobody up, not even for the time in
// which a follower waits for a signal.
func TestFollowerOfAnEndedBuildEndsAtOnce(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.create(w.request("RUN work"))
		w.follow(LogQuery{TeamID: w.team, BuildID: b.ID}, 0)
		begun := time.Now()
		if seqs := w.follow(LogQuery{TeamID: w.team, BuildID: b.ID}, 0); len(seqs) == 0 {
			t.Error("the log of an ended build is empty")
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("following an ended build took %v of the bubble's time, want none", took)
		}
	})
}

func TestLogsOfAnotherTeamAreNotFound(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		b := w.create(w.request("RUN work"))
		for _, err := range w.svc.Logs(w.ctx(), LogQuery{TeamID: lehr.NewTeamID(), BuildID: b.ID}) {
			if !errs.IsKind(err, errs.NotFound) {
				t.Errorf("Logs() = %v, want NotFound", err)
			}
			return
		}
		t.Error("Logs() gave nothing, want NotFound")
	})
}

func TestFollowerEndsWithItsContextAndItsConsumer(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		b := w.create(w.request("RUN work"))
		ctx, cancel := context.WithCancel(w.ctx())
		var last error
		var group sync.WaitGroup
		group.Go(func() {
			for _, err := range w.svc.Logs(ctx, LogQuery{BuildID: b.ID, Follow: true}) {
				last = err
			}
		})
		synctest.Wait()
		cancel()
		group.Wait()
		if !errs.IsKind(last, errs.Cancelled) {
			t.Errorf("last error = %v, want Cancelled", last)
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		for range w.svc.Logs(w.ctx(), LogQuery{BuildID: b.ID, Follow: true}) {
			break
		}
	})
}

// A dead host that keeps an attempt from being cleaned up does not keep its
// followers for ever.
func TestFollowerOfAnUncleanBuildEnds(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		b := w.create(w.request("RUN work"))
		claimed, _, err := w.store.Queue().Claim(w.ctx(), "gone", 15*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		f := lehr.Fence{BuildID: claimed.ID, Attempt: claimed.Attempt}
		if err := w.store.Queue().Place(w.ctx(), f, lehr.NewHostID(), lehr.NewSandboxID()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.svc.Cancel(w.ctx(), w.team, b.ID); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		w.follow(LogQuery{BuildID: b.ID}, 0)
		if got := time.Since(begun); got < 30*time.Second || got > time.Minute {
			t.Errorf("the follower ended after %v, want after a clean-up's time", got)
		}
	})
}
