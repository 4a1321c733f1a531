package host_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host/hosttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// With nothing left but the reserve a host takes no new work and says why; what
// runs goes on, and once there is room again so does the rest.
func TestFullDiskRefusesNewWork(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	image := b.Minimal(t)
	var free atomic.Int64
	free.Store(100 << 30)
	b.Opt.Disk = func() (total, left int64, err error) { return 200 << 30, free.Load(), nil }
	b.Restart(t)
	id := create(t, b)
	free.Store(1 << 30)
	if info, err := b.Info(t.Context()); err != nil || !info.Disk.Low() || info.Disk.ReserveBytes != 2<<30 {
		t.Errorf("Info() = %+v, %v, want a low disk and a reserve of 2 GB", info.Disk, err)
	}
	refused := map[string]error{}
	_, refused["CreateSandbox"] = b.CreateSandbox(t.Context(), hosttest.Request(image))
	_, refused["FlattenRootfs"] = b.FlattenRootfs(t.Context(), id)
	_, refused["CreateSnapshot"] = b.CreateSnapshot(t.Context(), id)
	_, refused["ImportImage"] = b.ImportImage(t.Context(), agent.ImportTar, strings.NewReader(""))
	_, refused["MakeMinimal"] = b.MakeMinimal(t.Context())
	for call, err := range refused {
		if !errs.IsKind(err, errs.Exhausted) || errs.CodeOf(err) != "host_disk_full" {
			t.Errorf("%s on a full disk = %v, want host_disk_full", call, err)
		}
	}
	if out, code := sh(t, b, id, "echo alive"); code != 0 || out != "alive\n" {
		t.Errorf("a running sandbox says %q, %d", out, code)
	}
	free.Store(100 << 30)
	create(t, b)
}

// A record that was cut anywhere is of no sandbox: the host opens, takes the slot
// away, and adopts nothing twice. A whole one is adopted.
func TestRecordCutAnywhere(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	kept := create(t, b)
	create(t, b)
	for _, cut := range []func(whole int) int{
		func(int) int { return 0 },
		func(int) int { return 1 },
		func(int) int { return 2 },
		func(n int) int { return n / 4 },
		func(n int) int { return n / 2 },
		func(n int) int { return n - 2 },
		func(n int) int { return n - 1 },
	} {
		id := create(t, b)
		path := recordOf(b, id)
		whole, err := os.ReadFile(path) // times in it differ in length
		if err != nil {
			t.Fatal(err)
		}
		size := cut(len(whole))
		if err := os.Truncate(path, int64(size)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".new", whole[:size], 0o600); err != nil { // of a write that was cut off
			t.Fatal(err)
		}
		b.Restart(t)
		if _, err := b.GetSandbox(t.Context(), id); !errs.IsKind(err, errs.NotFound) {
			t.Errorf("a sandbox whose record was cut to %d bytes: GetSandbox() = %v, want NotFound", size, err)
		}
		if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
			t.Errorf("cut to %d bytes: files left: %v", size, left)
		}
		if box, err := b.GetSandbox(t.Context(), kept); err != nil || box.State != lehr.SandboxRunning {
			t.Errorf("cut to %d bytes: another sandbox is %+v, %v", size, box, err)
		}
		slots, err := b.Opt.Engine.List(t.Context())
		if err != nil || len(slots) != 2 {
			t.Errorf("cut to %d bytes: %d slots, %v, want those of the two whole sandboxes", size, len(slots), err)
		}
	}
}

func recordOf(b *hosttest.Bundle, id lehr.SandboxID) string {
	return filepath.Join(b.Opt.StateDir, string(id)+".json")
}

// The image of an earlier guest daemon stays while a sandbox was started with it.
func TestGuestImageInUseStays(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	id := create(t, b)
	earlier := b.Opt.Guest.Rootfs.Digest
	b.Opt.Guest.Rootfs.Digest = lehr.DigestOf([]byte("another guest daemon"))
	b.Restart(t)
	if err := b.RemoveArtifact(t.Context(), earlier); errs.CodeOf(err) != "artifact_in_use" {
		t.Errorf("RemoveArtifact(guest daemon in use) = %v, want artifact_in_use", err)
	}
	if err := b.DestroySandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveArtifact(t.Context(), earlier); err != nil {
		t.Errorf("RemoveArtifact(guest daemon of nobody) = %v, want nil", err)
	}
}
