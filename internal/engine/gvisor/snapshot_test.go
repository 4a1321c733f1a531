package gvisor_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// snapshotOf returns a snapshot of a fresh sandbox, after change was done to it.
func (w *world) snapshotOf(t *testing.T, change func(engine.Sandbox)) *engine.Snapshot {
	t.Helper()
	_, sb := w.boot(t, w.f.image, smallShape, probewire.Init()...)
	awaitProbe(t, sb)
	change(sb)
	snap := &engine.Snapshot{Dir: t.TempDir()}
	var err error
	if snap.Info, err = sb.Snapshot(t.Context(), snap.Dir); err != nil {
		t.Fatalf("Snapshot() = %v", err)
	}
	return snap
}

// restore starts snap in a slot of the given shape.
func (w *world) restore(t *testing.T, snap *engine.Snapshot, shape lehr.Resources) (engine.Sandbox, error) {
	t.Helper()
	slot, err := w.e.Prepare(t.Context(), engine.PrepareSpec{Kind: engine.KindRestore, Resources: shape})
	if err != nil {
		t.Fatalf("Prepare() = %v", err)
	}
	spec := engine.StartSpec{
		Image: w.f.image, Guest: w.f.guest, Init: probewire.Init(), Env: []string{"PATH=/bin"},
		Hostname: "clone", Snapshot: snap,
	}
	return w.e.Sandbox(slot), w.e.Start(t.Context(), slot, spec)
}

func TestSnapshotOfAPausedSandbox(t *testing.T) {
	w := newWorld(t)
	var original engine.Sandbox
	snap := w.snapshotOf(t, func(sb engine.Sandbox) {
		original = sb
		if err := sb.Pause(t.Context()); err != nil {
			t.Fatalf("Pause() = %v", err)
		}
	})
	if st, err := original.Status(t.Context()); err != nil || st.State != engine.StatePaused {
		t.Errorf("Status() after Snapshot = %+v, %v, want paused", st, err)
	}
	clone, err := w.restore(t, snap, smallShape)
	if err != nil {
		t.Fatalf("Start(snapshot of a paused sandbox) = %v", err)
	}
	awaitProbe(t, clone)
}

func TestCloneTakesItsHostName(t *testing.T) {
	w := newWorld(t)
	snap := w.snapshotOf(t, func(engine.Sandbox) {})
	clone, err := w.restore(t, snap, smallShape)
	if err != nil {
		t.Fatalf("Start() = %v", err)
	}
	awaitProbe(t, clone)
	if got, err := enginetest.Run(t.Context(), clone, "read", "/proc/sys/kernel/hostname"); err != nil || got != "clone\n" {
		t.Errorf("host name of the clone = %q, %v, want clone", got, err)
	}
}

func TestSnapshotFitsOneShape(t *testing.T) {
	w := newWorld(t)
	snap := w.snapshotOf(t, func(engine.Sandbox) {})
	other := smallShape
	other.MemoryMB *= 2
	if _, err := w.restore(t, snap, other); !errs.IsKind(err, errs.Unsupported) {
		t.Errorf("Start(slot of another size) = %v, want kind unsupported", err)
	}
}

// TestDamagedSnapshot flips one bit in each file: nothing of it runs.
func TestDamagedSnapshot(t *testing.T) {
	w := newWorld(t)
	snap := w.snapshotOf(t, func(engine.Sandbox) {})
	entries, err := os.ReadDir(snap.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		damaged := *snap
		damaged.Dir = t.TempDir()
		if err := os.CopyFS(damaged.Dir, os.DirFS(snap.Dir)); err != nil {
			t.Fatal(err)
		}
		flipBit(t, filepath.Join(damaged.Dir, entry.Name()))
		if _, err := w.restore(t, &damaged, smallShape); !errs.IsKind(err, errs.Corrupt) {
			t.Errorf("Start(snapshot with a bit of %s flipped) = %v, want kind corrupt", entry.Name(), err)
		}
	}
}

// flipBit changes one bit in the middle of a file.
func flipBit(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFullHost fills the host's file system before the sandbox's own disk.
func TestFullHost(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=100m,mode=755"); err != nil {
		t.Skip("SKIP-ENV: no mounts: " + err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	w := &world{f: f, dir: dir}
	w.reopen(t)
	t.Cleanup(func() { w.closeAll(t) })
	_, sb := w.boot(t, f.image, lehr.Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 1024}, probewire.Init()...)
	awaitProbe(t, sb)
	if out, err := enginetest.Run(t.Context(), sb, "write", "/large", "400"); err == nil {
		t.Errorf("writing 400 MB to a host with 100 = %q, want an error", out)
	}
	if out, err := enginetest.Run(t.Context(), sb, "echo", "alive"); err != nil || out != "alive" {
		t.Errorf("echo on a full host = %q, %v", out, err)
	}
}
