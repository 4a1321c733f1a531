package host

import (
	"context"
	"time"

	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// DestroySandbox removes a sandbox and everything of it. It goes on, bounded,
// when ctx ends first.
func (h *Host) DestroySandbox(ctx context.Context, id lehr.SandboxID) error {
	ctx, leave, err := h.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s, err := h.lookup(id)
	if err != nil {
		return nil // idempotent
	}
	done := make(chan error, 1)
	if !h.spawn(func() { done <- h.destroy(s, lehr.ReasonUser) }) {
		return errClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// destroy ends a sandbox for reason. One whose time-to-live ended stays listed.
func (h *Host) destroy(s *sandbox, reason lehr.SandboxReason) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupLimit)
	defer cancel()
	s.doom(errDestroyed)
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.leave()
	h.setState(s, lehr.SandboxKilled, reason, "") // one that has ended keeps its reason
	if err := failpoint.Hit(ctx, failpoint.HostEndAfterSave); err != nil {
		return err
	}
	if reason == lehr.ReasonTTL {
		return h.opt.Engine.Destroy(ctx, s.slot())
	}
	return h.remove(ctx, s)
}

// remove takes away slot, record and entry of a sandbox that has ended. The
// caller has its turn.
func (h *Host) remove(ctx context.Context, s *sandbox) error {
	if s.slot() != "" {
		if err := h.opt.Engine.Destroy(ctx, s.slot()); err != nil {
			return err
		}
	}
	if err := failpoint.Hit(ctx, failpoint.HostEndAfterSlot); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sandboxes[s.rec.ID] == s {
		delete(h.sandboxes, s.rec.ID)
		return h.dropRecord(s.rec.ID)
	}
	return nil
}

// nudge makes the timekeeper look again.
func (h *Host) nudge() {
	select {
	case h.timesUp <- struct{}{}:
	default:
	}
}

// keepTime is the one loop that ends expired sandboxes and forgets ended ones.
func (h *Host) keepTime() {
	for {
		expired, forgotten, next := h.due()
		for _, s := range expired {
			h.spawn(func() { h.expire(s) })
		}
		for _, s := range forgotten {
			h.spawn(func() { h.forget(s) })
		}
		if !h.waitUntil(next) {
			return
		}
	}
}

// due returns what is due now and when to look again; zero is when nudged.
func (h *Host) due() (expired, forgotten []*sandbox, next time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.clock.Now()
	for _, s := range h.sandboxes {
		at := s.rec.ExpiresAt
		switch {
		case !s.rec.State.Live():
			at = s.rec.EndedAt.Add(retention)
		case s.rec.State == lehr.SandboxCreating:
			at = time.Time{} // its time begins when it runs
		}
		switch {
		case s.dying || at.IsZero():
		case at.After(now):
			if next.IsZero() || at.Before(next) {
				next = at
			}
		case s.rec.State.Live():
			s.dying = true
			expired = append(expired, s)
		default:
			s.dying = true
			forgotten = append(forgotten, s)
		}
	}
	return expired, forgotten, next
}

// waitUntil waits for the time or a nudge; false when the host closes.
func (h *Host) waitUntil(next time.Time) bool {
	var due <-chan time.Time
	if !next.IsZero() {
		timer := h.clock.NewTimer(next.Sub(h.clock.Now()))
		defer timer.Stop()
		due = timer.C()
	}
	select {
	case <-h.life.Done():
		return false
	case <-h.timesUp:
	case <-due:
	}
	return true
}

// expire ends a sandbox whose time-to-live is over.
func (h *Host) expire(s *sandbox) {
	err := failpoint.Hit(h.life, failpoint.HostExpireBegin)
	if err == nil {
		err = h.destroy(s, lehr.ReasonTTL)
	}
	h.settle(s)
	if err != nil {
		h.log.Error("an expired sandbox could not be taken away", "sandbox", s.rec.ID, "error", err)
		return
	}
	h.log.Info("a sandbox expired", "sandbox", s.rec.ID)
}

// forget drops the record of a sandbox that ended long ago.
func (h *Host) forget(s *sandbox) {
	err := h.destroy(s, lehr.ReasonUser)
	h.settle(s)
	if err != nil {
		h.log.Error("an ended sandbox could not be forgotten", "sandbox", s.rec.ID, "error", err)
	}
}

// settle hands a sandbox back to the timekeeper's list.
func (h *Host) settle(s *sandbox) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.dying = false
	h.nudge()
}
