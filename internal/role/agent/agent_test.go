package agent_test

import (
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

func needRoot(t *testing.T) {
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

// start runs an agent on a data folder until the test ends or stop.
func start(t *testing.T, data string, life int) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan error, 1)}
	socket := filepath.Join(data, "agent.sock")
	ready := make(chan struct{})
	log := slog.New(slog.NewTextHandler(testWriter{t}, nil))
	go func() {
		r.done <- role.Run(ctx, role.Options{Data: data, Socket: socket, LifeFD: life, Log: log, Ready: func() { close(ready) }})
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

func (r *running) stop(t *testing.T) {
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

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// sh runs a script that must end well and returns its standard output.
func sh(t *testing.T, a agent.Agent, id lehr.SandboxID, script string) string {
	t.Helper()
	var out strings.Builder
	exit, err := a.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"/bin/sh", "-c", script}},
		func(_ lehr.LogStream, b []byte) error { out.Write(b); return nil })
	if err != nil || exit.Code != 0 {
		t.Fatalf("Exec(%q) = %+v, %v: %s", script, exit, err, out.String())
	}
	return out.String()
}

func create(t *testing.T, a agent.Agent, image, snapshot lehr.Digest) lehr.SandboxID {
	t.Helper()
	id := lehr.NewSandboxID()
	_, err := a.CreateSandbox(t.Context(), agent.CreateSandbox{
		ID: id, TeamID: lehr.PlatformTeam, Image: image, Snapshot: snapshot, Resources: lehr.DefaultResources,
	})
	if err != nil {
		t.Fatalf("CreateSandbox() = %v", err)
	}
	t.Cleanup(func() { _ = a.DestroySandbox(context.WithoutCancel(t.Context()), id) })
	return id
}

// TestAgent drives the whole machine: Debian, gVisor, network, guest daemon.
func TestAgent(t *testing.T) {
	needRoot(t)
	data := t.TempDir()
	a := start(t, data, 0)
	base, err := a.MakeMinimal(t.Context())
	if errs.IsKind(err, errs.Unavailable) {
		t.Skip("SKIP-ENV: no minimal base can be made here: " + err.Error())
	}
	if err != nil {
		t.Fatalf("MakeMinimal() = %v", err)
	}
	id := create(t, a, base.Digest, "")
	if got := sh(t, a, id, "hostname; id -u; pwd"); got != string(id)+"\n0\n/\n" {
		t.Errorf("a command says %q", got)
	}
	sh(t, a, id, "echo kept > /srv/file; rm -r /usr/share/perl5 2>/dev/null || true")
	flat, err := a.FlattenRootfs(t.Context(), id)
	if err != nil {
		t.Fatalf("FlattenRootfs() = %v", err)
	}
	next := create(t, a, flat.Digest, "")
	if got := sh(t, a, next, "cat /srv/file"); got != "kept\n" {
		t.Errorf("the flattened image has %q", got)
	}
	sh(t, a, next, "(i=0; while :; do i=$((i+1)); echo $i > /run/counter; sleep 0.01; done) > /dev/null 2>&1 &")
	snap, err := a.CreateSnapshot(t.Context(), next)
	if err != nil {
		t.Fatalf("CreateSnapshot() = %v", err)
	}
	clone := create(t, a, flat.Digest, snap.Digest)
	if got := sh(t, a, clone, "hostname"); got != string(clone)+"\n" {
		t.Errorf("the clone is called %q, want %q", got, clone)
	}
	sh(t, a, clone, "a=$(cat /run/counter); sleep 0.2; test $(cat /run/counter) -gt $a")

	a.stop(t) // sandboxes go on
	again := start(t, data, 0)
	sh(t, again, next, "a=$(cat /run/counter); sleep 0.2; test $(cat /run/counter) -gt $a")
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
	a := start(t, t.TempDir(), pipe[0])
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
	data := t.TempDir()
	a := start(t, data, 0)
	err := role.Run(t.Context(), role.Options{Data: data, Socket: filepath.Join(data, "agent.sock")})
	if !errs.IsKind(err, errs.Conflict) {
		t.Errorf("Run() of a second agent = %v, want kind conflict", err)
	}
	if _, err := a.Info(t.Context()); err != nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("Info() of the first = %v", err)
	}
}
