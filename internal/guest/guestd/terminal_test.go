package guestd_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/process"
)

func shell(columns, rows uint32) *process.StartRequest {
	return &process.StartRequest{
		// Nothing but what is typed: no start-up files, no line editor.
		Process: &process.ProcessConfig{
			Cmd: "/bin/bash", Args: []string{"--norc", "--noprofile", "--noediting", "-i"},
			Envs: map[string]string{"PS1": "> ", "HISTFILE": ""},
		},
		Pty: &process.PTY{Size: &process.PTY_Size{Cols: columns, Rows: rows}},
	}
}

func (e *events) shows(text string) {
	e.t.Helper()
	e.until(func() bool { return strings.Contains(e.pty, text) })
	_, after, found := strings.Cut(e.pty, text)
	if !found {
		e.t.Fatalf("the terminal shows %q, and not %q", e.pty, text)
	}
	e.pty = after
}

// A shell in a terminal has a size that can change, a controlling terminal with
// job control, and its user.
func TestTerminal(t *testing.T) {
	t.Parallel()
	needBash(t)
	ctx, u := patient(t), initialised(t).user(t)
	pid, e := u.start(t, ctx, shell(100, 30))
	types := func(text string) { t.Helper(); must(t, u.types(ctx, pid, text)) }
	types("stty size; tty; echo $TERM; echo term=$((1+1))\n")
	e.shows("30 100")
	e.shows("/dev/pts/")
	e.shows("xterm-256color")
	e.shows("term=2")
	types("trap 'echo resi''zed $(stty size)' WINCH; echo tr''apped\n")
	e.shows("trapped")
	must(t, u.resize(ctx, pid, 132, 43))
	types("\n")
	e.shows("resized 43 132")
	// Ctrl-C ends what runs in the foreground and not the shell.
	types("sh -c 'echo run''ning; exec sleep 1000'\n")
	e.shows("running")
	types("\x03")
	types("echo in''terrupted $?\n")
	e.shows("interrupted 130")
	// Ctrl-Z stops it; it can go on in the background and be ended.
	types("sh -c 'echo again; exec sleep 1000'\n")
	e.shows("again\r")
	types("\x1a")
	e.shows("Stopped")
	types("bg; kill %1; wait %1; echo job $? end''ed\n")
	e.shows("ended")
	types("cat; echo re''ad $?\n")
	types("line\n\x04")
	e.shows("read 0")
	types("exit 3\n")
	if end := e.ended(); end.GetExitCode() != 3 || !end.GetExited() {
		t.Errorf("the shell ended with %v, want code 3", end)
	}
}

// What a shell leaves in its terminal is hung up with it.
func TestTerminalHangsUp(t *testing.T) {
	t.Parallel()
	needBash(t)
	ctx, u := patient(t), initialised(t).user(t)
	gate := t.TempDir() + "/gate"
	must(t, mkfifo(gate))
	pid, e := u.start(t, ctx, shell(80, 24))
	// The child tells that it was hung up through the FIFO.
	must(t, u.types(ctx, pid, "(trap 'echo hung up > "+gate+"; exit' HUP; echo re''ady; while :; do sleep 0.01; done) & wait\n"))
	e.shows("ready")
	_, reader := u.start(t, ctx, script("cat "+gate))
	must(t, u.signal(ctx, pid, 1))
	if got := reader.ended(); reader.stdout != "hung up\n" {
		t.Errorf("the child says %q, %v; want that it was hung up", reader.stdout, got)
	}
	e.ended()
}

// What is for pipes is refused for terminals and the other way round.
func TestTerminalRefusals(t *testing.T) {
	t.Parallel()
	needBash(t)
	ctx, u := patient(t), initialised(t).user(t)
	terminal, _ := u.start(t, ctx, shell(0, 0))
	pipes, _ := u.start(t, ctx, script("sleep 1000"))
	_, err := u.processes.Start(ctx, connect.NewRequest(&process.StartRequest{
		Process: &process.ProcessConfig{Cmd: "true"}, Pty: &process.PTY{Size: &process.PTY_Size{Cols: 70_000, Rows: 1}},
	}))
	must(t, err)
	for name, tt := range map[string]struct {
		err  error
		want connect.Code
	}{
		"input of a terminal":        {u.stdin(ctx, terminal, "x"), connect.CodeFailedPrecondition},
		"end of a terminal's input":  {u.closeStdin(ctx, terminal), connect.CodeFailedPrecondition},
		"typing into a pipe":         {u.types(ctx, pipes, "x"), connect.CodeFailedPrecondition},
		"size of a pipe":             {u.resize(ctx, pipes, 80, 24), connect.CodeFailedPrecondition},
		"an absurd size":             {u.resize(ctx, terminal, 1<<20, 24), connect.CodeInvalidArgument},
		"size of nothing":            {u.resize(ctx, 1<<21, 80, 24), connect.CodeNotFound},
		"typing into nothing":        {u.types(ctx, 1<<21, "x"), connect.CodeNotFound},
		"a signal that is not there": {u.signal(ctx, pipes, 65), connect.CodeInvalidArgument},
	} {
		if got := connect.CodeOf(tt.err); tt.err == nil || got != tt.want {
			t.Errorf("%s: %v, want %v", name, tt.err, tt.want)
		}
	}
	must(t, u.signal(ctx, terminal, 9))
	must(t, u.signal(ctx, pipes, 9))
}
