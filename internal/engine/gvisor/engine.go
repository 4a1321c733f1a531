// Package gvisor is the engine that runs sandboxes on gVisor: each one is a
// process of its own, the sentry, which is a kernel in user space.
//
// The engine starts sentries itself and speaks to them over their control
// sockets; it uses none of runsc's own start code. That code is made for a
// program that starts one sandbox and ends: it passes descriptors that are not
// close-on-exec, hands its own standard output to the guest, and keeps files
// and mounts of its own. Doing it here means that
//
//   - a sentry is born with exactly the descriptors it was given, whatever else
//     this process does at the same time;
//   - twenty sandboxes can start at once;
//   - a writable layer on disk needs no helper process, since the file behind
//     it is handed over open (docs/adr/0003-writable-layer.md);
//   - the caller's main thread, standard streams and environment do not matter.
//
// A sandbox has two containers: a pause program that holds the sentry open, and
// the template. Its sentry lives on when this process ends, and the next engine
// on the same state folder adopts it.
package gvisor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"
	gvisorlog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/config"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/jail"
	"github.com/lehr-dev/lehr/internal/errs"
)

// Engine implements engine.Engine on gVisor. It owns its slots; every goroutine it starts
// ends before Close returns.
type Engine struct {
	opts   Options
	info   engine.Info
	log    *slog.Logger
	conf   *config.Config
	groups *jail.Hierarchy
	lock   *flock.Flock
	sentry *os.File
	pause  string // image of the pause program

	closing chan struct{}  // closed by Close
	work    sync.WaitGroup // watches, removals and preparations

	mu     sync.Mutex
	closed bool
	slots  map[engine.SlotID]*slot
}

var _ engine.Engine = (*Engine)(nil)

// Open makes an engine and adopts the sandboxes that an earlier one on the same
// state folder left running; slots that were never started are removed. Errors:
// Invalid, Conflict when another engine uses the state folder, Unavailable.
func Open(ctx context.Context, o Options) (_ *Engine, err error) {
	o, err = o.check()
	if err != nil {
		return nil, err
	}
	silenceLibrary()
	e := &Engine{opts: o, log: o.Log, closing: make(chan struct{}), slots: map[engine.SlotID]*slot{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.releaseFiles())
		}
	}()
	if err := e.openFiles(); err != nil {
		return nil, err
	}
	if e.groups, err = jail.Detect(o.CgroupParent); err != nil {
		return nil, err
	}
	if e.conf, err = newConfig(o.StateDir); err != nil {
		return nil, errs.Wrap(err, errs.Internal, "gvisor.Open", "cannot configure gVisor")
	}
	if e.info, err = readInfo(e.sentry); err != nil {
		return nil, err
	}
	if e.pause, err = writePauseImage(o.StateDir); err != nil {
		return nil, err
	}
	return e, e.adopt(ctx)
}

// silenceLibrary keeps gVisor's packages from writing to this process's
// standard error; what they return is reported by their callers.
func silenceLibrary() { gvisorlog.SetTarget(discard{}) }

// openFiles takes hold of the state folder and of the sentry file.
func (e *Engine) openFiles() error {
	dir := e.opts.StateDir
	if err := os.MkdirAll(filepath.Join(dir, slotsDir), 0o711); err != nil {
		return errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot make the state folder "+dir)
	}
	e.lock = flock.New(filepath.Join(dir, "lock"))
	held, err := e.lock.TryLock()
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot lock the state folder "+dir)
	}
	if !held {
		return errs.New(errs.Conflict, "another engine uses the state folder %s", dir)
	}
	if e.sentry, err = os.Open(e.opts.Sentry); err != nil {
		return errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot open the sentry file "+e.opts.Sentry)
	}
	st, err := e.sentry.Stat()
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot read the sentry file "+e.opts.Sentry)
	}
	if st.Mode().Perm()&0o005 != 0o005 {
		return errs.New(errs.Invalid, "the sentry file %s is not readable and executable for others", e.opts.Sentry).
			WithField("sentry").WithRemedy("chmod 755 %s", e.opts.Sentry)
	}
	return nil
}

func (e *Engine) releaseFiles() error {
	var failed error
	if e.sentry != nil {
		failed = e.sentry.Close()
	}
	if e.lock != nil {
		failed = errors.Join(failed, e.lock.Close())
	}
	return failed
}

// Info implements engine.Engine.
func (e *Engine) Info() engine.Info { return e.info }

// List implements engine.Engine.
func (e *Engine) List(context.Context) ([]engine.Status, error) {
	e.mu.Lock()
	slots := make([]*slot, 0, len(e.slots))
	for _, s := range e.slots {
		slots = append(slots, s)
	}
	e.mu.Unlock()
	list := make([]engine.Status, 0, len(slots))
	for _, s := range slots {
		list = append(list, s.status())
	}
	return list, nil
}

// Sandbox implements engine.Engine.
func (e *Engine) Sandbox(id engine.SlotID) engine.Sandbox { return &sandbox{e: e, id: id} }

// find returns the slot of that id. Errors: NotFound.
func (e *Engine) find(id engine.SlotID) (*slot, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.slots[id]
	if s == nil {
		return nil, errs.New(errs.NotFound, "there is no slot %q", string(id))
	}
	return s, nil
}

// begin counts a piece of work that Close must wait for. Errors: Unavailable
// once Close was called. The caller calls e.work.Done.
func (e *Engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errs.New(errs.Unavailable, "the engine is closed")
	}
	e.work.Add(1)
	return nil
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	var unstarted []*slot
	for _, s := range e.slots {
		if s.status().State == engine.StatePrepared {
			unstarted = append(unstarted, s)
		}
	}
	e.mu.Unlock()
	for _, s := range unstarted {
		s.remove()
	}
	var failed error
	for _, s := range unstarted {
		failed = errors.Join(failed, s.awaitRemoval(context.Background()))
	}
	close(e.closing)
	e.mu.Lock()
	for _, s := range e.slots {
		s.abandon()
	}
	e.mu.Unlock()
	e.work.Wait()
	return errors.Join(failed, e.releaseFiles())
}
