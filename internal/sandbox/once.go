package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// awaitPoll is how often a creation is looked at that another process works on.
const awaitPoll = 100 * time.Millisecond

// errStops is why creations end that nobody waits for when the process does.
var errStops = errs.New(errs.Unavailable, "the control plane stopped while it made the sandbox").
	WithCode("stopping").WithRemedy("ask again, under another idempotency key")

// work is a creation that this process works on.
type work struct {
	done   chan struct{} // closed at its end
	cancel context.CancelCauseFunc
}

// makeDetached makes a sandbox whatever becomes of the caller: one who does not
// wait, or one who may come again with the same key.
func (s *Service) makeDetached(ctx context.Context, c *creation) (lehr.Sandbox, bool, error) {
	box, created, err := s.record(ctx, c)
	if err != nil {
		return lehr.Sandbox{}, false, err
	}
	if !created {
		s.setPending(c.id, nil)
		box, err = s.replay(ctx, box, c.p.NoWait)
		return box, false, err
	}
	own, stop := context.WithTimeoutCause(context.WithoutCancel(ctx), s.o.Timing.Creating,
		errs.New(errs.Timeout, "the sandbox was not ready within %v", s.o.Timing.Creating))
	own, cancel := context.WithCancelCause(own)
	begun := s.detach(c.id, cancel, func() {
		defer stop()
		defer cancel(nil)
		defer s.setPending(c.id, nil)
		if _, err := s.finish(own, c, box); err != nil {
			s.o.Log.Debug("a sandbox could not be made", "sandbox", box.ID, "error", err)
		}
	})
	if !begun {
		stop()
		cancel(nil)
		s.fail(ctx, box, errStops)
		s.setPending(c.id, nil)
		return lehr.Sandbox{}, false, errStops
	}
	if c.p.NoWait {
		return box, true, nil
	}
	box, err = s.await(ctx, box)
	return box, true, err
}

// detach lets f work on a creation that nobody waits for; false where those were
// ended already.
func (s *Service) detach(id lehr.SandboxID, cancel context.CancelCauseFunc, f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.pending[id] = work{done: make(chan struct{}), cancel: cancel}
	s.detached.Go(f)
	return true
}

// stopDetached ends the creations that nobody waits for, and lets none begin any
// more.
func (s *Service) stopDetached() {
	s.mu.Lock()
	s.stopped = true
	for _, w := range s.pending {
		if w.cancel != nil {
			w.cancel(errStops)
		}
	}
	s.mu.Unlock()
	s.detached.Wait()
}

// replayed answers a request whose key was used before; ok is false where it
// was not.
func (s *Service) replayed(ctx context.Context, c *creation) (box lehr.Sandbox, ok bool, err error) {
	known, err := s.o.Store.Sandboxes().ByKey(ctx, c.p.TeamID, c.p.IdempotencyKey, c.digest)
	if errs.IsKind(err, errs.NotFound) {
		return lehr.Sandbox{}, false, nil
	}
	if err != nil {
		return lehr.Sandbox{}, false, err
	}
	box, err = s.replay(ctx, known, c.p.NoWait)
	return box, true, err
}

// replay answers a repeated request with what became of its first: the sandbox,
// once it runs, or the error that it could not be made for.
func (s *Service) replay(ctx context.Context, box lehr.Sandbox, noWait bool) (lehr.Sandbox, error) {
	if noWait {
		return box, nil
	}
	return s.await(ctx, box)
}

// await waits for the end of a creation, here or in another process. One whose
// process is gone is ended by whoever watches its host.
func (s *Service) await(ctx context.Context, box lehr.Sandbox) (lehr.Sandbox, error) {
	for box.State == lehr.SandboxCreating {
		wait := s.o.Clock.NewTimer(awaitPoll)
		select {
		case <-s.doneOf(box.ID):
		case <-wait.C():
		case <-ctx.Done():
			wait.Stop()
			return lehr.Sandbox{}, context.Cause(ctx)
		}
		wait.Stop()
		var err error
		if box, err = s.Get(ctx, box.TeamID, box.ID); err != nil {
			return lehr.Sandbox{}, err
		}
	}
	if box.Error != nil {
		return lehr.Sandbox{}, failureOf(box.Error)
	}
	return box, nil
}

// doneOf is closed when this process is done with a creation; it blocks for
// ever where another one works on it.
func (s *Service) doneOf(id lehr.SandboxID) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[id].done
}

// failureOf is the error that a sandbox could not be made for.
func failureOf(e *lehr.SandboxError) error {
	return &errs.Error{Kind: errs.Kind(e.Kind), Code: e.Code, Field: e.Field, Message: e.Message, Remedy: e.Remedy}
}

// sandboxError is what is recorded of err; texts that are not for callers stay
// in the log.
func sandboxError(err error) lehr.SandboxError {
	var e *errs.Error
	if errors.As(err, &e) {
		return lehr.SandboxError{Kind: string(e.Kind), Code: errs.CodeOf(e), Field: e.Field, Message: e.Message, Remedy: e.Remedy}
	}
	return lehr.SandboxError{Kind: string(errs.KindOf(err)), Code: errs.CodeOf(err), Message: "the sandbox could not be made"}
}

// requestDigest tells whether a repeated idempotency key repeats the request.
// Whether its caller waits is not part of it.
func (s *Service) requestDigest(p CreateParams) lehr.Digest {
	p.IdempotencyKey, p.NoWait = "", false
	b, err := json.Marshal(p) // maps are written in order
	if err != nil {
		panic("sandbox: a request cannot be encoded: " + err.Error()) // plain data always can
	}
	return s.o.Digest(b)
}
