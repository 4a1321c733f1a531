package sandbox

import (
	"context"
	"sync"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

const (
	pageSize    = 1000 // records read at once
	expireBatch = 100  // expired sandboxes ended at once
)

// watchers is the hosts that are watched. It is owned by Run's goroutine.
type watchers struct {
	group  sync.WaitGroup
	cancel map[lehr.HostID]context.CancelFunc // nil: removed, and its sandboxes are recorded as lost
}

// Run watches the hosts and ends expired sandboxes until ctx ends; then it
// returns ctx's cause. One Run per process is enough; several disturb nothing.
func (s *Service) Run(ctx context.Context) error {
	w := watchers{cancel: map[lehr.HostID]context.CancelFunc{}}
	defer w.group.Wait()
	defer s.stopDetached()
	expire := s.o.Clock.NewTicker(s.o.Timing.Expire)
	defer expire.Stop()
	forget := s.o.Clock.NewTicker(s.o.Timing.Forget)
	defer forget.Stop()
	orphans := s.o.Clock.NewTicker(s.o.Timing.Creating)
	defer orphans.Stop()
	for {
		var err error
		select {
		case <-expire.C():
			if err = s.watchHosts(ctx, &w); err == nil {
				err = s.expire(ctx)
			}
		case <-forget.C():
			_, err = s.o.Store.Sandboxes().Forget(ctx, s.o.Clock.Now().Add(-s.o.Timing.Keep))
		case <-orphans.C():
			err = s.settleAll(ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.o.Log.Warn("looking after sandboxes", "error", err)
		}
	}
}

// watchHosts follows every host of the fleet; the sandboxes of a host that was
// removed are lost.
func (s *Service) watchHosts(ctx context.Context, w *watchers) error {
	hosts, err := s.o.Store.Hosts().List(ctx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		cancel, watched := w.cancel[h.ID]
		switch {
		case h.State == lehr.HostRemoved && (!watched || cancel != nil):
			if cancel != nil {
				cancel()
			}
			w.cancel[h.ID] = nil
			s.lose(ctx, h.ID)
		case h.State != lehr.HostRemoved && cancel == nil:
			hostCtx, cancel := context.WithCancel(ctx)
			w.cancel[h.ID] = cancel
			w.group.Go(func() { s.watchHost(hostCtx, h.ID) })
		}
	}
	return nil
}

// watchHost keeps the record in step with one host; each time it reaches the
// host anew it begins with everything the two know.
func (s *Service) watchHost(ctx context.Context, id lehr.HostID) {
	log := s.o.Log.With("host", id)
	for ctx.Err() == nil {
		host, err := s.o.Pool.GetForHost(id)
		if err == nil {
			if err = s.reconcile(ctx, id, host); err == nil {
				err = host.WatchSandboxes(ctx, func(b agent.Sandbox) error { return s.apply(ctx, id, b) })
			}
		}
		if err != nil && ctx.Err() == nil {
			log.Debug("a host is not watched", "error", err)
		}
		_ = s.o.Clock.Sleep(ctx, s.o.Timing.Reconnect)
	}
}

// reconcile ends sandboxes that the record has as live and the host does not
// know. The record is read first: what is made in between is then on the host.
// What the host has and the record does not is apply's, which the watch calls
// for every sandbox. A host that ended a sandbox by its time-to-live may have
// forgotten it meanwhile, so the record's own end is looked at before.
func (s *Service) reconcile(ctx context.Context, id lehr.HostID, host agent.Agent) error {
	if err := s.expire(ctx); err != nil {
		return err
	}
	live, err := s.liveOn(ctx, id)
	if err != nil {
		return err
	}
	present, err := host.ListSandboxes(ctx)
	if err != nil {
		return err
	}
	known := make(map[lehr.SandboxID]bool, len(present))
	for _, b := range present {
		known[b.ID] = true
	}
	for _, box := range live {
		if known[box.ID] || s.beingMade(box) {
			continue
		}
		s.o.Log.Warn("a sandbox is gone from its host", "sandbox", box.ID, "host", id)
		if _, err := s.end(ctx, box, lehr.SandboxFailed, lehr.ReasonHostLost); err != nil {
			return err
		}
	}
	return nil
}

// settleAll compares record and hosts once more: a creation whose maker died was
// left alone when its host was met, because it could have been under way.
func (s *Service) settleAll(ctx context.Context) error {
	hosts, err := s.o.Store.Hosts().List(ctx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		host, err := s.o.Pool.GetForHost(h.ID)
		if err != nil {
			continue // settled when it is met again
		}
		if err := s.settleHost(ctx, h.ID, host); err != nil {
			s.o.Log.Warn("comparing a host's sandboxes with the record", "host", h.ID, "error", err)
		}
	}
	return nil
}

func (s *Service) settleHost(ctx context.Context, id lehr.HostID, host agent.Agent) error {
	if err := s.reconcile(ctx, id, host); err != nil {
		return err
	}
	present, err := host.ListSandboxes(ctx)
	if err != nil {
		return err
	}
	for _, b := range present {
		if err := s.apply(ctx, id, b); err != nil {
			return err
		}
	}
	return nil
}

// beingMade reports whether a creation may still be under way, here or in
// another process.
func (s *Service) beingMade(box lehr.Sandbox) bool {
	if box.State != lehr.SandboxCreating {
		return false
	}
	if s.isPending(box.ID) {
		return true
	}
	if s.o.Embedded && box.CreatedAt.Before(s.began) {
		return false // who made it is dead
	}
	return s.o.Clock.Now().Sub(box.CreatedAt) < s.o.Timing.Creating
}

// liveOn reads every live sandbox of a host.
func (s *Service) liveOn(ctx context.Context, id lehr.HostID) ([]lehr.Sandbox, error) {
	var all []lehr.Sandbox
	q := store.ListSandboxes{HostID: id, Limit: pageSize}
	for {
		page, err := s.o.Store.Sandboxes().List(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < pageSize {
			return all, nil
		}
		q.Before = page[len(page)-1].ID
	}
}

// apply brings the record up to date with what a host says of one sandbox, and
// takes away what the record does not have as live.
func (s *Service) apply(ctx context.Context, hostID lehr.HostID, b agent.Sandbox) error {
	if b.Fence != (lehr.Fence{}) {
		return nil // a build's own
	}
	box, err := s.Get(ctx, "", b.ID)
	switch {
	case errs.IsKind(err, errs.NotFound):
		s.o.Log.Warn("an unknown sandbox is destroyed", "sandbox", b.ID, "host", hostID)
		return s.destroy(ctx, hostID, b.ID)
	case err != nil:
		return err
	case !box.State.Live():
		return s.destroy(ctx, hostID, b.ID)
	case !b.State.Live():
		_, err := s.end(ctx, box, b.State, b.Reason)
		return err
	case box.State == lehr.SandboxCreating && !s.beingMade(box):
		_, err := s.end(ctx, box, lehr.SandboxFailed, lehr.ReasonEngine) // nobody waits for it any more
		return err
	case box.State == lehr.SandboxCreating || box.State == b.State:
		return nil
	}
	_, err = s.o.Store.Sandboxes().Move(ctx, b.ID, b.State, b.Reason)
	if errs.IsKind(err, errs.Conflict) {
		return nil // somebody else was faster, or the move says nothing new
	}
	return err
}

// expire ends sandboxes whose time-to-live is over.
func (s *Service) expire(ctx context.Context) error {
	for {
		expired, err := s.o.Store.Sandboxes().Expire(ctx, expireBatch)
		if err != nil {
			return err
		}
		var group sync.WaitGroup
		for _, box := range expired {
			group.Go(func() {
				if err := s.destroy(ctx, box.HostID, box.ID); err != nil {
					s.o.Log.Warn("an expired sandbox is still on its host", "sandbox", box.ID, "host", box.HostID, "error", err)
				}
			})
		}
		group.Wait()
		if len(expired) < expireBatch {
			return nil
		}
	}
}

// lose records that the sandboxes of a removed host are gone.
func (s *Service) lose(ctx context.Context, id lehr.HostID) {
	live, err := s.liveOn(ctx, id)
	if err != nil {
		s.o.Log.Warn("looking for a removed host's sandboxes", "host", id, "error", err)
		return
	}
	for _, box := range live {
		if _, err := s.end(ctx, box, lehr.SandboxFailed, lehr.ReasonHostLost); err != nil {
			s.o.Log.Warn("recording a lost sandbox", "sandbox", box.ID, "error", err)
		}
	}
}
