package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
)

// plays ends as the first word of the command asks for.
func plays(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
	switch r.Args[0] {
	case "cat":
		return agent.Exit{}, out("stdout", r.Stdin)
	case "raw":
		return agent.Exit{}, out("stdout", []byte("\x1b[31m\r\x00\xff"))
	case "seven":
		return agent.Exit{Code: 7}, out("stderr", []byte("it says"))
	case "killed":
		return agent.Exit{Code: 137, Signal: 9}, nil
	case "late":
		return agent.Exit{Code: 137, Signal: 9, TimedOut: true}, nil
	case "missing":
		return agent.Exit{}, errs.New(errs.Invalid, "there is no missing").WithCode("command_not_found")
	case "folder":
		return agent.Exit{}, errs.New(errs.Invalid, "folder cannot be run").WithCode("command_not_executable")
	case "broken":
		return agent.Exit{}, errs.New(errs.Unavailable, "the host is gone").WithCode("host_unreachable")
	case "endless":
		for {
			if err := out("stdout", []byte("y\n")); err != nil {
				return agent.Exit{}, err
			}
			if ctx.Err() != nil {
				return agent.Exit{}, context.Cause(ctx)
			}
		}
	case "waits":
		return waits(ctx, r, out)
	}
	return agent.Exit{}, nil
}

// run and exec end as their command did, and say only what is Lehr's to say.
func TestExitCodesOfCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plays)
	var box struct{ ID string }
	w.run("sandbox", "create", "minimal", "-o", "json").ends(ExitOK).document(&box)
	for _, tt := range []struct {
		command string
		code    int
		stderr  string // exactly; "…" begins what is not looked at
	}{
		{"true", 0, ""},
		{"seven", 7, "it says"},
		{"killed", 137, ""},
		{"late", ExitTimeLimit, "lehr: the command reached its time limit…"},
		{"missing", 127, "lehr: there is no missing [command_not_found]…"},
		{"folder", 126, "lehr: folder cannot be run [command_not_executable]…"},
		{"broken", ExitLehr, "lehr: the host is gone [host_unreachable]…"},
	} {
		for _, args := range [][]string{
			{"run", "minimal", "--", tt.command}, {"sandbox", "exec", box.ID, "--", tt.command}, {"run", "-o", "json", "minimal", "--", tt.command},
		} {
			r := w.run(args...).ends(tt.code)
			want, open := strings.CutSuffix(tt.stderr, "…")
			if r.stderr != want && !(open && strings.HasPrefix(r.stderr, want)) || r.stdout != "" {
				t.Errorf("lehr %s = stdout %q, stderr %q, want %q", r.args, r.stdout, r.stderr, tt.stderr)
			}
		}
	}
	if live := w.host.Live(); len(live) != 1 || string(live[0].ID) != box.ID {
		t.Errorf("live sandboxes = %+v, want the created one alone", live)
	}
	w.run("run", "missing", "--", "true").ends(ExitLehr, "[template_not_found]")
	w.run("run", "minimal", "--memory", "1", "--", "true").ends(ExitLehr, "memory_mb")
	w.run("sandbox", "exec", "odd", "--", "true").ends(ExitLehr, "[id_invalid]")
	w.run("run").ends(ExitUsage, "TEMPLATE")
	w.run("run", "minimal", "-e", "x", "--", "true").ends(ExitUsage, "KEY=VALUE")
	w.run("run", "minimal", "--timeout", "-1s", "--", "true").ends(ExitUsage, "--timeout")
	w.run("sandbox", "exec", box.ID).ends(ExitUsage, "CMD")
}

func TestOutputOfCommandsIsRaw(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plays)
	if r := w.run("run", "minimal", "--", "raw").ends(ExitOK); r.stdout != "\x1b[31m\r\x00\xff" {
		t.Errorf("stdout = %q, want every byte", r.stdout)
	}
}

func TestStandardInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plays)
	for _, tt := range []struct {
		in   string
		code int
	}{
		{"", ExitOK}, {"hello\x00", ExitOK}, {strings.Repeat("x", 1<<20), ExitOK}, {strings.Repeat("x", 1<<20+1), ExitLehr},
	} {
		c := w.command("run", "-i", "minimal", "--", "cat")
		c.env.Stdin = strings.NewReader(tt.in)
		r := c.run(t).ends(tt.code)
		if tt.code == ExitOK && r.stdout != tt.in {
			t.Errorf("cat of %d bytes gave %d back", len(tt.in), len(r.stdout))
		}
		if tt.code != ExitOK && !strings.Contains(r.stderr, "[stdin_too_large]") {
			t.Errorf("stderr = %q, want stdin_too_large", r.stderr)
		}
	}
	c := w.command("run", "minimal", "--", "cat")
	c.env.Stdin = strings.NewReader("not asked for")
	if r := c.run(t).ends(ExitOK); r.stdout != "" {
		t.Errorf("without -i cat gives %q, want nothing", r.stdout)
	}
}

// A read of a terminal ends by nothing; the command must.
func TestInterruptWhileReadingStandardInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plays)
	for _, args := range [][]string{{"run", "-i", "minimal", "--", "cat"}, {"build", "-t", "x", "-f", "-"}} {
		c := w.command(args...)
		in, keyboard := io.Pipe()
		t.Cleanup(func() { _ = keyboard.Close() })
		c.env.Stdin = in
		interrupts := make(chan os.Signal)
		c.env.Signals = interrupts
		wait := c.follow(t, t.Context())
		if _, err := keyboard.Write([]byte("typed")); err != nil { // the read has begun
			t.Fatal(err)
		}
		interrupts <- os.Interrupt
		if r := wait().ends(ExitCancelled); r.stderr != "lehr: cancelled\n" {
			t.Errorf("stderr = %q, want that it was cancelled", r.stderr)
		}
	}
}

// Whatever ends `lehr run`, its sandbox goes.
func TestRunLeavesNoSandbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plays)
	c := w.command("run", "minimal", "--", "waits")
	interrupts := make(chan os.Signal)
	c.env.Signals = interrupts
	wait := c.follow(t, t.Context())
	c.stdout.await(t.Context(), "begun")
	interrupts <- os.Interrupt
	if r := wait().ends(ExitCancelled); r.stderr != "lehr: cancelled\n" {
		t.Errorf("stderr = %q, want that it was cancelled", r.stderr)
	}
	gone := w.command("run", "minimal", "--", "endless")
	gone.env.Stdout = closedPipe{}
	if r := gone.run(t).ends(ExitPipe); r.stderr != "" {
		t.Errorf("stderr = %q, want nothing", r.stderr)
	}
	if live := w.host.Live(); len(live) != 0 {
		t.Errorf("live sandboxes = %+v, want none", live)
	}
}

// closedPipe is `| head` after it has ended.
type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, fmt.Errorf("write: %w", syscall.EPIPE) }
