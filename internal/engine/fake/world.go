package fake

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Options of a World; the zero value is usable.
type Options struct {
	Clock    clock.Clock                                // default clock.Real
	Programs map[string]Program                         // by the base name of Init[0]; default: probe and lehr-init
	OpenTree func(path string) (io.ReadCloser, error)   // an image as a plain tar; default os.Open
	Build    string                                     // stands for the engine's file: another one does not fit its snapshots
	Trace    func(op Op, slot engine.SlotID, err error) // called after each call, if set
}

// World is the machine on which simulated sandboxes live. It outlives the
// engines opened on it and is safe for concurrent use.
type World struct {
	clock    clock.Clock
	programs map[string]Program
	openTree func(path string) (io.ReadCloser, error)
	build    string
	trace    func(op Op, slot engine.SlotID, err error)
	faults   faults

	mu    sync.Mutex
	slots map[engine.SlotID]*slot
}

// slot is one slot. The lock calls serialises the calls that change it.
type slot struct {
	id        engine.SlotID
	kind      engine.Kind
	resources lehr.Resources
	calls     chan struct{} // a lock that a context can give up on: holds one token

	mu        sync.Mutex
	labels    map[string]string
	state     engine.State // until there is a machine, which knows better
	startedAt time.Time
	machine   *Machine // nil before Start succeeded
	failed    bool     // a Start failed: the slot can only be destroyed
}

// NewWorld returns a machine without sandboxes.
func NewWorld(o Options) *World {
	w := &World{clock: o.Clock, programs: o.Programs, openTree: o.OpenTree, build: o.Build, trace: o.Trace, slots: map[engine.SlotID]*slot{}}
	if w.clock == nil {
		w.clock = clock.Real()
	}
	if w.programs == nil {
		w.programs = map[string]Program{"probe": Probe, "lehr-init": Guest}
	}
	if w.openTree == nil {
		w.openTree = func(path string) (io.ReadCloser, error) { return os.Open(path) }
	}
	if w.build == "" {
		w.build = "fake"
	}
	return w
}

// Machine returns the inside of a started slot, nil when there is none.
func (w *World) Machine(id engine.SlotID) *Machine {
	s := w.slot(id)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine
}

// Lose ends a sandbox as kill -9 of its isolation process would.
func (w *World) Lose(id engine.SlotID) {
	if m := w.Machine(id); m != nil {
		m.end(lehr.ReasonEngine, "the isolation process was killed")
	}
}

// Belongings names everything that exists on the machine.
func (w *World) Belongings() []string {
	w.mu.Lock()
	slots := slices.Collect(maps.Values(w.slots))
	w.mu.Unlock()
	var all []string
	for _, s := range slots {
		all = append(all, fmt.Sprintf("slot %s", s.id))
		if m := w.Machine(s.id); m != nil {
			all = append(all, fmt.Sprintf("machine %s with %d processes and %d connections", s.id, len(m.Processes()), m.net.open()))
		}
	}
	return all
}

func (w *World) slot(id engine.SlotID) *slot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slots[id]
}

// readImage returns an image's tree. Its failures are the image's.
func (w *World) readImage(r engine.Rootfs) (layer, error) {
	f, err := w.openTree(r.Path)
	if err != nil {
		return nil, errs.Wrap(err, errs.Corrupt, "fake.Start", "the image cannot be read")
	}
	defer f.Close()
	return readLayer(f)
}

// program finds the first process.
func (w *World) program(init []string) (Program, error) {
	if len(init) > 0 {
		if p := w.programs[path.Base(init[0])]; p != nil {
			return p, nil
		}
	}
	return nil, errs.New(errs.Corrupt, "the guest image has no first process %q", init)
}

// lock takes the slot's calls, or gives up when ctx ends.
func (s *slot) lock(ctx context.Context) error {
	select {
	case s.calls <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.calls <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *slot) unlock() { <-s.calls }

// status describes the slot.
func (s *slot) status() engine.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := engine.Status{
		Slot: s.id, State: s.state, Resources: s.resources,
		Labels: maps.Clone(s.labels), StartedAt: s.startedAt,
	}
	switch {
	case s.machine != nil:
		st.State, st.Exit = s.machine.state()
	case s.failed:
		st.State = engine.StateEnded
		st.Exit = &engine.Exit{Reason: lehr.ReasonEngine, Detail: "it could not be started", At: s.startedAt}
	}
	return st
}
