package guestd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/guestclient"
	"github.com/lehr-dev/lehr/internal/lehr"
)

type execCase struct {
	name   string
	req    guestclient.ExecRequest
	exit   guestclient.Exit
	stdout string
	stderr string
}

func execCases() []execCase {
	return []execCase{
		{"output", sh("echo out; echo err >&2"), guestclient.Exit{}, "out\n", "err\n"},
		{"code", sh("exit 7"), guestclient.Exit{Code: 7}, "", ""},
		{"code 255", sh("exit 255"), guestclient.Exit{Code: 255}, "", ""},
		{"signal", sh("kill -TERM $$"), guestclient.Exit{Code: 143, Signal: 15}, "", ""},
		{"no stdin", sh("cat"), guestclient.Exit{}, "", ""},
		{"directory", guestclient.ExecRequest{Cmd: []string{"pwd"}, Cwd: "/usr"}, guestclient.Exit{}, "/usr\n", ""},
		{"default directory", guestclient.ExecRequest{Cmd: []string{"pwd"}}, guestclient.Exit{}, "/tmp\n", ""},
		{"default environment", sh("echo $GREETING $USER $HOME"), guestclient.Exit{}, "hello root /root\n", ""},
		{
			"own environment",
			guestclient.ExecRequest{Cmd: []string{"/bin/sh", "-c", "echo $GREETING"}, Env: map[string]string{"GREETING": "bye"}},
			guestclient.Exit{},
			"bye\n", "",
		},
		{
			"clean environment",
			guestclient.ExecRequest{Cmd: []string{"/usr/bin/env"}, Env: map[string]string{"A": "1"}, CleanEnv: true},
			guestclient.Exit{},
			"A=1\n", "",
		},
		{
			"user",
			guestclient.ExecRequest{Cmd: []string{"/bin/sh", "-c", "id -un; id -u"}, User: "nobody"},
			guestclient.Exit{},
			"nobody\n65534\n", "",
		},
		{
			"number and group",
			guestclient.ExecRequest{Cmd: []string{"/bin/sh", "-c", "id -u; id -G; echo $HOME"}, User: "4711:42"},
			guestclient.Exit{},
			"4711\n42\n/\n", "",
		},
		{
			"input",
			guestclient.ExecRequest{Cmd: []string{"cat"}, Stdin: strings.NewReader(strings.Repeat("x", 200_000))},
			guestclient.Exit{},
			strings.Repeat("x", 200_000), "",
		},
		{
			"input not wanted",
			guestclient.ExecRequest{Cmd: []string{"true"}, Stdin: strings.NewReader(strings.Repeat("x", 1<<20))},
			guestclient.Exit{},
			"", "",
		},
		{"held pipe", sh("sleep 1000 & echo $! >&2; echo done"), guestclient.Exit{}, "done\n", "*"},
		{
			"time limit",
			guestclient.ExecRequest{Cmd: []string{"/bin/sh", "-c", "echo a; sleep 1000; echo b"}, Timeout: 200 * time.Millisecond},
			guestclient.Exit{Code: 137, Signal: 9, TimedOut: true},
			"a\n", "",
		},
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	tests := execCases()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out output
			exit, err := d.client.Exec(t.Context(), tt.req, out.add)
			must(t, err)
			if exit != tt.exit {
				t.Errorf("Exec(%v) = %+v, want %+v", tt.req.Cmd, exit, tt.exit)
			}
			if diff := cmp.Diff(tt.stdout, out.stdout.String()); diff != "" {
				t.Errorf("standard output (-want +got):\n%s", diff)
			}
			if tt.stderr == "*" {
				kill(t, out.stderr.String())
			} else if diff := cmp.Diff(tt.stderr, out.stderr.String()); diff != "" {
				t.Errorf("standard error (-want +got):\n%s", diff)
			}
		})
	}
}

// kill ends a process a test has left behind on purpose.
func kill(t *testing.T, pid string) {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(pid, &n); err != nil {
		t.Fatalf("no process number in %q", pid)
	}
	p, err := os.FindProcess(n)
	must(t, err)
	must(t, p.Kill())
}

func TestExecCannotRun(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	must(t, os.WriteFile(plain, []byte("echo"), 0o644))
	binary := filepath.Join(dir, "binary")
	must(t, os.WriteFile(binary, []byte{1, 2, 3, 4}, 0o755))
	script := filepath.Join(dir, "script")
	must(t, os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o755))
	tests := []struct {
		name string
		req  guestclient.ExecRequest
		code string
	}{
		{"interpreter", guestclient.ExecRequest{Cmd: []string{script}}, "command_not_executable"},
		{"nothing", guestclient.ExecRequest{}, "command_not_found"},
		{"empty", guestclient.ExecRequest{Cmd: []string{""}}, "command_not_found"},
		{"name", guestclient.ExecRequest{Cmd: []string{"no-such-program"}}, "command_not_found"},
		{"path", guestclient.ExecRequest{Cmd: []string{"/no/such"}}, "command_not_found"},
		{"not executable", guestclient.ExecRequest{Cmd: []string{plain}}, "command_not_executable"},
		{"directory", guestclient.ExecRequest{Cmd: []string{dir}}, "command_not_executable"},
		{"format", guestclient.ExecRequest{Cmd: []string{binary}}, "command_not_executable"},
		{"not the user's", guestclient.ExecRequest{Cmd: []string{"/root/x"}, User: "nobody"}, "command_not_executable"},
		{"user", guestclient.ExecRequest{Cmd: []string{"true"}, User: "nobody-knows"}, "user_unknown"},
		{"no directory", guestclient.ExecRequest{Cmd: []string{"true"}, Cwd: "/no/such"}, "workdir_missing"},
		{"file as directory", guestclient.ExecRequest{Cmd: []string{"true"}, Cwd: plain}, "workdir_missing"},
		{"directory not the user's", guestclient.ExecRequest{Cmd: []string{"true"}, Cwd: "/root", User: "nobody"}, "workdir_missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := d.client.Exec(t.Context(), tt.req, nil)
			if !errors.Is(err, &errs.Error{Kind: errs.Invalid, Code: tt.code}) {
				t.Errorf("Exec(%+v) = %v (%s, %s), want code %s", tt.req, err, errs.KindOf(err), errs.CodeOf(err), tt.code)
			}
		})
	}
}

// A long output arrives whole though its reader is slow and the writer ends
// long before everything is read.
func TestExecLosesNothing(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	const size = 3 << 20
	var got bytes.Buffer
	slow := 0
	exit, err := d.client.Exec(t.Context(), sh(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x; echo end >&2", size)),
		func(s lehr.LogStream, b []byte) error {
			if slow++; slow%16 == 0 {
				time.Sleep(time.Millisecond)
			}
			if s == lehr.StreamStdout {
				got.Write(b)
			}
			return nil
		})
	must(t, err)
	if exit.Code != 0 || got.Len() != size {
		t.Errorf("Exec = %+v with %d bytes, want code 0 with %d", exit, got.Len(), size)
	}
}

// The first line is there while the command still runs.
func TestExecStreams(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	gate := filepath.Join(t.TempDir(), "gate")
	req := sh("mkfifo " + gate + "; echo first; cat " + gate)
	var lines []string
	_, err := d.client.Exec(t.Context(), req, func(_ lehr.LogStream, b []byte) error {
		lines = append(lines, string(b))
		if len(lines) == 1 {
			return os.WriteFile(gate, []byte("second\n"), 0)
		}
		return nil
	})
	must(t, err)
	if diff := cmp.Diff([]string{"first\n", "second\n"}, lines); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// A call that ends takes its command and the command's children along, whatever
// sessions they have made.
func TestExecCancelKills(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the caller went away")
	alive := filepath.Join(t.TempDir(), "alive")
	must(t, mkfifo(alive))
	// The child holds the FIFO open for writing until it dies.
	req := sh("setsid sh -c 'echo ready >&2; exec sleep 1000' > " + alive + " & wait")
	opened := make(chan *os.File, 1)
	go func() {
		f, err := os.Open(alive)
		if err != nil {
			t.Error(err)
		}
		opened <- f
	}()
	_, err := d.client.Exec(ctx, req, func(lehr.LogStream, []byte) error {
		cancel(gone)
		return nil
	})
	if !errors.Is(err, gone) {
		t.Errorf("Exec = %v, want %v", err, gone)
	}
	f := <-opened
	defer f.Close()
	if _, err := f.Read(make([]byte, 1)); err == nil {
		t.Error("the child has written, want end of file by its death")
	}
}

// A lingering command survives its caller; its output is kept for the next.
func TestExecLinger(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	ctx, cancel := context.WithCancel(t.Context())
	gate := filepath.Join(t.TempDir(), "gate")
	must(t, mkfifo(gate))
	req := sh("echo one; cat " + gate + "; echo two; cat " + gate + "; exit 3")
	req.Linger, req.Tag = true, "worker"
	_, err := d.client.Exec(ctx, req, func(lehr.LogStream, []byte) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Exec = %v, want %v", err, context.Canceled)
	}
	list, err := d.client.List(t.Context())
	must(t, err)
	if len(list) != 1 || list[0].Tag != "worker" || list[0].PID == 0 {
		t.Fatalf("List = %+v, want one process named worker", list)
	}
	must(t, os.WriteFile(gate, nil, 0))
	var out output
	exit, err := d.client.Connect(t.Context(), guestclient.Process{Tag: "worker"}, func(s lehr.LogStream, b []byte) error {
		if !strings.Contains(out.stdout.String(), "two") {
			must(t, out.add(s, b))
			return os.WriteFile(gate, nil, 0)
		}
		return out.add(s, b)
	})
	must(t, err)
	if exit.Code != 3 || out.stdout.String() != "two\n" {
		t.Errorf("Connect = %+v with %q, want code 3 with two", exit, out.stdout.String())
	}
	_, err = d.client.Connect(t.Context(), guestclient.Process{Tag: "worker"}, nil)
	if !errors.Is(err, &errs.Error{Kind: errs.NotFound, Code: "process_unknown"}) {
		t.Errorf("Connect to an ended process = %v, want process_unknown", err)
	}
}

func TestSignal(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	req := sh("trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done")
	req.Tag = "trap"
	var out output
	exit, err := d.client.Exec(t.Context(), req, func(s lehr.LogStream, b []byte) error {
		if strings.HasPrefix(string(b), "ready") {
			return d.client.Signal(t.Context(), guestclient.Process{Tag: "trap"}, 10)
		}
		return out.add(s, b)
	})
	must(t, err)
	if exit.Code != 5 || out.stdout.String() != "caught\n" {
		t.Errorf("Exec = %+v with %q, want code 5 with caught", exit, out.stdout.String())
	}
	err = d.client.Signal(t.Context(), guestclient.Process{PID: 1 << 21}, 9)
	if !errs.IsKind(err, errs.NotFound) {
		t.Errorf("Signal to a stranger = %v, want not found", err)
	}
}
