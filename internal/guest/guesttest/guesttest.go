// Package guesttest runs a guest daemon in the test's process, for tests of its
// clients: commands and files are this machine's. A Daemon answers HTTP as a
// sandbox behind the gateway does.
package guesttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
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
)

// Daemon is one guest daemon. Its handler leads requests that name its sandbox
// to it, as the gateway does, and refuses others as the gateway does.
type Daemon struct {
	ID    string // of its sandbox
	Token string // admits users

	proxy *httputil.ReverseProxy
	// next handles what names no sandbox.
	next http.Handler
}

// New starts a daemon for a sandbox; it ends with the test. next takes the
// requests that name no sandbox; nil refuses them.
func New(t *testing.T, id string, next http.Handler) *Daemon {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-ENV: the guest daemon's tests need root")
	}
	const secret = "operator"
	dir := t.TempDir()
	sum := sha256.Sum256([]byte(secret))
	spec := filepath.Join(dir, "spec_environ") // stands for /proc/gvisor/spec_environ
	if err := os.WriteFile(spec, []byte(wire.EnvOperatorSHA256+"="+hex.EncodeToString(sum[:])+"\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	operator := initd.OpenSecret(wire.EnvOperatorSHA256, "", spec)
	reaper := initd.NewReaper()
	supervisor := process.NewSupervisor(reaper)
	server := guestd.New(guestd.Options{
		Version: "v0.0.1", Processes: supervisor, System: system{}, Log: slog.New(slog.DiscardHandler),
		Secret: operator, Users: account.NewDatabase("/etc/passwd", "/etc/group"),
	})
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { reaper.Run(ctx) })
	work.Go(func() {
		if err := server.Serve(ctx, listener); err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	client := guestclient.New(dial, secret)
	transport := &http.Transport{DialContext: dial, DisableCompression: true}
	t.Cleanup(func() {
		closing, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		if err := supervisor.Close(closing); err != nil {
			t.Errorf("supervisor.Close() = %v", err)
		}
		cancel()
		work.Wait()
		_ = operator.Close()
		client.Close()
		transport.CloseIdleConnections()
	})
	d := &Daemon{ID: id, Token: "the token of " + id, next: next}
	if err := client.Init(t.Context(), guestclient.InitRequest{AccessToken: d.Token, DefaultWorkdir: "/tmp", SandboxID: id}); err != nil {
		t.Fatal(err)
	}
	d.proxy = &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "sandbox"
			r.Out.Header.Del(wire.HeaderOperator)
		},
	}
	return d
}

// ServeHTTP implements http.Handler.
func (d *Daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("Lehr-Sandbox-Id")
	if id == "" && d.next != nil {
		d.next.ServeHTTP(w, r)
		return
	}
	if id != d.ID || r.Header.Get("Lehr-Sandbox-Port") != "49983" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadGateway)
		_ = json.NewEncoder(w).Encode(map[string]any{"sandboxId": id, "message": "The sandbox was not found", "code": http.StatusBadGateway})
		return
	}
	d.proxy.ServeHTTP(w, r)
}

// system leaves this machine's identity and processes alone.
type system struct{}

func (system) Apply(initd.Identity) error         { return nil }
func (system) Sync()                              {}
func (system) EndProcesses(context.Context) error { return nil }
