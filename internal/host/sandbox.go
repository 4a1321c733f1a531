package host

import (
	"context"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// sandbox is one sandbox of a host. Host.mu guards rec, guest and dying; turn
// serialises what changes the sandbox, and is held across calls to engine and
// guest, during creation too. Doom ends what is under way before the turn is
// asked for, so that destroying waits for nobody.
type sandbox struct {
	rec   record
	guest Guest           // nil before creation is complete and after the end
	dying bool            // a destroy is under way
	ports portSet         // connections from outside; guards itself
	turn  chan struct{}   // capacity 1
	ended chan struct{}   // closed when the state is an end
	life  context.Context //nolint:containedctx // ended by doom
	doom  context.CancelCauseFunc
}

func newSandbox(rec record) *sandbox {
	s := &sandbox{rec: rec, turn: make(chan struct{}, 1), ended: make(chan struct{})}
	s.life, s.doom = context.WithCancelCause(context.Background())
	return s
}

// take waits for the sandbox's turn.
func (s *sandbox) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *sandbox) leave() { <-s.turn }

// slot returns the engine's name. It is set before anyone else sees the
// sandbox as running and never changes then.
func (s *sandbox) slot() engine.SlotID { return s.rec.Slot }

func (s *sandbox) closeGuest() {
	if s.guest != nil {
		_ = s.guest.Close() // only lets connections go
	}
}

// lookup returns a sandbox.
func (h *Host) lookup(id lehr.SandboxID) (*sandbox, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sandboxes[id]
	if s == nil {
		return nil, notFound(id)
	}
	return s, nil
}

func notFound(id lehr.SandboxID) error {
	return errs.New(errs.NotFound, "sandbox %s is not on this host", id).WithCode("sandbox_not_found")
}

// running returns a sandbox that can run a command.
func (h *Host) running(id lehr.SandboxID) (*sandbox, error) {
	s, err := h.lookup(id)
	if err != nil {
		return nil, err
	}
	return s, h.wantRunning(s)
}

// wantRunning names the state that forbids a command.
func (h *Host) wantRunning(s *sandbox) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch st := s.rec.State; {
	case st == lehr.SandboxRunning && s.guest != nil:
		return nil
	case !st.Live():
		return endedError(&s.rec)
	case st == lehr.SandboxCreating:
		return errs.New(errs.Conflict, "sandbox %s is being created", s.rec.ID).WithCode("sandbox_creating")
	default:
		return errs.New(errs.Conflict, "sandbox %s is %s", s.rec.ID, st).
			WithCode("sandbox_paused").WithRemedy("resume it first")
	}
}

// endedError says how a sandbox ended.
func endedError(r *record) error {
	reason := string(r.Reason)
	if reason == "" {
		reason = string(r.State)
	}
	return errs.New(errs.Conflict, "sandbox %s has ended: %s", r.ID, reason).WithCode("sandbox_ended")
}

// begin takes a sandbox's turn for a call; the caller calls done at the end.
func (h *Host) begin(ctx context.Context, id lehr.SandboxID) (s *sandbox, joined context.Context, done func(), err error) {
	ctx, leave, err := h.enter(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if s, err = h.lookup(id); err != nil {
		leave()
		return nil, nil, nil, err
	}
	joined, release := join(ctx, s.life)
	if err := s.take(joined); err != nil {
		release()
		leave()
		return nil, nil, nil, err
	}
	return s, joined, func() { s.leave(); release(); leave() }, nil
}

// setState moves a sandbox, writes it down and tells the watchers. An illegal
// move is refused and reported as false: somebody else was first.
func (h *Host) setState(s *sandbox, to lehr.SandboxState, reason lehr.SandboxReason, detail string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.setStateLocked(s, to, reason, detail)
}

func (h *Host) setStateLocked(s *sandbox, to lehr.SandboxState, reason lehr.SandboxReason, detail string) bool {
	legal := false
	for _, next := range lehr.SandboxMoves[s.rec.State] {
		legal = legal || next == to
	}
	if !legal {
		return false
	}
	s.rec.State, s.rec.Reason, s.rec.Detail = to, reason, detail
	if !to.Live() {
		s.rec.EndedAt = h.clock.Now()
		s.ports.cut()
		s.closeGuest()
		s.guest = nil
		close(s.ended)
		h.nudge()
	}
	if err := h.saveRecord(&s.rec); err != nil {
		// The state in memory is right; after a crash the engine's own list
		// corrects the record.
		h.log.Error("a sandbox's record could not be written", "sandbox", s.rec.ID, "error", err)
	}
	h.tell(s.rec.view())
	return true
}

// watch follows the engine until the sandbox ends, then records how and gives
// its resources back.
func (h *Host) watch(s *sandbox) {
	exit, err := h.opt.Engine.Sandbox(s.slot()).Wait(h.life)
	if h.life.Err() != nil {
		return
	}
	if err != nil {
		exit = engine.Exit{Reason: lehr.ReasonEngine, Detail: err.Error()}
	}
	if !h.setState(s, lehr.SandboxFailed, exit.Reason, exit.Detail) {
		return // it was ended by request, who takes it away as well
	}
	h.log.Info("a sandbox ended", "sandbox", s.rec.ID, "reason", exit.Reason, "detail", exit.Detail)
	ctx, cancel := context.WithTimeout(context.Background(), cleanupLimit)
	defer cancel()
	if err := s.take(ctx); err != nil {
		h.log.Error("an ended sandbox could not be taken away", "sandbox", s.rec.ID, "error", err)
		return
	}
	defer s.leave()
	if err := h.opt.Engine.Destroy(ctx, s.slot()); err != nil {
		h.log.Error("an ended sandbox could not be taken away", "sandbox", s.rec.ID, "error", err)
	}
}

// GetSandbox returns one sandbox.
func (h *Host) GetSandbox(_ context.Context, id lehr.SandboxID) (agent.Sandbox, error) {
	s, err := h.lookup(id)
	if err != nil {
		return agent.Sandbox{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return s.rec.view(), nil
}

// ListSandboxes returns all sandboxes, in no particular order.
func (h *Host) ListSandboxes(context.Context) ([]agent.Sandbox, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]agent.Sandbox, 0, len(h.sandboxes))
	for _, s := range h.sandboxes {
		all = append(all, s.rec.view())
	}
	return all, nil
}

// RenewSandbox sets the time-to-live counted from now.
func (h *Host) RenewSandbox(_ context.Context, id lehr.SandboxID, ttl time.Duration) error {
	if ttl < 0 {
		return errs.New(errs.Invalid, "a time-to-live cannot be negative").WithField("ttl")
	}
	s, err := h.lookup(id)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !s.rec.State.Live() {
		return endedError(&s.rec)
	}
	if s.dying { // its time was over before this call
		return errDestroyed
	}
	s.rec.ExpiresAt = h.expiry(ttl)
	h.nudge()
	return h.saveRecord(&s.rec)
}

// expiry returns when a time-to-live ends; zero is never.
func (h *Host) expiry(ttl time.Duration) time.Time {
	if ttl == 0 {
		return time.Time{}
	}
	return h.clock.Now().Add(ttl)
}

// PauseSandbox freezes a running sandbox; a paused one stays so.
func (h *Host) PauseSandbox(ctx context.Context, id lehr.SandboxID) error {
	return h.change(ctx, id, lehr.SandboxPausing, lehr.SandboxPaused, engine.Sandbox.Pause)
}

// ResumeSandbox lets a paused sandbox go on; a running one does already.
func (h *Host) ResumeSandbox(ctx context.Context, id lehr.SandboxID) error {
	return h.change(ctx, id, lehr.SandboxResuming, lehr.SandboxRunning, engine.Sandbox.Resume)
}

// change moves a sandbox through a passing state to another; when the engine
// refuses, it goes back to where it was.
func (h *Host) change(ctx context.Context, id lehr.SandboxID, via, to lehr.SandboxState, call func(engine.Sandbox, context.Context) error) error {
	s, ctx, done, err := h.begin(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	h.mu.Lock()
	from := s.rec.State
	moved := from != to && h.setStateLocked(s, via, "", "")
	h.mu.Unlock()
	switch {
	case from == to:
		return nil
	case !moved:
		return h.refuseMove(s, from)
	}
	if err := call(h.opt.Engine.Sandbox(s.slot()), ctx); err != nil {
		h.setState(s, from, "", "")
		return h.ruling(s, err)
	}
	h.setState(s, to, "", "")
	return nil
}

func (h *Host) refuseMove(s *sandbox, from lehr.SandboxState) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !from.Live() {
		return endedError(&s.rec)
	}
	return errs.New(errs.Conflict, "sandbox %s is %s", s.rec.ID, from)
}
