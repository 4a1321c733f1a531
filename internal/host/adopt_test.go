package host_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/fake"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/host/hosttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestRestartKeepsSandboxes(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	running := create(t, b, func(r *agent.CreateSandbox) { r.Fence = lehr.Fence{BuildID: lehr.NewBuildID(), Attempt: 2} })
	paused, lost := create(t, b), create(t, b)
	sh(t, b, running, "serve 80 &")
	if err := b.PauseSandbox(t.Context(), paused); err != nil {
		t.Fatal(err)
	}
	lostSlot := slotNamed(t, b, lost)
	before, _ := b.GetSandbox(t.Context(), running)
	b.Restart(t)
	after, err := b.GetSandbox(t.Context(), running)
	if err != nil || after != before {
		t.Errorf("after a restart the sandbox is %+v, %v, want %+v", after, err, before)
	}
	if _, code := sh(t, b, running, "check 80"); code != 0 {
		t.Error("the process did not go on")
	}
	if sb, err := b.GetSandbox(t.Context(), paused); err != nil || sb.State != lehr.SandboxPaused {
		t.Errorf("the paused sandbox is %+v, %v", sb, err)
	}
	b.World.Lose(lostSlot) // an adopted sandbox is watched
	if sb := awaitState(t, b, lost, lehr.SandboxFailed); sb.Reason != lehr.ReasonEngine {
		t.Errorf("the lost sandbox is %+v, want reason engine", sb)
	}
}

func slotNamed(t *testing.T, b *hosttest.Bundle, id lehr.SandboxID) engine.SlotID {
	t.Helper()
	all, err := b.Opt.Engine.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range all {
		if st.Labels["lehr.sandbox"] == string(id) {
			return st.Slot
		}
	}
	t.Fatalf("no slot of sandbox %s in %v", id, all)
	return ""
}

func TestEndedWhileAway(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	oom, vanished := create(t, b), create(t, b)
	oomSlot, vanishedSlot := slotNamed(t, b, oom), slotNamed(t, b, vanished)
	if err := b.Host.Close(); err != nil {
		t.Fatal(err)
	}
	_ = b.World.Machine(oomSlot).Grow(1 << 20) // ends it
	if err := b.Opt.Engine.Destroy(t.Context(), vanishedSlot); err != nil {
		t.Fatal(err)
	}
	reopened, err := host.Open(t.Context(), b.Opt)
	if err != nil {
		t.Fatalf("host.Open() = %v", err)
	}
	b.Host = reopened
	for id, want := range map[lehr.SandboxID]lehr.SandboxReason{oom: lehr.ReasonOOM, vanished: lehr.ReasonEngine} {
		if sb, err := b.GetSandbox(t.Context(), id); err != nil || sb.State != lehr.SandboxFailed || sb.Reason != want {
			t.Errorf("sandbox that ended while nobody watched = %+v, %v, want failed: %s", sb, err, want)
		}
	}
	if left := b.World.Belongings(); len(left) > 0 {
		t.Errorf("ended sandboxes hold %q", left)
	}
}

// TestCrash forgets the host and opens another one, as after kill -9.
func TestCrash(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	kept := create(t, b)
	stray, err := b.Opt.Engine.Prepare(t.Context(), engine.PrepareSpec{Kind: engine.KindBoot, Resources: lehr.DefaultResources})
	if err != nil {
		t.Fatal(err)
	}
	half := lehr.NewSandboxID()
	record := `{"id":"` + string(half) + `","state":"creating","slot":"` + string(stray) + `"}`
	for name, text := range map[string]string{string(half) + ".json": record, "torn.json.new": "{", string(lehr.NewSandboxID()) + ".json": "{"} {
		if err := os.WriteFile(filepath.Join(b.Opt.StateDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again := b.Opt
	again.Engine = b.World.Open()
	second, err := host.Open(t.Context(), again)
	if err != nil {
		t.Fatalf("host.Open() = %v", err)
	}
	defer second.Close()
	all, err := second.ListSandboxes(t.Context())
	if err != nil || len(all) != 1 || all[0].ID != kept {
		t.Errorf("ListSandboxes() = %v, %v, want only %s", all, err, kept)
	}
	if left := b.World.Belongings(); len(left) != 2 { // a slot and the machine in it
		t.Errorf("after a crash there is %q, want one sandbox", left)
	}
	entries, err := os.ReadDir(b.Opt.StateDir)
	if err != nil || len(entries) != 1 {
		t.Errorf("records after a crash = %v, %v, want one", entries, err)
	}
	if _, err := second.Exec(t.Context(), agent.Exec{SandboxID: kept, Args: []string{"true"}}, discard); err != nil {
		t.Errorf("Exec(adopted) = %v", err)
	}
}

func TestClosedHostRefuses(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	r := hosttest.Request(b.Minimal(t))
	never := make(chan struct{})
	defer b.World.Inject(fake.Fault{Op: fake.OpStart, Block: never, Times: 1})()
	failed := make(chan error, 1)
	go func() {
		_, err := b.CreateSandbox(t.Context(), r)
		failed <- err
	}()
	awaitState(t, b, r.ID, lehr.SandboxCreating)
	if err := b.Host.Close(); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	if err := <-failed; !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("CreateSandbox() during Close = %v, want kind unavailable", err)
	}
	wantNothing(t, b)
	if _, err := b.CreateSandbox(t.Context(), r); !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("CreateSandbox() after Close = %v, want kind unavailable", err)
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	pool := host.Pool{Size: 2, Restore: 1, Resources: lehr.DefaultResources}
	b := hosttest.New(t, hosttest.Options{Pool: pool})
	create(t, b)
	other := create(t, b, func(r *agent.CreateSandbox) { r.Resources.MemoryMB = 1024 })
	snap, err := b.CreateSnapshot(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	create(t, b, func(r *agent.CreateSandbox) { r.Snapshot, r.Resources.MemoryMB = snap.Digest, 1024 })
	all, err := b.Opt.Engine.List(t.Context())
	if err != nil || len(all) < 3 {
		t.Errorf("List() = %v, %v, want three sandboxes and what is pooled", all, err)
	}
	if err := b.Host.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Opt.Engine.Close(); err != nil {
		t.Fatal(err)
	}
	all, err = b.World.Open().List(t.Context())
	if err != nil || len(all) != 3 {
		t.Errorf("List() after Close = %v, %v, want the three sandboxes and no pooled slot", all, err)
	}
}
