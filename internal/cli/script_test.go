package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	os.Exit(testscript.RunMain(m, map[string]func() int{"lehr": Program}))
}

// Each script runs lehr as its users do, as a process, against a control plane
// of its own on a scripted host.
func TestScripts(t *testing.T) {
	t.Parallel()
	const dir = "testdata/script"
	scripts, err := filepath.Glob(dir + "/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	for _, name := range scripts {
		text, err := os.ReadFile(name)
		must(t, err)
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			w, own := newWorld(t, plays), t.TempDir()
			must(t, os.WriteFile(filepath.Join(own, filepath.Base(name)), text, 0o600))
			testscript.Run(t, testscript.Params{
				Dir: own, RequireExplicitExec: true, RequireUniqueNames: true,
				Setup: func(e *testscript.Env) error {
					e.Setenv("LEHR_URL", w.server.URL)
					e.Setenv("LEHR_API_KEY", w.key)
					e.Setenv("HOME", e.WorkDir)
					e.Setenv("XDG_STATE_HOME", e.WorkDir+"/state")
					if strings.Contains(string(text), "$INSIDE") {
						e.Setenv("INSIDE", newInside(t, nil).url)
						e.Setenv("BOX", boxID)
					}
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": wantCode, "interrupt": interrupt, "keep": keep},
			})
		})
	}
}

// wantCode runs a command and wants its exit code: code N COMMAND…
func wantCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s = exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// keep puts the first line of the last output into a variable: keep NAME
func keep(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: keep NAME")
	}
	line, _, _ := strings.Cut(ts.ReadFile("stdout"), "\n")
	ts.Setenv(args[0], line)
}

// interrupt starts a command, interrupts it once it has written a text, and
// wants its exit code: interrupt N TEXT COMMAND…
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: interrupt N TEXT COMMAND…")
	}
	// The shell finds the program and takes the script's environment along.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `exec "$@"`, "sh"}, args[2:]...)...)
	cmd.Dir = ts.Getenv("WORK")
	for _, name := range []string{"PATH", "HOME", "LEHR_URL", "LEHR_API_KEY", "XDG_STATE_HOME"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	out := &watched{text: args[1], seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-out.seen:
		ts.Check(cmd.Process.Signal(syscall.SIGINT))
		<-ended
	case <-ended:
	}
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("%s = exit code %s, want %s: %s", strings.Join(args[2:], " "), got, args[0], out.all.String())
	}
	ts.Logf("%s", out.all.String())
}

// watched tells of a text in what is written to it.
type watched struct {
	text string
	seen chan struct{}
	once sync.Once
	all  strings.Builder // one process writes at a time
}

func (w *watched) Write(b []byte) (int, error) {
	w.all.Write(b)
	if strings.Contains(w.all.String(), w.text) {
		w.once.Do(func() { close(w.seen) })
	}
	return len(b), nil
}
