package guestd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/guest/account"
	"github.com/lehr-dev/lehr/internal/guest/guestclient"
	"github.com/lehr-dev/lehr/internal/guest/guestd"
	"github.com/lehr-dev/lehr/internal/guest/initd"
	"github.com/lehr-dev/lehr/internal/guest/process"
	"github.com/lehr-dev/lehr/internal/guest/wire"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const secret = "the operator's secret"

// daemon is a guest daemon in this process, on a socket of its own.
type daemon struct {
	client *guestclient.Client
	system *fakeSystem
	socket string
	spec   string // stands for /proc/gvisor/spec_environ
}

// fakeSystem records identities instead of applying them to this machine.
type fakeSystem struct {
	mu      sync.Mutex
	applied []initd.Identity
	synced  int
}

func (f *fakeSystem) Apply(id initd.Identity) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = append(f.applied, id)
	return nil
}

func (f *fakeSystem) Sync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced++
}

func (f *fakeSystem) EndProcesses(context.Context) error { return nil }

func (f *fakeSystem) identities() []initd.Identity {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]initd.Identity(nil), f.applied...)
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	return newDaemonWith(t, func(*guestd.Options) {})
}

// newDaemonWith is newDaemon with options that change changes.
func newDaemonWith(t *testing.T, change func(*guestd.Options)) *daemon {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-ENV: the guest daemon's tests need root")
	}
	dir := t.TempDir()
	d := &daemon{system: &fakeSystem{}, socket: filepath.Join(dir, "s"), spec: filepath.Join(dir, "spec_environ")}
	listener, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	d.operator(t, secret)
	ctx, cancel := context.WithCancel(context.Background())
	operator := initd.OpenSecret(wire.EnvOperatorSHA256, "", d.spec)
	reaper := initd.NewReaper()
	supervisor := process.NewSupervisor(reaper)
	options := guestd.Options{
		Version: "v1.2.3", Processes: supervisor, System: d.system, Log: slog.New(slog.DiscardHandler),
		Secret: operator, Users: account.NewDatabase("/etc/passwd", "/etc/group"),
	}
	change(&options)
	server := guestd.New(options)
	var work sync.WaitGroup
	work.Go(func() { reaper.Run(ctx) })
	work.Go(func() {
		if err := server.Serve(ctx, listener); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	d.client = d.as(secret)
	t.Cleanup(func() {
		closing, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		if err := supervisor.Close(closing); err != nil {
			t.Errorf("supervisor.Close: %v", err)
		}
		cancel()
		work.Wait()
		must(t, operator.Close())
		d.client.Close()
	})
	return d
}

// operator changes whose sandbox it is, as a restore does.
func (d *daemon) operator(t *testing.T, secret string) {
	t.Helper()
	sum := sha256.Sum256([]byte(secret))
	env := "A=1\x00" + wire.EnvOperatorSHA256 + "=" + hex.EncodeToString(sum[:]) + "\x00"
	if err := os.WriteFile(d.spec, []byte(env), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (d *daemon) as(secret string) *guestclient.Client {
	return guestclient.New(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.socket)
	}, secret)
}

// initialised is a daemon after an /init whose directories exist.
func initialised(t *testing.T) *daemon {
	t.Helper()
	d := newDaemon(t)
	must(t, d.client.Init(t.Context(), guestclient.InitRequest{
		AccessToken: "token", DefaultWorkdir: "/tmp", SandboxID: "sb1", EnvVars: map[string]string{"GREETING": "hello"},
	}))
	return d
}

// output collects what a command writes.
type output struct {
	stdout, stderr bytes.Buffer
}

func (o *output) add(stream lehr.LogStream, b []byte) error {
	if stream == lehr.StreamStderr {
		o.stderr.Write(b)
	} else {
		o.stdout.Write(b)
	}
	return nil
}

func sh(script string) guestclient.ExecRequest {
	return guestclient.ExecRequest{Cmd: []string{"/bin/sh", "-c", script}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
