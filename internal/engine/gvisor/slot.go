package gvisor

import (
	"context"
	"net"
	"os"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/jail"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// slot is one slot and the sandbox in it. Whoever holds op may change what the
// slot is doing; Stop and Destroy take the sentry away without it, so that they
// end an operation that hangs. mu guards the fields below it; of rec, what says
// which slot this is never changes and is read without it.
type slot struct {
	e     *Engine
	id    engine.SlotID
	dir   string
	group *jail.Group
	ctl   controlSocket
	op    chan struct{} // capacity 1; full while an operation runs
	ended chan struct{} // closed when rec.Exit is set
	down  chan struct{} // closed by cutConnections: nothing answers any more

	lent    sync.Mutex // held while the memory limit is changed
	lending bool       // guarded by lent: the limit is raised

	mu      sync.Mutex
	rec     record
	sentry  *process // nil before it was launched
	lease   NetLease // nil without a network
	conns   map[net.Conn]struct{}
	cut     bool     // down is closed: new connections are refused
	lost    string   // how the first process ended, when it did
	removal *removal // the present or last attempt to remove the slot
}

// newSlot returns a slot with the given record; nothing of it exists yet.
func (e *Engine) newSlot(rec record) *slot {
	dir := e.slotDir(rec.Slot)
	return &slot{
		e: e, id: rec.Slot, dir: dir, rec: rec,
		group: e.groups.Group(string(rec.Slot)),
		ctl:   controlSocket{dir: dir},
		op:    make(chan struct{}, 1),
		ended: make(chan struct{}),
		down:  make(chan struct{}),
		conns: map[net.Conn]struct{}{},
	}
}

func (s *slot) status() engine.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.status()
}

// acquire waits for the right to operate on s, which it gets also when ctx has
// ended but nobody else holds it. Errors: the cause of ctx.
func (s *slot) acquire(ctx context.Context) error {
	select {
	case s.op <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *slot) release() { <-s.op }

// update changes the record and saves it.
func (s *slot) update(change func(*record)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.rec)
	if err := s.rec.save(s.dir); err != nil {
		return errs.Wrap(err, errs.Unavailable, "gvisor.record", "cannot save the state of the sandbox")
	}
	return nil
}

// setState moves a live slot to state; an ended one stays ended.
func (s *slot) setState(state engine.State) error {
	return s.update(func(r *record) {
		if r.Exit == nil {
			r.State = state
		}
	})
}

// watch follows the sentry until it ends or the engine closes. The caller has
// counted it in e.work.
func (s *slot) watch(p *process) {
	defer s.e.work.Done()
	defer p.close()
	how, err := p.wait()
	if err != nil {
		return // closed: the next engine goes on
	}
	s.cutConnections()
	s.end(s.judge(how))
}

// judge says why the sentry ended.
func (s *slot) judge(how string) engine.Exit {
	hits, err := s.group.Hits()
	if err != nil {
		s.e.log.Warn("limits of an ended sandbox cannot be read", "slot", s.id, "error", err)
	}
	s.mu.Lock()
	stopping, lost := s.rec.Stopping, s.lost
	s.mu.Unlock()
	exit := engine.Exit{At: time.Now()}
	switch {
	case stopping:
		exit.Reason, exit.Detail = lehr.ReasonUser, "stopped"
	case hits.OOMKills > 0:
		exit.Reason, exit.Detail = lehr.ReasonOOM, "memory beyond the limit"
	case hits.PidsMax > 0:
		exit.Reason, exit.Detail = lehr.ReasonPids, "processes beyond the limit"
	case lost != "":
		exit.Reason, exit.Detail = lehr.ReasonGuestLost, lost
	default:
		exit.Reason, exit.Detail = lehr.ReasonEngine, "the sentry "+how+"; "+logTail(s.dir)
	}
	return exit
}

// end records how the sandbox ended, once.
func (s *slot) end(exit engine.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rec.Exit != nil {
		return
	}
	s.rec.Exit = &exit
	s.rec.State = engine.StateEnded
	if err := s.rec.save(s.dir); err != nil && !os.IsNotExist(err) {
		s.e.log.Warn("the end of a sandbox cannot be recorded", "slot", s.id, "error", err)
	}
	close(s.ended)
}

// kill ends the sentry, and with it every process of the sandbox.
func (s *slot) kill() error {
	s.mu.Lock()
	p := s.sentry
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	select {
	case <-s.ended:
		return nil
	default:
	}
	if err := p.kill(); err != nil {
		return errs.Wrap(err, errs.Internal, "gvisor.kill", "cannot kill the sentry")
	}
	return nil
}

// abandon stops watching the sentry, which lives on.
func (s *slot) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sentry != nil {
		s.sentry.close()
	}
}

// callFailed turns a failed call to the sentry into an error for callers: most
// often the sandbox ended meanwhile.
func (s *slot) callFailed(ctx context.Context, op string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if s.endsSoon() {
		return s.errEnded()
	}
	return errs.Wrap(err, errs.Unavailable, op, "the sandbox's kernel did not do it")
}

// endsSoon reports whether the sandbox has ended; a sentry's connections break
// a moment before its end is seen.
func (s *slot) endsSoon() bool {
	const moment = 500 * time.Millisecond
	s.mu.Lock()
	p := s.sentry
	s.mu.Unlock()
	if p == nil {
		return true
	}
	if !p.over() {
		return false
	}
	select {
	case <-s.ended:
		return true
	case <-time.After(moment):
		return false
	}
}

// errEnded is Conflict, naming how the sandbox ended.
func (s *slot) errEnded() error {
	st := s.status()
	if st.Exit == nil {
		return errs.New(errs.Conflict, "the sandbox is %s", st.State)
	}
	return errs.New(errs.Conflict, "the sandbox has ended: %s", st.Exit.Reason)
}
