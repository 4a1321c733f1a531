package build

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/lehr-dev/lehr/internal/bus"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// logPage is how many lines a follower reads at once.
const logPage = 1000

// uncleanLimit bounds the look for attempts that are not clean.
const uncleanLimit = 1000

// LogQuery selects log lines of a build.
type LogQuery struct {
	TeamID  lehr.TeamID // empty: any team
	BuildID lehr.BuildID
	After   int64 // lines with a greater seq
	Follow  bool  // go on until the build has ended and everything was delivered
}

// Logs returns a build's log after q.After in batches, in order of seq, without
// a gap or a double. It ends after the last line there is, or with Follow after
// the last line there will be; an error is the last element. Slow consumers
// slow nobody but themselves.
func (s *BuildService) Logs(ctx context.Context, q LogQuery) iter.Seq2[[]lehr.LogLine, error] {
	return func(yield func([]lehr.LogLine, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f := follower{s: s, q: q}
		if err := f.follow(ctx, yield); err != nil {
			yield(nil, err)
		}
	}
}

// follower is one reading of one log. It is owned by its consumer's goroutine.
type follower struct {
	s        *BuildService
	q        LogQuery
	terminal time.Time // when the build was first seen ended
}

// follow reads before it looks whether the build has ended, and once more
// afterwards, so that nothing written before the end is missed. Subscribing
// before the first read does the same for what comes later.
func (f *follower) follow(ctx context.Context, yield func([]lehr.LogLine, error) bool) error {
	if _, err := f.s.o.Store.Builds().Get(ctx, f.q.TeamID, f.q.BuildID); err != nil {
		return err
	}
	changed := f.subscribe(ctx)
	for {
		more, err := f.drain(ctx, yield)
		if err != nil || !more {
			return err
		}
		// After lines too: the signals for them and for the end may have come as one.
		over, err := f.over(ctx)
		if err != nil {
			return err
		}
		if over {
			_, err := f.drain(ctx, yield)
			return err
		}
		if err := f.wait(ctx, changed); err != nil {
			return err
		}
	}
}

// subscribe asks for signals; without a bus the poll interval remains.
func (f *follower) subscribe(ctx context.Context) <-chan struct{} {
	if !f.q.Follow {
		return nil
	}
	changed, err := f.s.o.Bus.Subscribe(ctx, bus.BuildTopic(f.q.BuildID))
	if err != nil {
		f.s.o.Log.Warn("following a log without signals", "build", f.q.BuildID, "error", err)
		return nil
	}
	return changed
}

// drain yields every line there is; more is false when the consumer has enough.
func (f *follower) drain(ctx context.Context, yield func([]lehr.LogLine, error) bool) (more bool, err error) {
	for {
		lines, err := f.s.o.Store.Logs().Read(ctx, f.q.BuildID, f.q.After, logPage)
		if err != nil {
			return true, err
		}
		if len(lines) == 0 {
			return true, nil
		}
		f.q.After = lines[len(lines)-1].Seq
		if !yield(lines, nil) {
			return false, nil
		}
		if len(lines) < logPage {
			return true, nil
		}
	}
}

// over reports whether no line will come any more: the build has ended and
// nothing of its attempts is left to say something. Where a dead host keeps an
// attempt from being cleaned up, over waits no longer than a clean-up may take.
func (f *follower) over(ctx context.Context) (bool, error) {
	if !f.q.Follow {
		return true, nil
	}
	b, err := f.s.o.Store.Builds().Get(ctx, f.q.TeamID, f.q.BuildID)
	if err != nil || !b.Status.Terminal() {
		return false, err
	}
	now := f.s.o.Clock.Now()
	if f.terminal.IsZero() {
		f.terminal = now
	}
	t := f.s.o.Timing
	if now.Sub(f.terminal) > t.HostClean+2*t.RowClean {
		return true, nil
	}
	unclean, err := f.s.o.Store.Queue().Unclean(ctx, uncleanLimit)
	busy := slices.ContainsFunc(unclean, func(a lehr.Attempt) bool { return a.BuildID == f.q.BuildID })
	return !busy, err
}

func (f *follower) wait(ctx context.Context, changed <-chan struct{}) error {
	timer := f.s.o.Clock.NewTimer(f.s.o.Timing.Follow)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
