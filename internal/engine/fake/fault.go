package fake

import (
	"context"
	"slices"
	"sync"

	"github.com/lehr-dev/lehr/internal/engine"
)

// Op names a call of the engine law.
type Op string

// The calls that faults can hit.
const (
	OpPrepare  Op = "prepare"
	OpStart    Op = "start"
	OpDestroy  Op = "destroy"
	OpStop     Op = "stop"
	OpPause    Op = "pause"
	OpResume   Op = "resume"
	OpSnapshot Op = "snapshot"
	OpLayer    Op = "layer"
	OpDial     Op = "dial"
	OpList     Op = "list"
	OpExec     Op = "exec" // a command through Guest
)

// Fault is what happens to calls. The zero values of Err, Half, Block and Lose
// do nothing.
type Fault struct {
	Op    Op
	Times int             // how many calls it hits; 0: all
	Slot  engine.SlotID   // only calls for this slot; "": any
	Block <-chan struct{} // the call waits until it is closed, or its context ends
	Lose  bool            // the sandbox dies, as if its isolation was killed
	Err   error           // the call returns it
	Half  bool            // the call does its work before it returns Err
}

// faults is the armed faults of a world.
type faults struct {
	mu    sync.Mutex
	armed []*Fault
}

// inject arms f; the returned function disarms it.
func (s *faults) inject(f Fault) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	armed := &f
	s.armed = append(s.armed, armed)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.armed = slices.DeleteFunc(s.armed, func(g *Fault) bool { return g == armed })
	}
}

// take returns the first fault that hits a call, counted down.
func (s *faults) take(op Op, slot engine.SlotID) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.armed {
		if f.Op != op || (f.Slot != "" && f.Slot != slot) {
			continue
		}
		hit := *f
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.armed = slices.Delete(s.armed, i, i+1)
			}
		}
		return hit, true
	}
	return Fault{}, false
}

// Inject arms a fault; the returned function disarms it.
func (w *World) Inject(f Fault) (disarm func()) { return w.faults.inject(f) }

// Do does the work of a call, as far as the faults let it. Tests use it to let
// faults hit calls of their own.
func (w *World) Do(ctx context.Context, op Op, slot engine.SlotID, work func() error) error {
	f, hit := w.faults.take(op, slot)
	if !hit {
		return work()
	}
	if f.Block != nil {
		select {
		case <-f.Block:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if f.Lose {
		w.Lose(slot)
	}
	if f.Err == nil {
		return work()
	}
	if f.Half {
		if err := work(); err != nil {
			return err
		}
	}
	return f.Err
}
