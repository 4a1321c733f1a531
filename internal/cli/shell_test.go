package cli

import (
	"context"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// screen is a person at a terminal in front of a command.
type screen struct {
	t      *testing.T
	ours   *os.File
	shown  *buffer
	before *term.State
	theirs *os.File
}

// sit gives a command a terminal for all three of its streams.
func (c *command) sit(t *testing.T) *screen {
	t.Helper()
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Skipf("SKIP-ENV: no pseudo-terminal: %v", err)
	}
	s := &screen{t: t, ours: ours, theirs: theirs, shown: newBuffer()}
	s.size(90, 33)
	if s.before, err = term.GetState(int(theirs.Fd())); err != nil {
		t.Fatal(err)
	}
	c.env.Stdin, c.env.Stdout, c.env.Stderr = theirs, theirs, theirs
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(s.shown, ours) })
	t.Cleanup(func() {
		// The command's read of its terminal ends with the process only, or here.
		_, _ = ours.WriteString("\n")
		_ = theirs.Close()
		reading.Wait()
		_ = ours.Close()
	})
	return s
}

func (s *screen) size(cols, rows uint16) {
	s.t.Helper()
	must(s.t, pty.Setsize(s.ours, &pty.Winsize{Cols: cols, Rows: rows}))
}

func (s *screen) types(text string) {
	s.t.Helper()
	_, err := s.ours.WriteString(text)
	must(s.t, err)
}

// shows waits for a text.
func (s *screen) shows(text string) {
	s.t.Helper()
	ctx, done := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer done()
	if !s.shown.await(ctx, text) {
		s.t.Fatalf("the terminal never shows %q: %q", text, s.shown.String())
	}
}

// restored wants the terminal as it was.
func (s *screen) restored() {
	s.t.Helper()
	after, err := term.GetState(int(s.theirs.Fd()))
	if err != nil || !reflect.DeepEqual(after, s.before) {
		s.t.Errorf("the terminal is left as %v, %v, want %v", after, err, s.before)
	}
}

func TestShell(t *testing.T) {
	t.Parallel()
	i := newInside(t, nil)
	c := i.command("sandbox", "shell", "sb01", "--user", "nobody", "--cwd", "/usr", "-e", "PS1=ready> ", "-e", "A=a b", "--", "/bin/sh")
	s := c.sit(t)
	wait := c.follow(t, t.Context())
	s.shows("ready> ")
	s.types("stty size; id -un; pwd; echo \"$A/$TERM.\"\r")
	for _, want := range []string{"33 90", "nobody", "/usr", "a b/xterm."} {
		s.shows(want)
	}
	// Ctrl-C is the sandbox's.
	s.types("echo be''gun; sleep 1000; echo never\r")
	s.shows("begun")
	s.types("\x03")
	s.types("echo ali''ve\r")
	s.shows("alive")
	// The size follows, and the signal is passed on inside.
	// (without jobs: the signal goes to who is in the foreground)
	s.types("set +m; trap 'stty size; exit 7' WINCH; echo wai''ting; while :; do sleep 0.1; done\r")
	s.shows("waiting")
	s.size(101, 44)
	must(t, syscall.Kill(os.Getpid(), syscall.SIGWINCH))
	s.shows("44 101")
	if r := wait().ends(7); strings.Contains(s.shown.String(), "lehr:") {
		t.Errorf("lehr %s says %q, want nothing of its own", r.args, s.shown.String())
	}
	s.restored()
}

// Without a command the shell is a login shell that the sandbox has.
func TestLoginShell(t *testing.T) {
	t.Parallel()
	i := newInside(t, nil)
	c := i.command("sandbox", "shell", boxID)
	s := c.sit(t)
	wait := c.follow(t, t.Context())
	s.types("case $0 in -*) ;; *bash*) shopt -q login_shell && echo log''in;; esac\rexit\r")
	s.shows("login")
	wait().ends(ExitOK)
	s.restored()
}

func TestShellCannotStart(t *testing.T) {
	t.Parallel()
	i := newInside(t, nil)
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{boxID, "--", "/no/such"}, 127, "[command_not_found]"},
		{[]string{boxID, "--", "/etc/passwd"}, 126, "[command_not_executable]"},
		{[]string{boxID, "--user", "nosuchuser"}, ExitLehr, "nosuchuser"},
		{[]string{boxID, "--cwd", "/no/such"}, ExitLehr, "[workdir_missing]"},
		{[]string{"sb09"}, ExitLehr, "[sandbox_not_found]"},
		{[]string{boxID, "-e", "x"}, ExitUsage, "KEY=VALUE"},
	} {
		c := i.command(append([]string{"sandbox", "shell"}, tt.args...)...)
		s := c.sit(t)
		c.run(t).ends(tt.code)
		s.shows(tt.want)
		s.restored()
	}
	i.command("sandbox", "shell", boxID).run(t).ends(ExitUsage, "needs a terminal", "lehr sandbox exec")
}

// However a shell ends, the terminal is as it was.
func TestShellRestoresTheTerminal(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		end  func(i *inside, s *screen, cancel context.CancelFunc)
		code int
		says string
	}{
		"lost connection": {func(i *inside, _ *screen, _ context.CancelFunc) { i.server.CloseClientConnections() }, ExitLehr, "the connection to the sandbox was lost"},
		"told to stop":    {func(_ *inside, _ *screen, cancel context.CancelFunc) { cancel() }, ExitCancelled, "cancelled"},
		"killed inside":   {func(_ *inside, s *screen, _ context.CancelFunc) { s.types("kill -9 $$\r") }, 137, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInside(t, nil)
			c := i.command("sandbox", "shell", boxID, "-e", "PS1=ready> ", "--", "/bin/sh")
			s := c.sit(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			wait := c.follow(t, ctx)
			s.shows("ready> ")
			tt.end(i, s, cancel)
			wait().ends(tt.code)
			s.shows(tt.says)
			s.restored()
		})
	}
}
