// Package world starts the whole platform for a test in one line: the real
// lehr program with a data folder of its own on a free port. It can be killed
// with SIGKILL and started again on the same folder.
package world

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/sdk"
)

// startLimit is how long a start may take before a test gives up on it.
const startLimit = 60 * time.Second

// World is one running platform. Its methods fail the test on trouble; it is
// for one goroutine, but commands made with Command may run in parallel.
type World struct {
	t       testing.TB
	lehr    string // the program
	folder  string
	listen  string
	env     []string
	extra   []string // environment of lehr up alone
	up      *exec.Cmd
	ended   chan error
	server  config.Server
	upLog   *os.File
	workers string
	slots   *slotWatch // nil unless WatchSlots was called
}

// Option changes how a world starts.
type Option func(*World)

// WithEnv adds to the environment of lehr up and its agent, e.g. failpoints.
func WithEnv(kv ...string) Option { return func(w *World) { w.extra = append(w.extra, kv...) } }

// WithFolder puts the world into a folder of the caller's, which is removed.
func WithFolder(folder string) Option { return func(w *World) { w.folder = folder } }

// WithWorkers sets the number of workers.
func WithWorkers(n int) Option { return func(w *World) { w.workers = fmt.Sprint(n) } }

// Program returns the lehr program, which LEHR_BIN names. The test is skipped
// where sandboxes cannot run.
func Program(t testing.TB) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-ENV: sandboxes need root")
	}
	program := os.Getenv("LEHR_BIN")
	if program == "" {
		t.Fatal("LEHR_BIN does not name the lehr program; run this through `make test`, or set it to an absolute path of bin/lehr")
	}
	return program
}

// Start makes a folder, starts lehr up on it and waits until it takes
// requests. At the test's end everything is stopped, and a process that is left
// behind fails the test. The program comes from LEHR_BIN, which `make test`
// sets; the test is skipped where gVisor cannot run.
func Start(t testing.TB, options ...Option) *World {
	t.Helper()
	program := Program(t)
	w := &World{t: t, lehr: program, listen: "127.0.0.1:0", workers: "2"}
	for _, o := range options {
		o(w)
	}
	if w.folder == "" {
		folder, err := os.MkdirTemp("", "lehr-world-")
		if err != nil {
			t.Fatal(err)
		}
		w.folder = folder
	}
	w.env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(w.folder, "state"), "LEHR_URL=", "LEHR_API_KEY=")
	t.Cleanup(w.tearDown)
	w.copyGolden()
	w.Up()
	return w
}

// In returns the same world for a subtest, whose own failure ends it. Only the
// world that Start returned may be killed, stopped and started.
func (w *World) In(t testing.TB) *World {
	sub := *w
	sub.t = t
	return &sub
}

// Data is the data folder of lehr up.
func (w *World) Data() string { return filepath.Join(w.folder, "data") }

// URL and Key are where and how to call the API.
func (w *World) URL() string { return w.server.URL }

// Key is the administrator key of this world.
func (w *World) Key() string { return w.server.Key }

// PID is the process id of lehr up.
func (w *World) PID() int { return w.up.Process.Pid }

// Up starts lehr up, for the first time or again, and waits for readiness.
func (w *World) Up() {
	w.t.Helper()
	w.begin()
	w.awaitReady()
}

// begin starts lehr up and waits for nothing.
func (w *World) begin() {
	w.t.Helper()
	log, err := os.OpenFile(filepath.Join(w.folder, "up.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	w.upLog = log
	cmd := exec.Command(w.lehr, "up", "--data", w.Data(), "--listen", w.listen, "--workers", w.workers)
	cmd.Env = append(append([]string{}, w.env...), w.extra...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.up, w.ended = cmd, make(chan error, 1)
	go func(ended chan error) { ended <- cmd.Wait() }(w.ended)
}

func (w *World) awaitReady() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	for ctx.Err() == nil {
		select {
		case err := <-w.ended:
			w.ended <- err
			w.t.Fatalf("lehr up ended: %v\n%s", err, w.Log())
		case <-time.After(10 * time.Millisecond):
		}
		s, err := config.FindServer(filepath.Join(w.folder, "state", "lehr", "servers"), "", func(pid int) bool { return pid == w.up.Process.Pid })
		if err == nil && w.ready(ctx, s.URL) {
			w.server = s
			w.listen = strings.TrimPrefix(s.URL, "http://") // a restart keeps the address
			return
		}
	}
	w.t.Fatalf("lehr up is not ready after %s\n%s", startLimit, w.Log())
}

func (w *World) ready(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// Kill9 ends lehr up with SIGKILL and waits until it is gone.
func (w *World) Kill9() {
	w.t.Helper()
	if err := w.up.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	<-w.ended
	w.up = nil
}

// Stop ends lehr up with SIGTERM; sandboxes keep running.
func (w *World) Stop() {
	w.t.Helper()
	if err := w.stop(); err != nil {
		w.t.Fatalf("%v\n%s", err, w.Log())
	}
}

func (w *World) stop() error {
	if w.up == nil {
		return nil
	}
	if err := w.up.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-w.ended:
		w.up = nil
		if err != nil {
			return fmt.Errorf("lehr up: %w", err)
		}
		return nil
	case <-time.After(startLimit):
		_ = w.up.Process.Kill()
		<-w.ended
		w.up = nil
		return fmt.Errorf("lehr up did not end within %s of SIGTERM", startLimit)
	}
}

// Log returns the end of what lehr up and its agent wrote.
func (w *World) Log() string {
	b, err := os.ReadFile(filepath.Join(w.folder, "up.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-8000):])
}

// tearDown kills every sandbox, stops the server and looks for leftovers.
func (w *World) tearDown() {
	if w.up == nil && !w.t.Failed() {
		w.Up() // a test that ended with the server down has sandboxes to kill
	}
	if w.up != nil {
		w.killSandboxes()
		if err := w.stop(); err != nil {
			w.t.Errorf("%v\n%s", err, w.Log())
		}
	}
	if left := w.Processes(); len(left) > 0 {
		w.t.Errorf("processes were left behind:\n%s", strings.Join(left, "\n"))
	}
	if left := w.mounts(); len(left) > 0 {
		w.t.Errorf("mounts were left behind:\n%s", strings.Join(left, "\n"))
	}
	if w.t.Failed() {
		w.t.Logf("the log of lehr up:\n%s", w.Log())
	}
	_ = w.upLog.Close()
	if err := os.RemoveAll(w.folder); err != nil {
		w.t.Errorf("the folder cannot be removed: %v", err)
	}
}

func (w *World) killSandboxes() {
	var boxes []struct {
		ID string `json:"id"`
	}
	out, err := w.try("sandbox", "ls", "--limit", "0", "--output", "json")
	if err != nil || json.Unmarshal(out, &boxes) != nil {
		w.t.Errorf("listing the sandboxes at the end: %v", err)
		return
	}
	for _, b := range boxes {
		if _, err := w.try("sandbox", "kill", b.ID); err != nil {
			w.t.Errorf("killing %s at the end: %v", b.ID, err)
		}
	}
}

// Processes lists the processes whose command line names this world's folder.
func (w *World) Processes() []string {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well-formed
	var found []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err == nil && bytes.Contains(b, []byte(w.folder)) {
			found = append(found, p+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

func (w *World) mounts() []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, w.folder) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// Client returns a Go client with the administrator key.
func (w *World) Client() *sdk.Client {
	w.t.Helper()
	c, err := sdk.New(sdk.Options{URL: w.server.URL, Key: w.server.Key})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}
