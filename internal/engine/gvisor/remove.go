package gvisor

import (
	"context"
	"errors"
	"os"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
)

// removal is one attempt to remove a slot.
type removal struct {
	done chan struct{} // closed when the attempt is over
	err  error         // set before
}

// Destroy implements engine.Engine.
func (e *Engine) Destroy(ctx context.Context, id engine.SlotID) error {
	s, err := e.find(id)
	if errs.IsKind(err, errs.NotFound) {
		return nil
	}
	if err := e.begin(); err != nil {
		return err
	}
	s.remove()
	e.work.Done()
	return s.awaitRemoval(ctx)
}

// remove starts to remove the slot in the background, unless that goes on
// already. The caller holds a count in e.work or has it closed.
func (s *slot) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removal != nil {
		select {
		case <-s.removal.done:
			if s.removal.err == nil {
				return
			}
		default:
			return
		}
	}
	r := &removal{done: make(chan struct{})}
	s.removal = r
	s.e.work.Add(1)
	go func() {
		defer s.e.work.Done()
		defer close(r.done)
		ctx, cancel := context.WithTimeout(context.Background(), cleanUpTime)
		defer cancel()
		if r.err = s.dismantle(ctx); r.err != nil {
			s.e.log.Error("a slot cannot be removed", "slot", s.id, "error", r.err)
		}
	}()
}

// awaitRemoval waits for the attempt that remove started.
func (s *slot) awaitRemoval(ctx context.Context) error {
	s.mu.Lock()
	r := s.removal
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// dismantle removes everything of the slot and forgets it. It may be called
// again after it failed.
func (s *slot) dismantle(ctx context.Context) error {
	s.cutConnections()
	if err := s.halt(ctx); err != nil {
		return err
	}
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	if err := failpoint.Hit(ctx, failpoint.EngineRemoveAfterHalt); err != nil {
		return err
	}
	if err := s.group.Remove(ctx); err != nil {
		return err
	}
	if err := failpoint.Hit(ctx, failpoint.EngineRemoveAfterGroup); err != nil {
		return err
	}
	if err := s.detach(ctx); err != nil {
		return err
	}
	if err := failpoint.Hit(ctx, failpoint.EngineRemoveAfterNetwork); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return errs.Wrap(err, errs.Unavailable, "gvisor.Destroy", "cannot remove the files of the sandbox")
	}
	s.e.mu.Lock()
	delete(s.e.slots, s.id)
	s.e.mu.Unlock()
	return nil
}

// halt ends the sentry, by request, and waits for its end to be seen.
func (s *slot) halt(ctx context.Context) error {
	s.mu.Lock()
	watched := s.sentry != nil
	if s.rec.Exit == nil {
		s.rec.Stopping = true
		// Saved so that a later engine knows too. A folder that is going away
		// cannot take it, and does not need it.
		if err := s.rec.save(s.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.e.log.Warn("a stop cannot be recorded", "slot", s.id, "error", err)
		}
	}
	s.mu.Unlock()
	if !watched {
		return s.group.Kill()
	}
	if err := s.kill(); err != nil {
		return err
	}
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
