package enginetest

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

var lifecycleTests = []subtest{
	{"info is complete and stable", testInfo},
	{"prepare ahead and start later", testPrepareAhead},
	{"start refuses", testStartRefuses},
	{"start of a broken image fails and leaves a slot to destroy", testStartBroken},
	{"stop and wait", testStop},
	{"first process exits", testFirstProcessExits},
	{"killed from outside", testKilled},
	{"wait ends with its context", testWaitContext},
	{"destroy is idempotent and complete when it returns", testDestroy},
	{"handles of a gone slot answer not found", testGone},
	{"connections break when the sandbox ends", testConnectionsBreak},
}

func testInfo(t *testing.T, b *bench) {
	info := b.eng.Info()
	if info.Name == "" || info.Version == "" || info.Platform == "" {
		t.Errorf("Info() = %+v, want name, version and platform", info)
	}
	for _, d := range []lehr.Digest{info.Digest, info.CPUFeatures} {
		if _, err := lehr.ParseDigest(string(d)); err != nil {
			t.Errorf("Info() = %+v: %v", info, err)
		}
	}
	if again := b.eng.Info(); again != info {
		t.Errorf("Info() again = %+v, want %+v", again, info)
	}
}

func testPrepareAhead(t *testing.T, b *bench) {
	first := b.prepare(t, engine.KindBoot, small)
	second := b.prepare(t, engine.KindBoot, small)
	if first == second || len(first) != 26 {
		t.Fatalf("Prepare() twice = %q, %q, want two ids of 26 characters", first, second)
	}
	if st := b.list(t)[first]; st.State != engine.StatePrepared || st.Resources != small {
		t.Errorf("prepared slot in List() = %+v", st)
	}
	wantLabels(t, b.list(t)[first], map[string]string{"suite": "enginetest"})
	// The later slot starts first: the order of Prepare binds nothing.
	for _, slot := range []engine.SlotID{second, first} {
		if err := b.eng.Start(b.ctx(t), slot, b.spec()); err != nil {
			t.Fatalf("Start(%s) = %v", slot, err)
		}
		b.awaitProbe(t, b.eng.Sandbox(slot))
	}
	st := b.list(t)[first]
	if st.State != engine.StateRunning || st.StartedAt.IsZero() || st.Exit != nil || st.Resources != small {
		t.Errorf("started slot in List() = %+v", st)
	}
	wantLabels(t, st, map[string]string{"suite": "enginetest", "name": "probe"})
	direct, err := b.eng.Sandbox(first).Status(b.ctx(t))
	if err != nil || direct.Slot != first || direct.State != st.State || !maps.Equal(direct.Labels, st.Labels) {
		t.Errorf("Status() = %+v, %v, want as in List: %+v", direct, err, st)
	}
}

func testStartRefuses(t *testing.T, b *bench) {
	ctx := b.ctx(t)
	wantKind(t, "Start(unknown slot)", b.eng.Start(ctx, engine.SlotID("00000000000000000000000000"), b.spec()), errs.NotFound)
	slot, _ := b.boot(t, small)
	wantKind(t, "Start(used slot)", b.eng.Start(ctx, slot, b.spec()), errs.Conflict)
	restore := b.prepare(t, engine.KindRestore, small)
	wantKind(t, "Start(restore slot, no snapshot)", b.eng.Start(ctx, restore, b.spec()), errs.Conflict)
	boot := b.prepare(t, engine.KindBoot, small)
	withSnapshot := b.spec()
	withSnapshot.Snapshot = &engine.Snapshot{Dir: t.TempDir()}
	wantKind(t, "Start(boot slot, snapshot)", b.eng.Start(ctx, boot, withSnapshot), errs.Conflict)
}

func testStartBroken(t *testing.T, b *bench) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("not a file system"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{garbage, garbage + "-missing"} {
		slot := b.prepare(t, engine.KindBoot, small)
		spec := b.spec()
		spec.Image = engine.Rootfs{Path: path, Digest: lehr.DigestOf([]byte(path))}
		if err := b.eng.Start(b.ctx(t), slot, spec); err == nil {
			t.Errorf("Start(image %s) = nil, want an error", path)
		}
		b.destroy(t, slot)
	}
}

func testStop(t *testing.T, b *bench) {
	slot, sb := b.boot(t, small)
	exits := make(chan engine.Exit, 3)
	go func() {
		_ = each(cap(exits), func(int) error {
			exit, err := sb.Wait(t.Context())
			if err != nil {
				exit.Detail = err.Error()
			}
			exits <- exit
			return nil
		})
	}()
	for range 2 { // the second finds it ended
		if err := sb.Stop(b.ctx(t)); err != nil {
			t.Fatalf("Stop() = %v", err)
		}
	}
	for range cap(exits) {
		if exit := <-exits; exit.Reason != lehr.ReasonUser {
			t.Errorf("Wait() during Stop = %+v, want reason user", exit)
		}
	}
	st, listed := b.list(t)[slot]
	if !listed || st.State != engine.StateEnded || st.Exit == nil || st.Exit.Reason != lehr.ReasonUser {
		t.Errorf("stopped slot in List() = %+v, %v", st, listed)
	}
	b.wantReason(t, sb, lehr.ReasonUser)
	wantKind(t, "Pause(ended)", sb.Pause(b.ctx(t)), errs.Conflict)
	wantKind(t, "Resume(ended)", sb.Resume(b.ctx(t)), errs.Conflict)
	if conn, err := sb.Dial(b.ctx(t), 7070); err == nil {
		_ = conn.Close()
		t.Error("Dial(ended) = nil, want an error")
	}
}

func testFirstProcessExits(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	_, _ = b.Run(b.ctx(t), sb, "exit", "3") // its answer dies with it
	b.wantReason(t, sb, lehr.ReasonGuestLost)
}

func testKilled(t *testing.T, b *bench) {
	if b.KillSandbox == nil {
		t.Skip("SKIP-ENV: the subject cannot kill a sandbox from outside")
	}
	slot, sb := b.boot(t, small)
	conn, err := hold(b.ctx(t), sb)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := b.KillSandbox(b.ctx(t), slot); err != nil {
		t.Fatalf("KillSandbox() = %v", err)
	}
	b.wantReason(t, sb, lehr.ReasonEngine)
	wantBroken(t, conn)
}

func testWaitContext(t *testing.T, b *bench) {
	slot, sb := b.boot(t, small)
	ctx, cancel := context.WithCancel(b.ctx(t))
	cancel()
	_, err := sb.Wait(ctx)
	wantKind(t, "Wait(cancelled)", err, errs.Cancelled)
	if st := b.list(t)[slot]; st.State != engine.StateRunning {
		t.Errorf("after a cancelled Wait the slot is %+v", st)
	}
}

func testDestroy(t *testing.T, b *bench) {
	before := b.leaks(t)
	prepared := b.prepare(t, engine.KindBoot, small)
	running, _ := b.boot(t, small)
	ended, sb := b.boot(t, small)
	if err := sb.Stop(b.ctx(t)); err != nil {
		t.Fatalf("Stop() = %v", err)
	}
	if extra := surplus(b.leaks(t), before); len(extra) == 0 {
		t.Error("Leaks() sees nothing of three slots: the check is blind")
	}
	for _, slot := range []engine.SlotID{prepared, running, ended} {
		b.destroy(t, slot)
		if _, listed := b.list(t)[slot]; listed {
			t.Errorf("List() after Destroy(%s) still names it", slot)
		}
		b.destroy(t, slot)
	}
	b.destroy(t, engine.SlotID("00000000000000000000000000"))
	if extra := surplus(b.leaks(t), before); len(extra) > 0 {
		t.Errorf("Destroy returned, but there is %q", slices.Compact(extra))
	}
}

func testGone(t *testing.T, b *bench) {
	slot, sb := b.boot(t, small)
	b.destroy(t, slot)
	ctx := b.ctx(t)
	_, err := sb.Status(ctx)
	wantKind(t, "Status(gone)", err, errs.NotFound)
	_, err = sb.Wait(ctx)
	wantKind(t, "Wait(gone)", err, errs.NotFound)
	wantKind(t, "Stop(gone)", sb.Stop(ctx), errs.NotFound)
	wantKind(t, "Pause(gone)", sb.Pause(ctx), errs.NotFound)
	_, err = sb.Snapshot(ctx, t.TempDir())
	wantKind(t, "Snapshot(gone)", err, errs.NotFound)
	wantKind(t, "WritableLayer(gone)", sb.WritableLayer(ctx, &countingWriter{}), errs.NotFound)
	_, err = sb.Dial(ctx, 7070)
	wantKind(t, "Dial(gone)", err, errs.NotFound)
	_, err = b.eng.Sandbox("00000000000000000000000000").Status(ctx)
	wantKind(t, "Status(never was)", err, errs.NotFound)
}

func testConnectionsBreak(t *testing.T, b *bench) {
	ends := []struct {
		name string
		end  func(t *testing.T, slot engine.SlotID, sb engine.Sandbox)
	}{
		{"stop", func(t *testing.T, _ engine.SlotID, sb engine.Sandbox) {
			if err := sb.Stop(b.ctx(t)); err != nil {
				t.Fatalf("Stop() = %v", err)
			}
		}},
		{"destroy", func(t *testing.T, slot engine.SlotID, _ engine.Sandbox) { b.destroy(t, slot) }},
		{"exit", func(t *testing.T, _ engine.SlotID, sb engine.Sandbox) {
			_, _ = b.Run(b.ctx(t), sb, "exit", "0")
		}},
	}
	for _, e := range ends {
		slot, sb := b.boot(t, small)
		conn, err := hold(b.ctx(t), sb)
		if err != nil {
			t.Fatal(err)
		}
		e.end(t, slot, sb)
		wantBroken(t, conn)
		_ = conn.Close()
	}
}
