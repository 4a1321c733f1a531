package build

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// defaultWorkers is how many builds a process runs at once.
const defaultWorkers = 2

// maxLost bounds what is remembered of lost attempts.
const maxLost = 1000

// WorkerOptions says how a process works on builds.
type WorkerOptions struct {
	Workers int    // concurrent builds; 2 when zero
	Name    string // of this process, for attempts; the machine's name and process id when empty
	// Embedded says that no other process works on the store: all attempts of
	// an earlier life are taken back at start and cleaned up at once.
	Embedded bool
}

// crew is the workers, the reaper and the sweeper of one process. Each of its
// goroutines is waited for by the function that StartWorkers returns.
type crew struct {
	*BuildService
	w WorkerOptions

	mu     sync.Mutex
	active map[lehr.Fence]struct{}      // attempts of this process that clean up after themselves
	lost   map[lehr.BuildID]lehr.HostID // where this process lost a build's last attempt
}

// StartWorkers starts the workers, the reaper and the sweeper and returns; they
// end with ctx. wait returns when all have ended: running builds are given back
// and their sandboxes destroyed by then, within 30 s.
func (s *BuildService) StartWorkers(ctx context.Context, w WorkerOptions) (wait func(), err error) {
	if w.Workers <= 0 {
		w.Workers = defaultWorkers
	}
	if w.Name == "" {
		w.Name = processName()
	}
	c := &crew{BuildService: s, w: w, active: map[lehr.Fence]struct{}{}, lost: map[lehr.BuildID]lehr.HostID{}}
	if w.Embedded {
		if err := c.reap(ctx, true); err != nil {
			return nil, err
		}
	}
	var group sync.WaitGroup
	for i := range w.Workers {
		group.Go(func() { c.work(ctx, fmt.Sprintf("%s/%d", w.Name, i+1)) })
	}
	group.Go(func() { c.every(ctx, c.o.Timing.Reap, func() error { return c.reap(ctx, false) }) })
	group.Go(func() { c.every(ctx, c.o.Timing.ExpireLogs, func() error { return c.expireLogs(ctx) }) })
	group.Go(func() { c.sweepLoop(ctx) })
	return group.Wait, nil
}

func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}

// work claims and runs builds until ctx ends.
func (c *crew) work(ctx context.Context, name string) {
	for ctx.Err() == nil {
		if !c.workOnce(ctx, name) {
			c.waitForWork(ctx)
		}
	}
}

// workOnce runs the next build, if there is one and a host could take it.
func (c *crew) workOnce(ctx context.Context, name string) (worked bool) {
	if err := c.hostReady(ctx); err != nil {
		c.o.Log.Debug("no host is ready, builds wait", "error", err)
		return false
	}
	b, ok, err := c.claim(ctx, name)
	if err != nil {
		c.o.Log.Warn("claiming a build", "error", err)
	}
	if err != nil || !ok {
		return false
	}
	f := lehr.Fence{BuildID: b.ID, Attempt: b.Attempt}
	c.setActive(f, true)
	lost := c.runAttempt(ctx, name, b)
	c.setActive(f, false)
	if lost {
		c.cool(ctx, b)
	}
	return true
}

// cool keeps a worker from using up a build's attempts within the moment that
// an agent needs to come back.
func (c *crew) cool(ctx context.Context, b lehr.Build) {
	_ = c.o.Clock.Sleep(ctx, c.o.Timing.Cool<<min(b.LostAttempts, lehr.MaxLostAttempts)) // the end of ctx ends the worker
}

// hostReady asks for a place for nothing, which every ready host has.
func (c *crew) hostReady(ctx context.Context) error {
	_, err := c.o.Scheduler.SelectHost(ctx, lehr.Placement{TeamID: lehr.PlatformTeam})
	return err
}

// claim is not cut short by a stop: an answer that nobody hears would leave a
// claimed build alone until its lease ends.
func (c *crew) claim(ctx context.Context, name string) (lehr.Build, bool, error) {
	ctx, cancel := c.rowContext(ctx)
	defer cancel()
	return c.o.Store.Queue().Claim(ctx, name, c.o.Timing.Lease)
}

// waitForWork returns at a wake-up and at the latest after the poll interval.
func (c *crew) waitForWork(ctx context.Context) {
	_, popped, err := c.o.Bus.PopBuild(ctx, c.o.Timing.Poll)
	if err != nil && ctx.Err() == nil {
		c.o.Log.Warn("waiting for builds", "error", err)
		_ = c.o.Clock.Sleep(ctx, c.o.Timing.Poll)
		return
	}
	if !popped {
		return
	}
	if err := failpoint.Hit(ctx, failpoint.QueueAfterPop); err != nil {
		c.o.Log.Warn("a wake-up was lost", "error", err)
	}
}

func (c *crew) setActive(f lehr.Fence, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if on {
		c.active[f] = struct{}{}
		return
	}
	delete(c.active, f)
}

func (c *crew) isActive(f lehr.Fence) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.active[f]
	return ok
}

// setLost remembers the host of a lost attempt for the next one, if that comes
// to this process.
func (c *crew) setLost(id lehr.BuildID, host lehr.HostID, lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lost, id)
	if lost && host != "" && len(c.lost) < maxLost {
		c.lost[id] = host
	}
}

func (c *crew) lostOn(id lehr.BuildID) []lehr.HostID {
	c.mu.Lock()
	defer c.mu.Unlock()
	if host, ok := c.lost[id]; ok {
		return []lehr.HostID{host}
	}
	return nil
}

// every calls f once each period until ctx ends, and logs its errors.
func (c *crew) every(ctx context.Context, period time.Duration, f func() error) {
	tick := c.o.Clock.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-tick.C():
		case <-ctx.Done():
			return
		}
		if err := f(); err != nil && ctx.Err() == nil {
			c.o.Log.Warn("looking after builds", "error", err)
		}
	}
}

// reap takes expired attempts back, or all of them, and wakes workers for what
// is pending again.
func (c *crew) reap(ctx context.Context, all bool) error {
	touched, err := c.o.Store.Queue().Reap(ctx, all, c.o.Timing.Unplaced)
	for _, b := range touched {
		c.o.Log.Warn("attempt lost", "build", b.ID, "attempt", b.Attempt, "status", b.Status)
		if err := failpoint.Hit(ctx, failpoint.ReapAfterCommit); err != nil {
			c.o.Log.Warn("a wake-up was lost", "error", err)
			continue
		}
		c.announce(ctx, b.ID)
		if b.Status == lehr.BuildPending {
			c.push(ctx, b.ID)
		}
	}
	return err
}

func (c *crew) expireLogs(ctx context.Context) error {
	n, err := c.o.Store.Logs().Expire(ctx, c.o.Clock.Now().Add(-c.o.Timing.KeepLogs))
	if n > 0 {
		c.o.Log.Info("old build logs deleted", "rows", n)
	}
	return err
}

// rowContext is for writes that must not be cut short: detached, and bounded.
func (s *BuildService) rowContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), s.o.Timing.RowClean,
		errs.New(errs.Timeout, "the store took longer than %v", s.o.Timing.RowClean))
}

// hostContext is the same for calls to hosts.
func (s *BuildService) hostContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), s.o.Timing.HostClean,
		errs.New(errs.Timeout, "the host took longer than %v", s.o.Timing.HostClean))
}
