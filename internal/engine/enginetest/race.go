package enginetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

var raceTests = []subtest{
	{"twenty at once", testTwenty},
	{"start races with destroy", testStartDestroy},
	{"destroy races with destroy", testDestroyDestroy},
	{"stop races with the first process's exit", testStopExit},
	{"a cancelled prepare leaves nothing", testCancelPrepare},
	{"a cancelled start leaves a slot to destroy", testCancelStart},
	{"a cancelled destroy goes on", testCancelDestroy},
}

// shape20 is small enough for twenty on a small machine.
var shape20 = lehr.Resources{VCPUs: 1, MemoryMB: 128, DiskMB: 64}

func testTwenty(t *testing.T, b *bench) {
	const n = 20
	ctx := b.ctx(t)
	err := each(n, func(i int) error {
		slot, err := b.eng.Prepare(ctx, engine.PrepareSpec{Kind: engine.KindBoot, Resources: shape20})
		if err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		spec := b.spec()
		spec.Hostname = fmt.Sprintf("probe-%d", i)
		if err := b.eng.Start(ctx, slot, spec); err != nil {
			return fmt.Errorf("start: %w", err)
		}
		return b.wantHostname(ctx, b.eng.Sandbox(slot), spec.Hostname)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(b.list(t)); got != n {
		t.Errorf("List() has %d slots, want %d", got, n)
	}
	nonces := map[string]bool{}
	for slot := range b.list(t) {
		nonces[b.fields(t, b.eng.Sandbox(slot), "nonce")["nonce"]] = true
	}
	if len(nonces) != n {
		t.Errorf("%d sandboxes have %d nonces: dials reach the wrong one", n, len(nonces))
	}
	b.wantNoForeignDescriptors(t)
	if err := each(n, b.destroyNth(ctx, b.list(t))); err != nil {
		t.Error(err)
	}
}

// wantHostname asks until the probe answers and compares its host name, which
// tells that the connection reached the right sandbox.
func (b *bench) wantHostname(ctx context.Context, sb engine.Sandbox, want string) error {
	for {
		out, err := b.Run(ctx, sb, "whoami")
		if err == nil {
			if got := parseFields(out)["hostname"]; got != want {
				return fmt.Errorf("hostname = %q, want %q", got, want)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the probe never answered: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (b *bench) wantNoForeignDescriptors(t *testing.T) {
	t.Helper()
	if b.ForeignDescriptors == nil {
		t.Log("descriptors not proven: the subject has no hook")
		return
	}
	foreign, err := b.ForeignDescriptors(b.ctx(t))
	if err != nil || len(foreign) > 0 {
		t.Errorf("ForeignDescriptors() = %q, %v, want none", foreign, err)
	}
}

// destroyNth returns a function that destroys the i-th slot.
func (b *bench) destroyNth(ctx context.Context, all map[engine.SlotID]engine.Status) func(int) error {
	slots := make([]engine.SlotID, 0, len(all))
	for slot := range all {
		slots = append(slots, slot)
	}
	return func(i int) error { return b.eng.Destroy(ctx, slots[i]) }
}

func testStartDestroy(t *testing.T, b *bench) {
	const n = 6
	for i := range n {
		slot := b.prepare(t, engine.KindBoot, shape20)
		started := make(chan error, 1)
		go func() { started <- b.eng.Start(b.ctx(t), slot, b.spec()) }()
		time.Sleep(time.Duration(i*i) * time.Millisecond) // meets Start at different moments
		b.destroy(t, slot)
		if err := <-started; err != nil {
			wantKind(t, "Start(destroyed meanwhile)", err, unavailableOr(errs.NotFound, errs.Conflict, errs.Cancelled)...)
		}
		if st, ok := b.list(t)[slot]; ok {
			t.Errorf("after Destroy during Start the slot is %+v", st)
		}
	}
}

func testDestroyDestroy(t *testing.T, b *bench) {
	slot, sb := b.boot(t, small)
	ctx := b.ctx(t)
	waited := make(chan error, 1)
	go func() {
		_, err := sb.Wait(ctx)
		waited <- err
	}()
	if err := each(4, func(int) error { return b.eng.Destroy(ctx, slot) }); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil { // it saw the end, or found the slot gone
		wantKind(t, "Wait(destroyed meanwhile)", err, errs.NotFound)
	}
}

func testStopExit(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	ctx := b.ctx(t)
	go func() { _, _ = b.Run(ctx, sb, "exit", "0") }()
	if err := sb.Stop(ctx); err != nil {
		t.Errorf("Stop() = %v", err)
	}
	if exit := b.wait(t, sb); exit.Reason != lehr.ReasonUser && exit.Reason != lehr.ReasonGuestLost {
		t.Errorf("Wait() = %+v, want reason user or guest_lost", exit)
	}
}

func testCancelPrepare(t *testing.T, b *bench) {
	for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(b.ctx(t), after)
		slot, err := b.eng.Prepare(ctx, engine.PrepareSpec{Kind: engine.KindBoot, Resources: shape20})
		cancel()
		if err == nil {
			b.destroy(t, slot)
			continue
		}
		wantKind(t, "Prepare(ctx ended)", err, unavailableOr(errs.Timeout, errs.Cancelled)...)
		if left := b.list(t); len(left) > 0 {
			t.Errorf("a Prepare cancelled after %v left %v", after, left)
		}
	}
}

func testCancelStart(t *testing.T, b *bench) {
	for _, after := range []time.Duration{0, time.Millisecond, 4 * time.Millisecond, 10 * time.Millisecond} {
		slot := b.prepare(t, engine.KindBoot, shape20)
		ctx, cancel := context.WithTimeout(b.ctx(t), after)
		err := b.eng.Start(ctx, slot, b.spec())
		cancel()
		if err != nil {
			wantKind(t, "Start(ctx ended)", err, unavailableOr(errs.Timeout, errs.Cancelled)...)
			wantKind(t, "Start(failed slot)", b.eng.Start(b.ctx(t), slot, b.spec()), errs.Conflict)
		}
		b.destroy(t, slot)
	}
}

func testCancelDestroy(t *testing.T, b *bench) {
	slot, _ := b.boot(t, small)
	alive := b.ctx(t)
	ctx, cancel := context.WithCancel(alive)
	cancel()
	_ = b.eng.Destroy(ctx, slot) // an error says only that it did not wait
	for {
		if _, ok := b.list(t)[slot]; !ok {
			return
		}
		select {
		case <-alive.Done():
			t.Fatal("a cancelled Destroy does not go on")
		case <-time.After(5 * time.Millisecond):
		}
	}
}
