package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestRecordSurvives(t *testing.T) {
	t.Parallel()
	id := newSlotID()
	dir := filepath.Join(t.TempDir(), string(id))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	want := record{
		Version: recordVersion, Slot: id, Kind: engine.KindBoot, Resources: lehr.DefaultResources,
		Labels: map[string]string{"a": "b"}, Sentry: processID{PID: 7, Start: 8, Boot: "c"},
		State: engine.StateEnded, StartedAt: time.Unix(1, 0).UTC(),
		Exit: &engine.Exit{Reason: lehr.ReasonOOM, Detail: "d", At: time.Unix(2, 0).UTC()},
	}
	if err := want.save(dir); err != nil {
		t.Fatalf("save() = %v", err)
	}
	got, err := loadRecord(dir)
	if err != nil {
		t.Fatalf("loadRecord() = %v", err)
	}
	if g, w := encode(t, got), encode(t, want); g != w {
		t.Errorf("loadRecord() = %s, want %s", g, w)
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRecordsThatCannotBeAdopted(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"cut":             `{"version":1,"slot":"x`,
		"of another slot": `{"version":1,"slot":"y"}`,
		"of the future":   `{"version":2,"slot":"x"}`,
		"empty":           ``,
	} {
		dir := filepath.Join(t.TempDir(), "x")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, recordName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadRecord(dir); !errors.Is(err, errNoRecord) {
			t.Errorf("loadRecord(%s) = %v, want errNoRecord", name, err)
		}
	}
	if _, err := loadRecord(t.TempDir()); !errors.Is(err, errNoRecord) {
		t.Errorf("loadRecord(empty folder) = %v, want errNoRecord", err)
	}
}

func TestProcessEnds(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", "exit 7")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatalf("identify() = %v", err)
	}
	p, err := openProcess(id)
	if err != nil || p == nil {
		t.Fatalf("openProcess() = %v, %v", p, err)
	}
	defer p.close()
	if how, err := p.wait(); err != nil || how != "ended with exit status 7" {
		t.Errorf("wait() = %q, %v", how, err)
	}
	if !p.over() {
		t.Error("over() = false after wait")
	}
	if err := p.kill(); err != nil {
		t.Errorf("kill(ended) = %v", err)
	}
	if again, err := openProcess(id); again != nil || err != nil {
		t.Errorf("openProcess(gone) = %v, %v, want nothing", again, err)
	}
}

func TestProcessOfAnotherLife(t *testing.T) {
	t.Parallel()
	id, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*processID){
		func(p *processID) { p.Start++ },
		func(p *processID) { p.Boot = "another boot" },
	} {
		other := id
		change(&other)
		if p, err := openProcess(other); p != nil || err != nil {
			t.Errorf("openProcess(%+v) = %v, %v, want nothing", other, p, err)
		}
	}
}

func TestWaitEndsWithClose(t *testing.T) {
	t.Parallel()
	id, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p, err := openProcess(id)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := p.wait()
		done <- err
	}()
	p.close()
	if err := <-done; err == nil {
		t.Error("wait() after close = nil, want an error")
	}
}

// sentryStub listens where a sentry would and treats one connection as told.
func sentryStub(t *testing.T, treat func(net.Conn)) controlSocket {
	t.Helper()
	// Longer than a socket's address may be.
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-long-name/", 12))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := listenControl(dir)
	if err != nil {
		t.Fatalf("listenControl() = %v", err)
	}
	if err := startListening(file); err != nil {
		t.Fatal(err)
	}
	listener, err := net.FileListener(file)
	_ = file.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			treat(conn)
			_ = conn.Close()
		}
		_ = listener.Close()
	}()
	return controlSocket{dir: dir}
}

func TestCall(t *testing.T) {
	t.Parallel()
	ctl := sentryStub(t, func(conn net.Conn) {
		var req struct {
			Method string
			Arg    int
		}
		if err := json.NewDecoder(conn).Decode(&req); err != nil || req.Method != "m" || req.Arg != 5 {
			_, _ = conn.Write([]byte(`{"success":false,"err":"bad request"}`))
			return
		}
		_, _ = conn.Write([]byte(`{"success":true,"result":6}`))
	})
	var out int
	if err := ctl.call(t.Context(), "m", 5, &out); err != nil || out != 6 {
		t.Errorf("call() = %d, %v, want 6", out, err)
	}
}

func TestCallOfAHostileSentry(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"refusal":    `{"success":false,"err":"no"}`,
		"malformed":  `{"success":`,
		"other type": `{"success":true,"result":"text"}`,
		"nothing":    ``,
		"endless":    `{"success":true,"result":"` + strings.Repeat("x", maxReply),
	} {
		ctl := sentryStub(t, func(conn net.Conn) {
			_ = json.NewDecoder(conn).Decode(&struct{}{})
			_, _ = conn.Write([]byte(answer))
		})
		var out int
		err := ctl.call(t.Context(), "m", nil, &out)
		var refused remoteError
		if err == nil || errors.As(err, &refused) != (name == "refusal") {
			t.Errorf("call(%s) = %v", name, err)
		}
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	ctl := sentryStub(t, func(net.Conn) { <-release })
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if err := ctl.call(ctx, "m", nil, nil); !errors.Is(err, why) {
		t.Errorf("call(ctx ended) = %v, want its cause", err)
	}
}

func TestGuestMountIsRecognised(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"./.lehr/": true, ".lehr": true, "./.lehr/init": true, "/.lehr": true,
		"./.lehrer": false, "./a/.lehr": false, "./": false,
	} {
		if got := isGuestMount(name); got != want {
			t.Errorf("isGuestMount(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestMainThreadIsNeverUsed(t *testing.T) {
	t.Parallel()
	for range 50 {
		if err := onThread(func() (bool, error) {
			if gettid() == os.Getpid() {
				return true, errors.New("on the main thread")
			}
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}
