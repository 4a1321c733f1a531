package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/assets"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/hostrpc"
	"github.com/lehr-dev/lehr/internal/lehr"
	role "github.com/lehr-dev/lehr/internal/role/agent"
)

// running is an agent in this process, with a client over its socket.
type running struct {
	*hostrpc.Client
	cancel context.CancelFunc
	done   chan error
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP-ENV: the agent needs root")
	}
	for _, name := range []string{assets.Sentry, assets.Guest} {
		f, err := assets.Open(name)
		if err != nil {
			t.Skip("SKIP-ENV: " + err.Error())
		}
		_ = f.Close()
	}
}

// newData returns a data folder whose sandboxes are taken away at the end of
// the test, whatever became of it.
func newData(t testing.TB) string {
	t.Helper()
	data := t.TempDir()
	t.Cleanup(func() {
		if left, err := belongings(data); err != nil || len(left) == 0 {
			return
		}
		t.Log("the test left sandboxes; they are taken away")
		a := start(t, data, 0, host.Pool{})
		all, err := a.ListSandboxes(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, s := range all {
			if err := a.DestroySandbox(context.Background(), s.ID); err != nil {
				t.Error(err)
			}
		}
		a.stop(t)
	})
	return data
}

// start runs an agent on a data folder until the test ends or stop.
func start(t testing.TB, data string, life int, pool host.Pool) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan error, 1)}
	socket := filepath.Join(data, "agent.sock")
	ready := make(chan struct{})
	log := slog.New(slog.NewTextHandler(testWriter{t}, nil))
	go func() {
		r.done <- role.Run(ctx, role.Options{Data: data, Socket: socket, LifeFD: life, Pool: &pool, Log: log, Ready: func() { close(ready) }})
	}()
	select {
	case <-ready:
	case err := <-r.done:
		t.Fatalf("Run() = %v", err)
	}
	r.Client = hostrpc.DialUnix(socket)
	t.Cleanup(func() { r.stop(t) })
	return r
}

func (r *running) stop(t testing.TB) {
	t.Helper()
	if r.done == nil {
		return
	}
	r.cancel()
	if err := <-r.done; err != nil {
		t.Errorf("Run() = %v", err)
	}
	r.done = nil
	_ = r.Close()
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// sh runs a script that must end well and returns its standard output.
func sh(t testing.TB, a agent.Agent, id lehr.SandboxID, script string) string {
	t.Helper()
	var out strings.Builder
	exit, err := a.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"/bin/sh", "-c", script}},
		func(_ lehr.LogStream, b []byte) error { out.Write(b); return nil })
	if err != nil || exit.Code != 0 {
		t.Fatalf("Exec(%q) = %+v, %v: %s", script, exit, err, out.String())
	}
	return out.String()
}

func create(t testing.TB, a agent.Agent, image, snapshot lehr.Digest) lehr.SandboxID {
	t.Helper()
	id := lehr.NewSandboxID()
	_, err := a.CreateSandbox(t.Context(), agent.CreateSandbox{
		ID: id, TeamID: lehr.PlatformTeam, Image: image, Snapshot: snapshot, Resources: lehr.DefaultResources,
	})
	if err != nil {
		t.Fatalf("CreateSandbox() = %v", err)
	}
	return id
}

// busybox imports a small base.
func busybox(t testing.TB, a agent.Agent) agent.Image {
	t.Helper()
	binary, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("SKIP-ENV: busybox-static is not installed: " + err.Error())
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, body string) {
		h.Size, h.Format = int64(len(body)), tar.FormatPAX
		if err := errors.Join(w.WriteHeader(&h), second(w.Write([]byte(body)))); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "run", "srv", "sys", "tmp"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, "")
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(binary))
	for _, name := range []string{"sh", "cat", "echo", "hostname", "id", "pwd", "rm", "sleep", "test", "true", "wget", "nslookup"} {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}, "")
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/:/bin/sh\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/removed", Mode: 0o644}, "removed\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	img, err := a.ImportImage(t.Context(), agent.ImportTar, &buf)
	if err != nil {
		t.Fatalf("ImportImage() = %v", err)
	}
	return img
}

func second(_ int, err error) error { return err }

// TestAgent drives the whole machine: gVisor, network, guest daemon, images.
func TestAgent(t *testing.T) {
	needRoot(t)
	data := newData(t)
	a := start(t, data, 0, host.Pool{})
	base := busybox(t, a)
	id := create(t, a, base.Digest, "")
	if got := sh(t, a, id, "hostname; id -u; pwd"); got != string(id)+"\n0\n/\n" {
		t.Errorf("a command says %q", got)
	}
	sh(t, a, id, "echo kept > /srv/file; rm /etc/removed")
	flat, err := a.FlattenRootfs(t.Context(), id)
	if err != nil {
		t.Fatalf("FlattenRootfs() = %v", err)
	}
	next := create(t, a, flat.Digest, "")
	if got := sh(t, a, next, "cat /srv/file"); got != "kept\n" {
		t.Errorf("the flattened image has %q", got)
	}
	sh(t, a, next, "test ! -e /etc/removed; test ! -s /etc/machine-id")
	sh(t, a, next, "(i=0; while :; do i=$((i+1)); echo $i > /run/counter; sleep 0.01; done) > /dev/null 2>&1 &")
	snap, err := a.CreateSnapshot(t.Context(), next)
	if err != nil {
		t.Fatalf("CreateSnapshot() = %v", err)
	}
	clone := create(t, a, flat.Digest, snap.Digest)
	if got := sh(t, a, clone, "hostname"); got != string(clone)+"\n" {
		t.Errorf("the clone is called %q, want %q", got, clone)
	}
	sh(t, a, clone, "a=0; until test $a -gt 0; do a=$(cat /run/counter); a=${a:-0}; done; b=0; until test $b -gt $a; do b=$(cat /run/counter); b=${b:-0}; done")

	a.stop(t) // sandboxes go on
	again := start(t, data, 0, host.Pool{})
	sh(t, again, next, "a=0; until test $a -gt 0; do a=$(cat /run/counter); a=${a:-0}; done; b=0; until test $b -gt $a; do b=$(cat /run/counter); b=${b:-0}; done")
	for _, id := range []lehr.SandboxID{id, next, clone} {
		if err := again.DestroySandbox(t.Context(), id); err != nil {
			t.Errorf("DestroySandbox() = %v", err)
		}
	}
	left, err := again.ListSandboxes(t.Context())
	if err != nil || len(left) > 0 {
		t.Errorf("ListSandboxes() = %v, %v, want none", left, err)
	}
}

func TestEndsWithItsParent(t *testing.T) {
	needRoot(t)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	a := start(t, newData(t), pipe[0], host.Pool{})
	if err := unix.Close(pipe[1]); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-a.done:
		if err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		a.done = nil
	case <-time.After(time.Minute):
		t.Error("the agent outlives its parent")
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	needRoot(t)
	data := newData(t)
	a := start(t, data, 0, host.Pool{})
	err := role.Run(t.Context(), role.Options{Data: data, Socket: filepath.Join(data, "agent.sock")})
	if !errs.IsKind(err, errs.Conflict) {
		t.Errorf("Run() of a second agent = %v, want kind conflict", err)
	}
	if _, err := a.Info(t.Context()); err != nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("Info() of the first = %v", err)
	}
}
