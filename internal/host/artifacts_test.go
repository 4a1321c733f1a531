package host_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine/fake"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/host/hosttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestFlatten(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	id := create(t, b)
	sh(t, b, id, "echo new > /opt/new; rm /etc/os-release; touch /etc/hosts /etc/resolv.conf; serve 80 &")
	img, err := b.FlattenRootfs(t.Context(), id)
	if err != nil || img.Bytes == 0 {
		t.Fatalf("FlattenRootfs() = %+v, %v", img, err)
	}
	if _, code := sh(t, b, id, "check 80"); code == 0 {
		t.Error("a process outlived FlattenRootfs")
	}
	next := create(t, b, func(r *agent.CreateSandbox) { r.Image = img.Digest })
	for script, want := range map[string]string{
		"cat /opt/new":               "new\n",
		"test -e /etc/os-release":    "",
		"test -e /etc/hosts":         "",
		"cat /etc/passwd":            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
		"test -e /.lehr/lehr-init":   "",
		"test -e /etc/resolv.conf":   "",
		"test -d /usr/bin && pwd":    "/\n",
		"test -e /opt && echo there": "there\n",
	} {
		if out, _ := sh(t, b, next, script); out != want {
			t.Errorf("in the flattened image, %s = %q, want %q", script, out, want)
		}
	}
	if _, code := sh(t, b, next, "test -e /etc/hosts"); code == 0 {
		t.Error("an empty /etc/hosts, which only the guest daemon leaves, is in the image")
	}
	defer b.World.Inject(fake.Fault{Op: fake.OpLayer, Err: errs.New(errs.Internal, "the layer broke")})()
	if _, err := b.FlattenRootfs(t.Context(), id); err == nil || !strings.Contains(err.Error(), "the layer broke") {
		t.Errorf("FlattenRootfs(broken layer) = %v, want the engine's error", err)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	id := create(t, b, func(r *agent.CreateSandbox) { r.Env = map[string]string{"SECRET": "of the builder"} })
	sh(t, b, id, "serve 80 & echo warm > /opt/state")
	snap, err := b.CreateSnapshot(t.Context(), id)
	if err != nil || snap.Image != b.Minimal(t) || snap.Bytes == 0 || snap.EngineDigest == "" || snap.Guest == "" {
		t.Fatalf("CreateSnapshot() = %+v, %v", snap, err)
	}
	if has, err := b.HasArtifact(t.Context(), snap.Digest); err != nil || !has {
		t.Errorf("HasArtifact(snapshot) = %v, %v", has, err)
	}
	if _, code := sh(t, b, id, "check 80"); code != 0 {
		t.Error("the original does not go on")
	}
	clone := create(t, b, func(r *agent.CreateSandbox) { r.Snapshot = snap.Digest })
	out, code := sh(t, b, clone, `check 80 && cat /opt/state && hostname && echo "[$SECRET]"`)
	if want := "warm\n" + string(clone) + "\n[]\n"; out != want || code != 0 {
		t.Errorf("in the clone = %q, %d, want %q", out, code, want)
	}
	err = b.RemoveArtifact(t.Context(), snap.Digest)
	wantCode(t, "RemoveArtifact(used)", err, errs.Conflict, "artifact_in_use")
	r := hosttest.Request(b.Minimal(t))
	r.Snapshot, r.Resources.MemoryMB = snap.Digest, 4096
	_, err = b.CreateSandbox(t.Context(), r)
	wantCode(t, "CreateSandbox(another shape)", err, errs.Invalid, "invalid")
	for _, id := range []lehr.SandboxID{id, clone} {
		if err := b.DestroySandbox(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := b.RemoveArtifact(t.Context(), snap.Digest); err != nil {
			t.Errorf("RemoveArtifact() = %v", err)
		}
	}
	if has, _ := b.HasArtifact(t.Context(), snap.Digest); has {
		t.Error("HasArtifact(removed) = true")
	}
}

// snapshotOf makes a sandbox, snapshots it and destroys it.
func snapshotOf(t *testing.T, b *hosttest.Bundle) agent.Snapshot {
	t.Helper()
	id := create(t, b)
	snap, err := b.CreateSnapshot(t.Context(), id)
	if err != nil {
		t.Fatalf("CreateSnapshot() = %v", err)
	}
	if err := b.DestroySandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return snap
}

func TestDamagedSnapshot(t *testing.T) {
	t.Parallel()
	damages := map[string]func(path string, b []byte) error{
		"flipped bit": func(path string, b []byte) error { b[len(b)/2] ^= 1; return os.WriteFile(path, b, 0o600) },
		"truncated":   func(path string, b []byte) error { return os.Truncate(path, int64(len(b)/2)) },
		"missing":     func(path string, _ []byte) error { return os.Remove(path) },
	}
	for name, damage := range damages {
		for _, file := range []string{"manifest.json", "state/memory.json", "state/layer.tar"} {
			b := hosttest.New(t, hosttest.Options{})
			snap := snapshotOf(t, b)
			path := filepath.Join(b.Opt.SnapshotDir, "sha256", snap.Digest.Hex(), file)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(path, content); err != nil {
				t.Fatal(err)
			}
			b.Restart(t) // what was verified once in a process is not read again
			r := hosttest.Request(b.Minimal(t))
			r.Snapshot = snap.Digest
			_, err = b.CreateSandbox(t.Context(), r)
			if kind := errs.KindOf(err); kind != errs.Corrupt && kind != errs.NotFound {
				t.Errorf("CreateSandbox(snapshot with %s %s) = %v, want it refused", name, file, err)
			}
			wantNothing(t, b)
		}
	}
}

func TestForeignSnapshot(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	snap := snapshotOf(t, b)
	image := b.Minimal(t)
	if err := b.Host.Close(); err != nil {
		t.Fatal(err)
	}
	b.Opt.Guest.Rootfs.Digest = lehr.DigestOf([]byte("another guest daemon"))
	upgraded, err := host.Open(t.Context(), b.Opt)
	if err != nil {
		t.Fatal(err)
	}
	b.Host = upgraded
	r := hosttest.Request(image)
	r.Snapshot = snap.Digest
	_, err = b.CreateSandbox(t.Context(), r)
	wantCode(t, "CreateSandbox(snapshot of another guest daemon)", err, errs.Unsupported, "snapshot_unfit")
}

// A sandbox that an agent of another version started keeps its guest daemon, and
// a snapshot of it must say so.
func TestSnapshotNamesTheGuestThatIsInIt(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	id := create(t, b)
	old := b.Opt.Guest.Rootfs.Digest
	if err := b.Host.Close(); err != nil {
		t.Fatal(err)
	}
	b.Opt.Guest.Rootfs.Digest = lehr.DigestOf([]byte("another guest daemon"))
	upgraded, err := host.Open(t.Context(), b.Opt)
	if err != nil {
		t.Fatal(err)
	}
	b.Host = upgraded
	snap, err := b.CreateSnapshot(t.Context(), id)
	if err != nil || snap.Guest != string(old) {
		t.Errorf("CreateSnapshot() names guest %s, %v, want %s, with which the sandbox was started", snap.Guest, err, old)
	}
}

func TestListArtifacts(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	snap := snapshotOf(t, b)
	all, err := b.ListArtifacts(t.Context())
	if err != nil {
		t.Fatalf("ListArtifacts() = %v", err)
	}
	found := map[lehr.Digest]agent.Artifact{}
	for _, a := range all {
		found[a.Digest] = a
	}
	if len(found) != 2 || found[snap.Digest].Bytes < snap.Bytes || found[b.Minimal(t)].Bytes == 0 {
		t.Errorf("ListArtifacts() = %+v, want the image and the snapshot", all)
	}
}

func TestMinimalIsMadeOnce(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.MakeMinimal(ctx); err == nil {
		t.Log("MakeMinimal(cancelled) was quick enough")
	}
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			if _, err := b.MakeMinimal(t.Context()); err != nil {
				t.Errorf("MakeMinimal() = %v", err)
			}
		})
	}
	work.Wait()
	if err := b.RemoveArtifact(t.Context(), b.Minimal(t)); err != nil {
		t.Errorf("RemoveArtifact(unused) = %v", err)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	_, err := b.ImportImage(t.Context(), "zip", strings.NewReader(""))
	wantCode(t, "ImportImage(zip)", err, errs.Invalid, "invalid")
	_, err = b.ImportImage(t.Context(), agent.ImportTar, strings.NewReader("not a tar"))
	wantCode(t, "ImportImage(garbage)", err, errs.Invalid, "invalid")
}
