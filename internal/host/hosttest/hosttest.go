// Package hosttest has a whole host without isolation, for tests of whatever
// drives hosts: internal/host on the fake engine, with images that are tar
// files and a guest daemon that runs a tiny shell (see Shell). Builds and
// sandboxes behave as on a real host, in memory and in milliseconds.
package hosttest

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/fake"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Bundle is a host with the simulated machine under it.
type Bundle struct {
	*host.Host
	World  *fake.World  // where faults are injected and machines looked into
	Images *Images      // its image store
	Opt    host.Options // as given to host.Open

	engine *fake.Engine
}

// Options of New; the zero value is usable.
type Options struct {
	Clock    clock.Clock
	Pool     host.Pool
	Build    string         // see fake.Options
	Capacity lehr.Resources // default: 64 CPUs, 64 GB, 1 TB
}

// New returns a running host on folders of the test; it is closed, and every
// sandbox forgotten, when the test ends.
func New(t testing.TB, o Options) *Bundle {
	t.Helper()
	return newIn(t, t.TempDir(), fake.NewWorld(fake.Options{Clock: o.Clock, Build: o.Build}), o)
}

func newIn(t testing.TB, dir string, world *fake.World, o Options) *Bundle {
	t.Helper()
	if o.Capacity == (lehr.Resources{}) {
		o.Capacity = lehr.Resources{VCPUs: 64, MemoryMB: 64 << 10, DiskMB: 1 << 20}
	}
	images, err := openImages(filepath.Join(dir, "images"), o.Clock)
	if err != nil {
		t.Fatalf("open images: %v", err)
	}
	b := &Bundle{World: world, Images: images, Opt: host.Options{
		ID: lehr.NewHostID(), Images: images, Pool: o.Pool, Clock: o.Clock, Capacity: o.Capacity,
		Guest: host.GuestImage{
			Rootfs: engine.Rootfs{Path: "/guest", Digest: lehr.DigestOf([]byte("guest"))},
			Init:   []string{engine.GuestMount + "/lehr-init"},
		},
		Connect:  func(a host.GuestAddress) host.Guest { return &Guest{world: world, slot: a.Slot} },
		StateDir: filepath.Join(dir, "sandboxes"), SnapshotDir: filepath.Join(dir, "snapshots"),
	}}
	b.open(t)
	t.Cleanup(func() { b.close(t) })
	return b
}

func (b *Bundle) open(t testing.TB) {
	t.Helper()
	b.engine = b.World.Open()
	b.Opt.Engine = b.engine
	var err error
	if b.Host, err = host.Open(context.Background(), b.Opt); err != nil {
		t.Fatalf("host.Open() = %v", err)
	}
}

func (b *Bundle) close(t testing.TB) {
	t.Helper()
	if err := b.Host.Close(); err != nil {
		t.Errorf("Host.Close() = %v", err)
	}
	if err := b.engine.Close(); err != nil {
		t.Errorf("Engine.Close() = %v", err)
	}
}

// Restart ends host and engine gracefully and opens them again on the same
// folders and machine: sandboxes go on.
func (b *Bundle) Restart(t testing.TB) {
	t.Helper()
	b.close(t)
	b.open(t)
}

// Minimal returns the digest of the host's minimal base, which has a shell, a
// user "app" (uid 1000) and apt-get.
func (b *Bundle) Minimal(t testing.TB) lehr.Digest {
	t.Helper()
	img, err := b.MakeMinimal(context.Background())
	if err != nil {
		t.Fatalf("MakeMinimal() = %v", err)
	}
	return img.Digest
}

// Request returns a request for a fresh sandbox from an image.
func Request(image lehr.Digest) agent.CreateSandbox {
	return agent.CreateSandbox{
		ID: lehr.NewSandboxID(), TeamID: lehr.PlatformTeam, Image: image, Resources: lehr.DefaultResources,
	}
}

// minimalTar is the root file system of the minimal base.
func minimalTar() []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(name string, mode int64, body string) {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(body)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if body == "" {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			panic("hosttest: " + err.Error()) // a header of ours
		}
		_, _ = w.Write([]byte(body)) // into memory
	}
	for _, dir := range []string{"", "bin/", "usr/", "usr/bin/", "etc/", "root/", "home/", "home/app/", "var/", "opt/", "srv/"} {
		add("./"+dir, 0o755, "")
	}
	add("./tmp/", 0o1777, "")
	add("./etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")
	add("./etc/os-release", 0o644, "ID=debian\n")
	for _, name := range []string{"bin/sh", "usr/bin/apt-get"} {
		add("./"+name, 0o755, "built in\n")
	}
	_ = w.Close() // into memory
	return buf.Bytes()
}

// writeFile writes a file under a temporary name and renames it.
func writeFile(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
