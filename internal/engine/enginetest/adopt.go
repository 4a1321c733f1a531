package enginetest

import (
	"testing"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/lehr"
)

var adoptTests = []subtest{
	{"a crashed engine's sandboxes are found and go on", testAdoptAfterCrash},
	{"a closed engine's sandboxes are found, its prepared slots are gone", testAdoptAfterClose},
	{"what ended while nobody watched is listed as ended", testAdoptEnded},
	{"an adopted sandbox can be paused, snapshotted and stopped", testAdoptedWorks},
}

// adopted checks an adopted sandbox against what the probe said before.
func (b *bench) adopted(t *testing.T, slot engine.SlotID, before map[string]string) engine.Sandbox {
	t.Helper()
	st, ok := b.list(t)[slot]
	if !ok || st.State != engine.StateRunning || st.Resources != small || st.StartedAt.IsZero() {
		t.Fatalf("adopted slot in List() = %+v, %v, want it running", st, ok)
	}
	wantLabels(t, st, map[string]string{"suite": "enginetest", "name": "probe"})
	sb := b.eng.Sandbox(slot)
	after := b.fields(t, sb, "nonce")
	if after["nonce"] != before["nonce"] || after["started"] != before["started"] {
		t.Errorf("adopted probe = %v, was %v", after, before)
	}
	b.awaitRise(t, sb, number(t, before, "counter"))
	return sb
}

func testAdoptAfterCrash(t *testing.T, b *bench) {
	slot, sb := b.boot(t, small)
	prepared := b.prepare(t, engine.KindBoot, small)
	before := b.fields(t, sb, "nonce")
	b.eng = b.Crash(t)
	adopted := b.adopted(t, slot, before)
	// A prepared slot may be gone or listed as prepared; it must not be lost.
	if st, ok := b.list(t)[prepared]; ok && st.State != engine.StatePrepared {
		t.Errorf("prepared slot after a crash = %+v", st)
	}
	_, fresh := b.boot(t, small)
	b.do(t, fresh, "echo", "a new one beside the adopted")
	_, _ = b.Run(b.ctx(t), adopted, "exit", "0")
	b.wantReason(t, adopted, lehr.ReasonGuestLost)
}

func testAdoptAfterClose(t *testing.T, b *bench) {
	slot, sb := b.boot(t, small)
	prepared := b.prepare(t, engine.KindBoot, small)
	before := b.fields(t, sb, "nonce")
	if err := b.eng.Close(); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	b.eng = b.Reopen(t)
	b.adopted(t, slot, before)
	if st, ok := b.list(t)[prepared]; ok {
		t.Errorf("prepared slot after Close = %+v, want it gone", st)
	}
}

func testAdoptEnded(t *testing.T, b *bench) {
	if b.KillSandbox == nil {
		t.Skip("SKIP-ENV: the subject cannot kill a sandbox from outside")
	}
	slot, _ := b.boot(t, small)
	if err := b.eng.Close(); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	if err := b.KillSandbox(b.ctx(t), slot); err != nil {
		t.Fatalf("KillSandbox() = %v", err)
	}
	b.eng = b.Reopen(t)
	st, ok := b.list(t)[slot]
	if !ok || st.State != engine.StateEnded || st.Exit == nil {
		t.Fatalf("slot that ended unseen = %+v, %v, want it ended", st, ok)
	}
	b.wantReason(t, b.eng.Sandbox(slot), st.Exit.Reason)
}

func testAdoptedWorks(t *testing.T, b *bench) {
	slot, sb := b.boot(t, small)
	b.do(t, sb, "put", "/base/new", "before the crash")
	before := b.fields(t, sb, "nonce")
	b.eng = b.Crash(t)
	sb = b.adopted(t, slot, before)
	if err := sb.Pause(b.ctx(t)); err != nil {
		t.Fatalf("Pause(adopted) = %v", err)
	}
	if err := sb.Resume(b.ctx(t)); err != nil {
		t.Fatalf("Resume(adopted) = %v", err)
	}
	wantFile(t, b.layer(t, sb), "base/new", "before the crash", 0o644)
	_, clone := b.restore(t, b.snapshot(t, sb))
	if got := b.fields(t, clone, "nonce")["nonce"]; got != before["nonce"] {
		t.Errorf("nonce of the adopted one's clone = %s, want %s", got, before["nonce"])
	}
	if err := sb.Stop(b.ctx(t)); err != nil {
		t.Fatalf("Stop(adopted) = %v", err)
	}
	b.wantReason(t, sb, lehr.ReasonUser)
}
