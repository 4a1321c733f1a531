package host

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// adopt brings records and slots together at the start of a host: complete
// sandboxes go on, everything half-made or unknown is destroyed.
func (h *Host) adopt(ctx context.Context) error {
	records, err := h.loadRecords()
	if err != nil {
		return err
	}
	slots, err := h.opt.Engine.List(ctx)
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "host.Open", "the engine cannot say what it runs")
	}
	found := map[lehr.SandboxID]engine.Status{}
	var strays []engine.SlotID
	for _, st := range slots {
		r := records[lehr.SandboxID(st.Labels[labelSandbox])]
		if r == nil || r.Slot != st.Slot || !r.State.Live() || r.State == lehr.SandboxCreating || st.State == engine.StateEnded {
			strays = append(strays, st.Slot)
		}
		if r != nil && r.Slot == st.Slot {
			found[r.ID] = st
		}
	}
	for id, r := range records {
		st, ok := found[id]
		if err := h.adoptRecord(r, st, ok); err != nil {
			return err
		}
	}
	return h.destroyStrays(ctx, strays)
}

// adoptRecord settles what becomes of one record.
func (h *Host) adoptRecord(r *record, st engine.Status, found bool) error {
	switch {
	case !r.State.Live():
		h.sandboxes[r.ID] = endedSandbox(*r)
		return nil
	case r.State == lehr.SandboxCreating:
		h.log.Info("a half-made sandbox is taken away", "sandbox", r.ID)
		return h.dropRecord(r.ID)
	case !found || st.State == engine.StateEnded:
		reason, detail := lehr.ReasonEngine, "it was gone when the agent came back"
		if st.Exit != nil {
			reason, detail = st.Exit.Reason, st.Exit.Detail
		}
		r.State, r.Reason, r.Detail, r.EndedAt = lehr.SandboxFailed, reason, detail, h.clock.Now()
		h.sandboxes[r.ID] = endedSandbox(*r)
		h.log.Info("a sandbox ended while the agent was away", "sandbox", r.ID, "reason", reason)
		return h.saveRecord(r)
	}
	r.State = lehr.SandboxRunning
	if st.State == engine.StatePaused {
		r.State = lehr.SandboxPaused
	}
	s := newSandbox(*r)
	s.guest = h.connect(s)
	h.sandboxes[r.ID] = s
	h.work.Go(func() { h.watch(s) })
	h.log.Info("a sandbox was adopted", "sandbox", r.ID, "state", r.State)
	return h.saveRecord(r)
}

// endedSandbox is a sandbox of which only the record is left.
func endedSandbox(r record) *sandbox {
	s := newSandbox(r)
	close(s.ended)
	return s
}

// destroyStrays destroys slots at once; it fails when one of them stays.
func (h *Host) destroyStrays(ctx context.Context, slots []engine.SlotID) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupLimit)
	defer cancel()
	failures := make([]error, len(slots))
	var work sync.WaitGroup
	for i, slot := range slots {
		work.Go(func() {
			if err := h.opt.Engine.Destroy(ctx, slot); err != nil {
				failures[i] = fmt.Errorf("destroy slot %s: %w", slot, err)
			}
		})
	}
	work.Wait()
	if err := errors.Join(failures...); err != nil {
		// A stray slot costs memory, not correctness: the host opens.
		h.log.Error("slots of nobody could not be destroyed", "error", err)
	}
	return nil
}
