package world

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Result is what one command line did.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Command returns a lehr command line that finds this world, not yet started.
func (w *World) Command(args ...string) *exec.Cmd {
	// Not bound to the test's context, which is over when clean-ups run.
	cmd := exec.Command(w.lehr, args...)
	cmd.Env = w.env
	return cmd
}

// Run runs a command line to its end, whatever its exit code.
func (w *World) Run(args ...string) Result {
	w.t.Helper()
	return w.RunInput("", args...)
}

// RunInput is Run with standard input.
func (w *World) RunInput(stdin string, args ...string) Result {
	w.t.Helper()
	cmd := w.Command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("lehr %s: %v", strings.Join(args, " "), err)
	}
	return Result{Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
}

// OK runs a command line that must succeed and returns its stdout.
func (w *World) OK(args ...string) string {
	w.t.Helper()
	return w.OKInput("", args...)
}

// OKInput is OK with standard input.
func (w *World) OKInput(stdin string, args ...string) string {
	w.t.Helper()
	r := w.RunInput(stdin, args...)
	if r.Code != 0 {
		w.t.Fatalf("lehr %s = exit code %d, want 0\nstdout: %s\nstderr: %s\nserver: %s",
			strings.Join(args, " "), r.Code, tail(r.Stdout), tail(r.Stderr), w.Log())
	}
	return r.Stdout
}

// JSON runs a command line that must succeed, with --output json, and decodes
// its stdout.
func (w *World) JSON(into any, args ...string) {
	w.t.Helper()
	w.JSONInput("", into, args...)
}

// JSONInput is JSON with standard input.
func (w *World) JSONInput(stdin string, into any, args ...string) {
	w.t.Helper()
	out := w.OKInput(stdin, append([]string{"--output", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		w.t.Fatalf("lehr %s: %v\n%s", strings.Join(args, " "), err, tail(out))
	}
}

func (w *World) try(args ...string) ([]byte, error) {
	cmd := w.Command(args...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, tail(errOut.String()))
	}
	return out, nil
}

func tail(s string) string {
	const most = 4000
	return s[max(0, len(s)-most):]
}
