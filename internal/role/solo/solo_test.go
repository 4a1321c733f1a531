package solo

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/role/control"
)

func TestSecondStartIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.up()
	if err := Run(t.Context(), w.o); errs.CodeOf(err) != "data_in_use" || !errs.IsKind(err, errs.Conflict) {
		t.Errorf("a second Run() = %v, want the conflict data_in_use", err)
	}
	if _, err := w.keys(w.server()); err != nil {
		t.Errorf("the first server answers %v after a second start", err)
	}
}

func TestTakenAddressIsRefused(t *testing.T) {
	t.Parallel()
	first, second := newWorld(t), newWorld(t)
	first.up()
	second.o.Config.Listen = strings.TrimPrefix(first.server().URL, "http://")
	if err := Run(t.Context(), second.o); !errs.IsKind(err, errs.Unavailable) || !strings.Contains(err.Error(), "listen") {
		t.Errorf("Run() on a taken address = %v, want it named", err)
	}
}

func TestAdminKeyStaysUntilRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.up()
	first := w.server()
	stop()
	secret := filepath.Join(w.o.Config.Data, "admin.key")
	if err := os.Chmod(secret, 0o644); err != nil {
		t.Fatal(err)
	}

	stop = w.up()
	second := w.server()
	if second.Key != first.Key {
		t.Error("a second start made another administrator key")
	}
	keys, err := w.keys(second)
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys = %v, %v, want the administrator's alone", keys, err)
	}
	if _, err := w.client(second).Keys.Revoke(t.Context(), connect.NewRequest(&lehrv1.RevokeKeyRequest{Id: keys[0].GetId()})); err != nil {
		t.Fatal(err)
	}
	stop()

	w.up()
	third := w.server()
	if third.Key == first.Key {
		t.Error("a revoked administrator key is given out again")
	}
	if _, err := w.keys(third); err != nil {
		t.Errorf("the new key is answered with %v", err)
	}
	third.Key = first.Key
	if _, err := w.keys(third); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("the revoked key is answered with %v, want unauthenticated", err)
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("admin.key = %v, %v, want mode 0600 again", info.Mode(), err)
	}
}

func TestSecretKeyStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.up()
	path := filepath.Join(w.o.Config.Data, "secret.key")
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("secret.key = %v, %v, want mode 0600", info.Mode(), err)
	}
	stop()
	stop = w.up()
	if second, err := os.ReadFile(path); err != nil || string(second) != string(first) {
		t.Errorf("a second start changed the secret key, %v", err)
	}
	stop()
	if err := os.WriteFile(path, first[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), w.o); errs.CodeOf(err) != "secret_key_damaged" {
		t.Errorf("Run() with a damaged key = %v, want secret_key_damaged", err)
	}
}

func TestGatewayAddress(t *testing.T) {
	t.Parallel()
	listening := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5347}
	for public, want := range map[string]control.Gateway{
		"":                          {Domain: "d.example", Scheme: "http", Port: "5347"},
		"https://lehr.example":      {Domain: "d.example", Scheme: "https"},
		"https://lehr.example:443":  {Domain: "d.example", Scheme: "https"},
		"https://lehr.example:8443": {Domain: "d.example", Scheme: "https", Port: "8443"},
		"http://lehr.example":       {Domain: "d.example", Scheme: "http"},
		"http://lehr.example:443":   {Domain: "d.example", Scheme: "http", Port: "443"},
	} {
		c := config.Up{Domain: "d.example"}
		if public != "" {
			var err error
			if c.PublicURL, err = url.Parse(public); err != nil {
				t.Fatal(err)
			}
		}
		if got := gatewayAddress(c, listening); got != want {
			t.Errorf("gatewayAddress(%q) = %+v, want %+v", public, got, want)
		}
	}
}

func TestServerFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.up()
	file := w.serverFile()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v, %v, want 0600", file, info.Mode(), err)
	}
	s := w.server()
	if s.PID != os.Getpid() || s.Started.IsZero() {
		t.Errorf("server = %+v, want this process and a time", s)
	}
	res, err := http.Get(s.URL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("/readyz = %d once the file exists and Ready was called, want 200", res.StatusCode)
	}
	stop()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("after the end the server's file gives %v, want it gone", err)
	}
}

// cancelOn ends a context when a text is logged.
type cancelOn struct {
	text   string
	cancel context.CancelFunc
}

func (c cancelOn) Write(b []byte) (int, error) {
	if strings.Contains(string(b), c.text) {
		c.cancel()
	}
	return len(b), nil
}

// A start that is told to stop while it waits for its agent announces nothing.
func TestStopDuringTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.AgentArgs = []string{"/bin/false"} // an agent that never comes
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.o.Log = slog.New(slog.NewTextHandler(cancelOn{"the agent ended", cancel}, nil))
	w.o.Ready = func(string) { t.Error("Ready was called after the stop") }
	if err := Run(ctx, w.o); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
	if files, _ := filepath.Glob(filepath.Join(w.o.ServersDir, "*.json")); len(files) != 0 {
		t.Errorf("server files = %v, want none", files)
	}
}

func TestAgentIsStartedAgainAndTerminated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.up()
	first := w.wantEvent("begun")
	kill(t, first[0], syscall.SIGKILL)
	second := w.wantEvent("begun")
	if second[0] == first[0] {
		t.Errorf("the second agent has the pid %s of the first", first[0])
	}
	stop()
	w.wantEvent("terminated")
	if alive(t, second[0]) {
		t.Error("the agent outlives lehr up")
	}
}

// The agent gets the reading end of its life pipe and nothing of ours; no
// secret is where other users could see it.
func TestAgentInheritsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.up()
	begun := w.wantEvent("begun")
	pipes := 0
	for _, file := range begun[1:] {
		switch {
		case strings.HasPrefix(file, "pipe:"):
			pipes++
		case strings.HasPrefix(file, "socket:"), strings.HasPrefix(file, w.o.Config.Data):
			t.Errorf("the agent inherited %s", file)
		}
	}
	if pipes != 1 {
		t.Errorf("the agent has %d pipes, want the life pipe alone: %q", pipes, begun)
	}
	secret := strings.TrimPrefix(w.server().Key, "lehr_")
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(filepath.Join("/proc", begun[0], file))
		if err != nil || len(b) == 0 {
			t.Fatalf("%s of the agent = %q, %v", file, b, err)
		}
		if strings.Contains(string(b), secret) {
			t.Errorf("the administrator key is in the agent's %s", file)
		}
	}
}

func TestAgentEndsWithAKilledParent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	parent := exec.Command(os.Args[0], roleUp, filepath.Dir(w.o.Config.Data))
	parent.Stderr = os.Stderr
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	w.wantEvent("begun")
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	w.wantEvent("orphaned")
	// What a killed one leaves behind must not stop the next.
	w.up()
	w.wantEvent("begun")
}

func kill(t *testing.T, pid string, sig syscall.Signal) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, sig); err != nil {
		t.Fatal(err)
	}
}

func alive(t *testing.T, pid string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join("/proc", pid))
	return err == nil
}
