package gvisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
)

// adopt finds what an earlier engine left in the state folder: started
// sandboxes are taken over, everything else is removed.
func (e *Engine) adopt(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(e.opts.StateDir, slotsDir))
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot read the state folder")
	}
	var failed error
	for _, entry := range entries {
		failed = errors.Join(failed, e.adoptSlot(ctx, engine.SlotID(entry.Name())))
	}
	return failed
}

// adoptSlot takes over or removes one slot.
func (e *Engine) adoptSlot(ctx context.Context, id engine.SlotID) error {
	rec, err := loadRecord(e.slotDir(id))
	if err != nil && !errors.Is(err, errNoRecord) {
		return errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot read the record of slot "+string(id))
	}
	rec.Slot = id
	s := e.newSlot(rec)
	if err := s.adoptNetwork(ctx); err != nil {
		return err
	}
	if !adoptable(rec.State) {
		e.log.Info("removing a slot that was never started", "slot", id)
		undo, cancel := context.WithTimeout(ctx, cleanUpTime)
		defer cancel()
		return s.dismantle(undo)
	}
	e.mu.Lock()
	e.slots[id] = s
	e.mu.Unlock()
	return s.resumeWatch()
}

// resumeWatch follows the sentry of an adopted slot, or finds out how it ended.
func (s *slot) resumeWatch() error {
	if s.rec.Exit != nil {
		s.cutConnections()
		close(s.ended)
		return nil
	}
	p, err := openProcess(s.rec.Sentry)
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot watch the sandbox "+string(s.id))
	}
	if p == nil || p.over() {
		how := "ended while no engine watched it"
		if p != nil {
			how, err = p.wait()
			p.close()
		}
		s.cutConnections()
		s.end(s.judge(how))
		return err
	}
	s.sentry = p
	s.e.work.Add(2)
	go s.watch(p)
	go s.watchGuest()
	s.takeMemoryBack() // an earlier engine may have ended before it did
	return nil
}

// adoptable reports whether a slot that an earlier engine left in that state
// holds a sandbox. One that was being prepared or started does not: what would
// have finished it is gone.
func adoptable(state engine.State) bool {
	switch state {
	case engine.StateRunning, engine.StatePaused, engine.StateEnded:
		return true
	default:
		return false
	}
}
