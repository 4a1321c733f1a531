package gvisor

import (
	"context"

	"gvisor.dev/gvisor/runsc/boot"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
)

// sandbox implements engine.Sandbox. It is only a name: each call looks its
// slot up.
type sandbox struct {
	e  *Engine
	id engine.SlotID
}

// Status implements engine.Sandbox.
func (b *sandbox) Status(context.Context) (engine.Status, error) {
	s, err := b.e.find(b.id)
	if err != nil {
		return engine.Status{}, err
	}
	return s.status(), nil
}

// Wait implements engine.Sandbox.
func (b *sandbox) Wait(ctx context.Context) (engine.Exit, error) {
	s, err := b.e.find(b.id)
	if err != nil {
		return engine.Exit{}, err
	}
	select {
	case <-s.ended:
		return *s.status().Exit, nil
	case <-ctx.Done():
		return engine.Exit{}, context.Cause(ctx)
	case <-b.e.closing:
		return engine.Exit{}, errs.New(errs.Unavailable, "the engine is closed")
	}
}

// Stop implements engine.Sandbox.
func (b *sandbox) Stop(ctx context.Context) error {
	s, err := b.e.find(b.id)
	if err != nil {
		return err
	}
	if st := s.status().State; st == engine.StatePrepared {
		return errs.New(errs.Conflict, "the sandbox is %s, not started", st)
	}
	s.cutConnections()
	return s.halt(ctx)
}

// Pause implements engine.Sandbox.
func (b *sandbox) Pause(ctx context.Context) error {
	return b.operate(ctx, func(s *slot, state engine.State) error {
		if state == engine.StatePaused {
			return nil
		}
		if err := s.ctl.call(ctx, boot.ContMgrPause, nil, nil); err != nil {
			return s.callFailed(ctx, "gvisor.Pause", err)
		}
		return s.setState(engine.StatePaused)
	})
}

// Resume implements engine.Sandbox.
func (b *sandbox) Resume(ctx context.Context) error {
	return b.operate(ctx, func(s *slot, state engine.State) error {
		if state == engine.StateRunning {
			return nil
		}
		if err := s.ctl.call(ctx, boot.ContMgrResume, nil, nil); err != nil {
			return s.callFailed(ctx, "gvisor.Resume", err)
		}
		return s.setState(engine.StateRunning)
	})
}

// operate runs f, alone, on a sandbox that was running or paused a moment ago.
// Errors: NotFound, Conflict when it is in another state, those of f.
func (b *sandbox) operate(ctx context.Context, f func(*slot, engine.State) error) error {
	if err := b.e.begin(); err != nil {
		return err
	}
	defer b.e.work.Done()
	s, err := b.e.find(b.id)
	if err != nil {
		return err
	}
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	if _, err := b.e.find(b.id); err != nil {
		return err // destroyed meanwhile
	}
	state := s.status().State
	if state != engine.StateRunning && state != engine.StatePaused {
		return s.errEnded()
	}
	return f(s, state)
}
