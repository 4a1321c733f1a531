package gvisor_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
	"testing"

	erofs "github.com/erofs/go-erofs"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/gvisor"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// sentryVariable names a ready lehr-sentry file; without it the tests build
// one, which costs a minute the first time.
const sentryVariable = "LEHR_SENTRY"

// fixture is what all tests of the package share.
type fixture struct {
	sentry       string
	image, guest engine.Rootfs
}

var shared = struct {
	once sync.Once
	f    fixture
	err  error
}{}

// TestMain removes what the tests share, or runs as the holder of crash_test.go.
func TestMain(m *testing.M) {
	if config := os.Getenv(holderVariable); config != "" {
		fmt.Fprintln(os.Stderr, hold(config))
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "lehr-gvisor-")
	if err != nil {
		panic(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	fixtureDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	removeTestGroup()
	os.Exit(code)
}

var fixtureDir string

// testGroup is the control group of these tests; a holder is told its parent's.
var testGroup = fmt.Sprintf("lehr-test-%d", os.Getpid())

// removeTestGroup removes the empty group that an engine leaves.
func removeTestGroup() {
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + testGroup, "/sys/fs/cgroup/" + testGroup} {
		groups, _ := filepath.Glob(pattern)
		for _, g := range groups {
			_ = os.Remove(g)
		}
	}
}

// newFixture returns the sentry and the suite's images, made once.
func newFixture(t testing.TB) fixture {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP-ENV: the gVisor engine needs root")
	}
	shared.once.Do(func() { shared.f, shared.err = makeFixture(t) })
	if shared.err != nil {
		t.Fatalf("making the sentry and the images: %v", shared.err)
	}
	return shared.f
}

func makeFixture(t testing.TB) (fixture, error) {
	f := fixture{sentry: os.Getenv(sentryVariable)}
	if f.sentry == "" {
		f.sentry = filepath.Join(fixtureDir, "lehr-sentry")
		build := exec.Command("go", "build", "-trimpath",
			"-ldflags=-s -w -X gvisor.dev/gvisor/runsc/version.version=test",
			"-o", f.sentry, "github.com/lehr-dev/lehr/cmd/lehr-sentry")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return f, errors.New(string(out))
		}
	}
	var err error
	if f.image, err = imageFromTar("root", enginetest.RootTar()); err != nil {
		return f, err
	}
	f.guest, err = imageFromTar("guest", enginetest.GuestTar(enginetest.BuildProbe(t)))
	return f, err
}

// imageFromTar writes a tar as an EROFS image.
func imageFromTar(name string, data []byte) (engine.Rootfs, error) {
	file := filepath.Join(fixtureDir, name+".erofs")
	out, err := os.Create(file)
	if err != nil {
		return engine.Rootfs{}, err
	}
	defer func() { _ = out.Close() }()
	w := erofs.Create(out)
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return engine.Rootfs{}, err
		}
		if err := addEntry(w, h, r); err != nil {
			return engine.Rootfs{}, err
		}
	}
	if err := w.Close(); err != nil {
		return engine.Rootfs{}, err
	}
	return engine.Rootfs{Path: file, Digest: lehr.DigestOf(data)}, nil
}

func addEntry(w *erofs.Writer, h *tar.Header, body io.Reader) error {
	name := path.Clean("/" + h.Name)
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		if name == "/" {
			return w.Chmod(name, mode.Perm())
		}
		if err := w.Mkdir(name, mode.Perm()); err != nil {
			return err
		}
		return w.Chmod(name, mode)
	case tar.TypeSymlink:
		return w.Symlink(h.Linkname, name)
	}
	f, err := w.Create(name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, body); err != nil {
		return err
	}
	return errors.Join(f.Chmod(mode), f.Close())
}

// open opens an engine on dir.
func (f fixture) open(t testing.TB, dir string, network gvisor.Network) *gvisor.Engine {
	t.Helper()
	e, err := gvisor.Open(t.Context(), gvisor.Options{
		StateDir: dir, Sentry: f.sentry, Network: network, CgroupParent: testGroup,
	})
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	return e
}
