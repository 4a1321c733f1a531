package gvisor_test

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// boot starts one sandbox of an image with a command as its first process.
func (w *world) boot(t *testing.T, image engine.Rootfs, shape lehr.Resources, init ...string) (engine.SlotID, engine.Sandbox) {
	t.Helper()
	slot, err := w.e.Prepare(t.Context(), engine.PrepareSpec{Kind: engine.KindBoot, Resources: shape})
	if err != nil {
		t.Fatalf("Prepare() = %v", err)
	}
	spec := engine.StartSpec{Image: image, Guest: w.f.guest, Init: init, Env: []string{"PATH=/bin"}}
	if err := w.e.Start(t.Context(), slot, spec); err != nil {
		t.Fatalf("Start() = %v", err)
	}
	return slot, w.e.Sandbox(slot)
}

// newWorld opens an engine whose sandboxes are destroyed after the test.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{f: newFixture(t), dir: t.TempDir()}
	w.reopen(t)
	t.Cleanup(func() { w.closeAll(t) })
	return w
}

// closeAll destroys every sandbox and closes the engine.
func (w *world) closeAll(t *testing.T) {
	t.Helper()
	ctx := context.Background() // the test's own has ended
	list, _ := w.e.List(ctx)
	for _, st := range list {
		if err := w.e.Destroy(ctx, st.Slot); err != nil {
			t.Errorf("Destroy(%s) = %v", st.Slot, err)
		}
	}
	if err := w.e.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
}

// shellImage makes an image with busybox in it.
func shellImage(t *testing.T) engine.Rootfs {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("SKIP-ENV: no static busybox on this machine")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, dir := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/sh", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sleep", "dd", "grep"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "sh"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := imageFromTar("shell", data.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// TestForkFailsAtTheLimit starts more small processes than a sandbox may have:
// the shell reports the failing fork and goes on to say so.
func TestForkFailsAtTheLimit(t *testing.T) {
	w := newWorld(t)
	script := `i=0; while [ $i -lt 1000 ]; do sleep 1000 & i=$((i+1)); done 2>/tmp/said
		grep -q fork /tmp/said && exit 41; exit 42`
	// A shell that cannot fork ends with 2; the handler sees that it could not.
	_, sb := w.boot(t, shellImage(t), lehr.Resources{VCPUs: 1, MemoryMB: 256, DiskMB: 64},
		"/bin/sh", "-c", "sh -c '"+strings.ReplaceAll(script, "'", "")+"'; [ $? -eq 2 ] && exit 41; exit 43")
	exit, err := sb.Wait(t.Context())
	if err != nil || exit.Reason != lehr.ReasonGuestLost || !strings.Contains(exit.Detail, "status 41") {
		t.Errorf("Wait() after a fork bomb = %+v, %v, want the shell to see fork fail", exit, err)
	}
}

// TestLayerOfALargeFile takes the writable layer of a sandbox that holds a file
// larger than its memory: nobody is killed for it, and the limit comes back.
func TestLayerOfALargeFile(t *testing.T) {
	w := newWorld(t)
	shape := lehr.Resources{VCPUs: 1, MemoryMB: 128, DiskMB: 512}
	slot, sb := w.boot(t, w.f.image, shape, probewire.Init()...)
	awaitProbe(t, sb)
	if out, err := enginetest.Run(t.Context(), sb, "write", "/large", "200"); err != nil {
		t.Fatalf("writing 200 MB = %q, %v", out, err)
	}
	limit, err := w.e.Group(slot).MemoryLimit()
	if err != nil {
		t.Fatal(err)
	}
	var size countingWriter
	if err := sb.WritableLayer(t.Context(), &size); err != nil || size < 200<<20 {
		t.Errorf("WritableLayer() = %d bytes, %v, want 200 MB", size, err)
	}
	if out, err := enginetest.Run(t.Context(), sb, "echo", "alive"); err != nil || out != "alive" {
		t.Errorf("echo after WritableLayer = %q, %v", out, err)
	}
	deadline := time.Now().Add(90 * time.Second)
	for now := int64(0); now != limit; time.Sleep(50 * time.Millisecond) {
		if now, err = w.e.Group(slot).MemoryLimit(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the memory limit is %d long after, want %d", now, limit)
		}
	}
}

// awaitProbe waits until the probe answers.
func awaitProbe(t *testing.T, sb engine.Sandbox) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := enginetest.Run(t.Context(), sb, "echo", "up")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the probe never answered: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
}

type countingWriter int64

// Write counts.
func (c *countingWriter) Write(b []byte) (int, error) {
	*c += countingWriter(len(b))
	return len(b), nil
}
