package fake

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Engine is one process's hold on a World. Crashing it is forgetting it.
type Engine struct {
	world  *World
	closed atomic.Bool
}

var _ engine.Engine = (*Engine)(nil)

// Open returns an engine on w; it finds every slot that is there.
func (w *World) Open() *Engine { return &Engine{world: w} }

// Info describes the fake.
func (e *Engine) Info() engine.Info {
	return engine.Info{
		Name: "fake", Version: e.world.build,
		Digest: lehr.DigestOf([]byte(e.world.build)), CPUFeatures: lehr.DigestOf([]byte("no cpu")),
		Platform: "linux/" + runtime.GOARCH,
	}
}

// traced reports the outcome of a call.
func (e *Engine) traced(op Op, slot engine.SlotID, err error) error {
	if e.world.trace != nil {
		e.world.trace(op, slot, err)
	}
	return err
}

func (e *Engine) usable(ctx context.Context) error {
	if e.closed.Load() {
		return errs.New(errs.Unavailable, "the engine is closed")
	}
	return context.Cause(ctx)
}

// Prepare makes a slot.
func (e *Engine) Prepare(ctx context.Context, spec engine.PrepareSpec) (engine.SlotID, error) {
	if err := e.usable(ctx); err != nil {
		return "", e.traced(OpPrepare, "", err)
	}
	id := newSlotID()
	err := e.world.Do(ctx, OpPrepare, id, func() error {
		e.world.mu.Lock()
		defer e.world.mu.Unlock()
		e.world.slots[id] = &slot{
			id: id, kind: spec.Kind, resources: spec.Resources, calls: make(chan struct{}, 1),
			labels: maps.Clone(spec.Labels), state: engine.StatePrepared,
		}
		return nil
	})
	if err != nil {
		return "", e.traced(OpPrepare, id, err)
	}
	return id, e.traced(OpPrepare, id, nil)
}

// newSlotID returns 26 random lower-case characters.
func newSlotID() engine.SlotID {
	b := make([]byte, 17)
	_, _ = rand.Read(b) // never fails
	return engine.SlotID(strings.ToLower(base32.HexEncoding.EncodeToString(b))[:26])
}

// Start boots or restores a template in a slot.
func (e *Engine) Start(ctx context.Context, id engine.SlotID, spec engine.StartSpec) error {
	s := e.world.slot(id)
	if s == nil {
		return e.traced(OpStart, id, gone(id))
	}
	if err := s.lock(ctx); err != nil {
		return e.traced(OpStart, id, err)
	}
	defer s.unlock()
	if err := e.admit(s, spec); err != nil {
		return e.traced(OpStart, id, err)
	}
	err := e.usable(ctx)
	if err == nil {
		err = e.world.Do(ctx, OpStart, id, func() error { return e.world.start(s, spec) })
	}
	if err != nil {
		s.fail(e.world)
	}
	return e.traced(OpStart, id, err)
}

// admit checks that the slot can take spec and takes it out of the prepared ones.
func (e *Engine) admit(s *slot, spec engine.StartSpec) error {
	if e.world.slot(s.id) != s {
		return gone(s.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.machine != nil || s.failed {
		return errs.New(errs.Conflict, "slot %s was used already", s.id)
	}
	if restore := spec.Snapshot != nil; restore != (s.kind == engine.KindRestore) {
		return errs.New(errs.Conflict, "slot %s was prepared to %s", s.id, s.kind)
	}
	if spec.Snapshot != nil {
		if err := e.fits(spec.Snapshot.Info); err != nil {
			s.failed = true
			return err
		}
	}
	s.state = engine.StateStarting
	return nil
}

// fits refuses the snapshot of another engine or CPU.
func (e *Engine) fits(info engine.SnapshotInfo) error {
	own := e.Info()
	if info.Engine != own.Digest {
		return errs.New(errs.Unsupported, "the snapshot belongs to engine %s, this one is %s", info.Engine, own.Digest)
	}
	if info.CPUFeatures != own.CPUFeatures {
		return errs.New(errs.Unsupported, "the snapshot belongs to another CPU")
	}
	return nil
}

// start makes the machine and runs its first process.
func (w *World) start(s *slot, spec engine.StartSpec) error {
	program, err := w.program(spec.Init)
	if err != nil {
		return err
	}
	lower, err := w.readImage(spec.Image)
	if err != nil {
		return err
	}
	tree := newTree(lower, int64(s.resources.DiskMB)<<20, w.clock.Now)
	m := newMachine(w, s.id, s.resources, spec, tree)
	if spec.Snapshot != nil {
		if err := m.restore(spec.Snapshot); err != nil {
			m.stop()
			return err
		}
	}
	s.mu.Lock()
	s.machine, s.startedAt = m, w.clock.Now()
	labels := maps.Clone(s.labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, spec.Labels)
	s.labels = labels
	s.mu.Unlock()
	m.boot(program)
	return nil
}

// fail marks a slot whose Start failed; a machine that was made meanwhile ends.
func (s *slot) fail(w *World) {
	s.mu.Lock()
	s.failed = true
	s.startedAt = w.clock.Now()
	m := s.machine
	s.mu.Unlock()
	if m != nil {
		m.end(lehr.ReasonEngine, "its start failed")
	}
}

// List returns every slot.
func (e *Engine) List(ctx context.Context) ([]engine.Status, error) {
	if err := e.usable(ctx); err != nil {
		return nil, err
	}
	var all []engine.Status
	err := e.world.Do(ctx, OpList, "", func() error {
		e.world.mu.Lock()
		slots := slices.Collect(maps.Values(e.world.slots))
		e.world.mu.Unlock()
		for _, s := range slots {
			all = append(all, s.status())
		}
		return nil
	})
	return all, e.traced(OpList, "", err)
}

// Sandbox returns a handle.
func (e *Engine) Sandbox(id engine.SlotID) engine.Sandbox { return &Sandbox{engine: e, id: id} }

// Destroy removes a slot.
func (e *Engine) Destroy(ctx context.Context, id engine.SlotID) error {
	s := e.world.slot(id)
	if s == nil {
		return e.traced(OpDestroy, id, nil)
	}
	return e.traced(OpDestroy, id, e.world.Do(ctx, OpDestroy, id, func() error { return e.world.destroy(s) }))
}

// destroy ends what runs and waits for it, so that nothing is left.
func (w *World) destroy(s *slot) error {
	if err := s.lock(context.Background()); err != nil { // Start never hangs once a Block was lifted
		return err
	}
	defer s.unlock()
	if m := w.Machine(s.id); m != nil {
		m.end(lehr.ReasonUser, "destroyed")
		m.work.Wait()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.slots, s.id)
	return nil
}

// Close destroys the slots that were never started; the rest goes on.
func (e *Engine) Close() error {
	if e.closed.Swap(true) {
		return nil
	}
	e.world.mu.Lock()
	slots := slices.Collect(maps.Values(e.world.slots))
	e.world.mu.Unlock()
	for _, s := range slots {
		if s.status().State != engine.StatePrepared {
			continue
		}
		if err := e.world.destroy(s); err != nil {
			return err
		}
	}
	return nil
}

func gone(id engine.SlotID) error { return errs.New(errs.NotFound, "slot %s does not exist", id) }
