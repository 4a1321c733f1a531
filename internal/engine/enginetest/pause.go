package enginetest

import (
	"context"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
)

var pauseTests = []subtest{
	{"the counter stands still and goes on", testPause},
	{"a paused sandbox can be stopped", testPauseStop},
}

// tick is the interval of the probe's counter.
const tick = 10 * time.Millisecond

func testPause(t *testing.T, b *bench) {
	slot, sb := b.boot(t, small)
	before := b.fields(t, sb, "nonce")
	read := time.Now()
	for range 2 { // the second finds it paused
		if err := sb.Pause(b.ctx(t)); err != nil {
			t.Fatalf("Pause() = %v", err)
		}
	}
	paused := time.Now()
	if st := b.list(t)[slot]; st.State != engine.StatePaused {
		t.Errorf("paused slot in List() = %+v", st)
	}
	b.wantFrozen(t, sb, time.Second)
	awake := paused.Sub(read)
	resumed := time.Now()
	for range 2 {
		if err := sb.Resume(b.ctx(t)); err != nil {
			t.Fatalf("Resume() = %v", err)
		}
	}
	after := b.fields(t, sb, "nonce")
	awake += time.Since(resumed)
	if st := b.list(t)[slot]; st.State != engine.StateRunning {
		t.Errorf("resumed slot in List() = %+v", st)
	}
	// The counter may rise only while the sandbox was awake.
	rose := number(t, after, "counter") - number(t, before, "counter")
	if most := int64(awake/tick) + 10; rose > most {
		t.Errorf("the counter rose by %d in %v awake, want at most %d", rose, awake, most)
	}
	if after["nonce"] != before["nonce"] || after["started"] != before["started"] {
		t.Errorf("after resume the probe is %v, was %v", after, before)
	}
	b.awaitRise(t, sb, number(t, after, "counter"))
}

// wantFrozen checks for a while that no verb is answered.
func (b *bench) wantFrozen(t *testing.T, sb engine.Sandbox, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx(t), d)
	defer cancel()
	if out, err := b.Run(ctx, sb, "echo", "frozen"); err == nil {
		t.Errorf("a paused sandbox answered %q", out)
	}
	<-ctx.Done() // a refused connection must not make the pause shorter
}

// awaitRise waits until the counter is beyond from.
func (b *bench) awaitRise(t *testing.T, sb engine.Sandbox, from int64) {
	t.Helper()
	ctx := b.ctx(t)
	for ctx.Err() == nil {
		if number(t, b.fields(t, sb, "nonce"), "counter") > from {
			return
		}
	}
	t.Errorf("the counter stays at %d", from)
}

func testPauseStop(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	if err := sb.Pause(b.ctx(t)); err != nil {
		t.Fatalf("Pause() = %v", err)
	}
	if err := sb.Stop(b.ctx(t)); err != nil {
		t.Fatalf("Stop(paused) = %v", err)
	}
	b.wantReason(t, sb, "user")
	slot, sb := b.boot(t, small)
	if err := sb.Pause(b.ctx(t)); err != nil {
		t.Fatalf("Pause() = %v", err)
	}
	b.destroy(t, slot)
}
