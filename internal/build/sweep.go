package build

import (
	"context"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const (
	sweepBatch    = 100 // attempts looked at in one sweep
	sweepParallel = 8   // clean-ups at a time, so that a dead host delays few
)

// sweepLoop cleans up after attempts whose worker did not: it crashed, lost its
// host, or ran out of time. Attempts of this process's workers are theirs; those
// of other processes get a grace period, counted by this process from when it
// first saw them, because clocks differ.
func (c *crew) sweepLoop(ctx context.Context) {
	seen := map[lehr.Fence]time.Time{}
	c.every(ctx, c.o.Timing.Sweep, func() error { return c.sweep(ctx, seen) })
}

func (c *crew) sweep(ctx context.Context, seen map[lehr.Fence]time.Time) error {
	unclean, err := c.o.Store.Queue().Unclean(ctx, sweepBatch)
	if err != nil {
		return err
	}
	due := c.due(unclean, seen)
	var group sync.WaitGroup
	free := make(chan struct{}, sweepParallel)
	for _, a := range due {
		free <- struct{}{}
		group.Go(func() {
			defer func() { <-free }()
			c.sweepOne(ctx, a)
		})
	}
	group.Wait()
	return nil
}

// due chooses the attempts that nobody else cleans up and brings seen up to
// date.
func (c *crew) due(unclean []lehr.Attempt, seen map[lehr.Fence]time.Time) []lehr.Attempt {
	now := c.o.Clock.Now()
	present := make(map[lehr.Fence]bool, len(unclean))
	var due []lehr.Attempt
	for _, a := range unclean {
		f := fenceOf(a)
		present[f] = true
		first, known := seen[f]
		if !known {
			seen[f], first = now, now
		}
		waited := c.w.Embedded || now.Sub(first) >= c.o.Timing.Grace
		if waited && !c.isActive(f) {
			due = append(due, a)
		}
	}
	for f := range seen {
		if !present[f] {
			delete(seen, f)
		}
	}
	return due
}

func (c *crew) sweepOne(ctx context.Context, a lehr.Attempt) {
	log := c.o.Log.With("build", a.BuildID, "attempt", a.Number, "host", a.HostID, "sandbox", a.SandboxID)
	if err := c.cleanHost(ctx, a); err != nil {
		log.Debug("an attempt cannot be cleaned up yet", "error", err)
		return
	}
	if err := c.markClean(ctx, fenceOf(a)); err != nil {
		log.Warn("recording a clean-up", "error", err)
		return
	}
	log.Info("attempt cleaned up")
}

// cleanHost destroys what the attempt recorded; a host that was removed from
// the fleet holds nothing any more.
func (c *crew) cleanHost(ctx context.Context, a lehr.Attempt) error {
	if err := failpoint.Hit(ctx, failpoint.CleanBeforeDestroy); err != nil {
		return err
	}
	if a.HostID == "" || a.SandboxID == "" {
		return nil
	}
	host, err := c.o.Pool.GetForHost(a.HostID)
	if err != nil {
		if c.hostRemoved(ctx, a.HostID) {
			return nil
		}
		return err
	}
	ctx, cancel := c.hostContext(ctx)
	defer cancel()
	if err := host.DestroySandbox(ctx, a.SandboxID); err != nil {
		return err
	}
	return c.freeMade(ctx, host, a)
}

// freeMade removes what the attempt had claimed as its own. What it made and
// did not come to claim is found by the garbage collection.
func (c *crew) freeMade(ctx context.Context, host agent.Agent, a lehr.Attempt) error {
	if err := failpoint.Hit(ctx, failpoint.CleanBeforeArtifacts); err != nil {
		return err
	}
	held, err := c.o.Store.Templates().Claimed(ctx, fenceOf(a))
	if err != nil {
		return err
	}
	for _, h := range held {
		if !h.Made || h.Host != a.HostID {
			continue
		}
		if err := c.removeMade(ctx, host, h, fenceOf(a)); err != nil {
			return err
		}
	}
	return nil
}

func (c *crew) hostRemoved(ctx context.Context, id lehr.HostID) bool {
	h, err := c.o.Store.Hosts().Get(ctx, id)
	return errs.IsKind(err, errs.NotFound) || err == nil && h.State == lehr.HostRemoved
}

// markClean records that nothing of an attempt is left and tells followers, who
// wait for it.
func (s *BuildService) markClean(ctx context.Context, f lehr.Fence) error {
	if err := failpoint.Hit(ctx, failpoint.CleanBeforeMark); err != nil {
		return err
	}
	row, cancel := s.rowContext(ctx)
	defer cancel()
	if err := s.o.Store.Queue().MarkClean(row, f); err != nil {
		return err
	}
	if err := failpoint.Hit(ctx, failpoint.CleanAfterMark); err != nil {
		return err
	}
	s.announce(ctx, f.BuildID)
	return nil
}

func fenceOf(a lehr.Attempt) lehr.Fence { return lehr.Fence{BuildID: a.BuildID, Attempt: a.Number} }
