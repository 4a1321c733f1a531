package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/lehr-dev/lehr/internal/agent"
)

// tty gives a command a terminal as its standard error and collects what is
// written to it.
func (c *command) tty(t *testing.T, width, height uint16) *os.File {
	t.Helper()
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Skipf("SKIP-ENV: no pseudo-terminal: %v", err)
	}
	if err := pty.Setsize(theirs, &pty.Winsize{Cols: width, Rows: height}); err != nil {
		t.Fatal(err)
	}
	lookup := c.env.LookupEnv
	c.env.Stderr = theirs
	c.env.LookupEnv = func(name string) (string, bool) {
		if name == "TERM" {
			return "xterm-256color", true
		}
		return lookup(name)
	}
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(c.stderr, ours) })
	t.Cleanup(func() { _ = theirs.Close(); reading.Wait(); _ = ours.Close() })
	return theirs
}

var (
	controls = regexp.MustCompile("\x1b\\[[?0-9;]*[a-zA-Z]")
	allowed  = regexp.MustCompile("^\x1b\\[(\\?2026[hl]|\\?7[hl]|[0-9]+A|[KJ]|[0-9]*m)$")
)

// shows waits for a text on the terminal and wants it harmless: no control
// sequence but those of the display.
func (r result) shows(c *command, texts ...string) {
	r.t.Helper()
	// The command has ended: what it wrote arrives soon or never.
	ctx, done := context.WithTimeout(r.t.Context(), time.Minute)
	defer done()
	for _, text := range texts {
		if !c.stderr.await(ctx, text) {
			r.t.Fatalf("the terminal never shows %q:\n%s", text, c.stderr.String())
		}
	}
	raw := c.stderr.String()
	for _, seq := range controls.FindAllString(raw, -1) {
		if !allowed.MatchString(seq) {
			r.t.Errorf("the terminal is sent %q", seq)
		}
	}
	if rest := controls.ReplaceAllString(raw, ""); strings.ContainsAny(rest, "\x1b\x07\x08\u009b\u202e") {
		r.t.Errorf("the terminal is sent control characters: %q", rest)
	}
	if !strings.HasSuffix(strings.TrimSpace(raw), "\x1b[?7h\x1b[?2026l") {
		r.t.Errorf("the last frame is not whole: %q", raw[max(0, len(raw)-200):])
	}
}

// A whole build on a terminal: its steps, hostile output, and how it ends.
func TestBuildOnATerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		for n := range 2000 {
			if err := out("stdout", fmt.Appendf(nil, "line %d\x1b[2J\x1b]0;title\x07\u202e\x1b[10A\r\n", n)); err != nil {
				return agent.Exit{}, err
			}
		}
		return agent.Exit{}, nil
	})
	c := w.command("build", "-t", "web", "-f", recipeFile(t, "ENV A=b\nRUN flood\nRUN again"), "-o", "json", "--skip-pre-post")
	c.tty(t, 60, 20)
	var b built
	r := c.run(t).ends(ExitOK)
	r.document(&b)
	r.shows(c, "#1 ENV A=b", "#2 RUN flood", "#3 RUN again", "built web:default")
	if b.Status != "success" {
		t.Errorf("build = %+v, want success", b)
	}
	if n := len(c.stderr.String()); n > 200_000 {
		t.Errorf("the terminal was sent %d bytes for a flood, want frames only", n)
	}
}

// A failure shows the step's last output, the instruction with its lines in
// the file, what to try and where the log is.
func TestFailureOnATerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, says(7, "some output\n", "bad thing\n"))
	file := recipeFile(t, "# comment\n\nENV A=b\n# more\nRUN make \\\n    install\n\nRUN later\n")
	c := w.command("build", "-t", "web", "-f", file, "--skip-pre-post")
	c.tty(t, 70, 20)
	r := c.run(t).ends(ExitRefused)
	r.shows(c, "✗", "exit code 7", "│ some output", "│ bad thing", file+":5", "  4 | # more", "> 5 | RUN make \\", "> 6 |     install", "  8 | RUN later",
		"[step_failed]", "try: ", "log: lehr builds logs bld-")
}

// The first Ctrl-C cancels and says so in the picture, the second detaches; the
// signal alone decides, the terminal is as it was.
func TestInterruptOnATerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, waits)
	c := w.command("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "--skip-pre-post")
	interrupts := make(chan os.Signal, 2)
	c.env.Signals = interrupts
	c.tty(t, 80, 20)
	wait := c.follow(t, t.Context())
	c.stderr.await(t.Context(), "│ begun")
	interrupts <- os.Interrupt
	wait().ends(ExitCancelled).shows(c, "press Ctrl-C again", "cancelled", "cancelled bld-")
}

// The second build of a template says how long steps took in the first; the
// clock of the test is the real one, so a step must take its second.
func TestUsualTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "--skip-pre-post").ends(ExitOK)
	a := &app{env: w.command().env}
	cl, err := a.client()
	if err != nil {
		t.Fatal(err)
	}
	if b := a.earlier(t.Context(), cl, "tty", "WEB:v7"); b == nil || len(b.GetSteps()) != 1 {
		t.Errorf("earlier() = %v, want the successful build with its step", b)
	}
	if b := a.earlier(t.Context(), cl, "tty", "other"); b != nil {
		t.Errorf("earlier() of another template = %v, want nil", b)
	}
	if b := a.earlier(t.Context(), cl, "plain", "web"); b != nil {
		t.Errorf("earlier() where nobody watches = %v, want nil", b)
	}
}

func TestProgressModes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, says(0, "one\n", ""))
	file := recipeFile(t, "RUN x")
	build := func(args ...string) result {
		return w.run(append([]string{"build", "-t", "web", "-f", file, "--skip-pre-post"}, args...)...)
	}
	if r := build("--progress", "quiet").ends(ExitOK); r.stderr != "" || !strings.HasPrefix(r.stdout, "ver-") {
		t.Errorf("quiet: stdout = %q, stderr = %q, want the version and nothing", r.stdout, r.stderr)
	}
	if r := build("-q").ends(ExitOK); r.stderr != "" || !strings.HasPrefix(r.stdout, "ver-") {
		t.Errorf("-q: stdout = %q, stderr = %q, want the version and nothing", r.stdout, r.stderr)
	}
	if r := build("--progress", "quiet", "--detach").ends(ExitOK); !strings.HasPrefix(r.stdout, "bld-") || strings.Count(r.stdout, "\n") != 1 {
		t.Errorf("quiet, detached: stdout = %q, want the id", r.stdout)
	}
	r := build("--progress", "rawjson", "-o", "json").ends(ExitOK, `{"event":"log","log":{`, `"text":"one"`, `{"event":"build","build":{`, `"status":"success"`)
	for line := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(line, `{"event":"`) {
			t.Errorf("rawjson: %q on stderr", line)
		}
	}
	var b built
	r.document(&b)
	refused := w.run("build", "-t", "Not A Name", "-f", file, "--progress", "rawjson").ends(ExitRefused, `{"event":"error","error":{"code":"name_invalid"`)
	if strings.Count(refused.stderr, "\n") != 1 {
		t.Errorf("rawjson: a refusal is %q, want one event", refused.stderr)
	}
	build("--progress", "fancy").ends(ExitUsage, "--progress")
	build("--progress", "tty").ends(ExitUsage, "no terminal")
}

// Numbers in the server's refusals and warnings are elements there and lines
// of the file here.
func TestLinesOfTheFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	text := "# a comment\n\nENV A=b\n\nENV ${nothing:?is missing}=x\n"
	w.run("build", "-t", "web", "-f", recipeFile(t, text)).ends(ExitRefused, "recipe line 5")
	w.run("build", "-t", "web", "-f", recipeFile(t, text), "--detach").ends(ExitRefused, "recipe line 5")
	warned := "# a comment\n\nVOLUME \\\n  /data\nRUN x\n"
	w.run("build", "-t", "web", "-f", recipeFile(t, warned), "--skip-pre-post").ends(ExitOK, "warning: recipe lines 3-4: ")
}

// A healthcheck that fails shows the recipe's own instruction.
func TestExcerptOfAHealthcheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
		if strings.Contains(strings.Join(r.Args, " "), "probe") {
			return agent.Exit{Code: 3}, out("stderr", []byte("not yet\n"))
		}
		return waits(ctx, r, out)
	})
	file := recipeFile(t, "START serve\n\nHEALTHCHECK --interval=1ms --retries=2 probe\n")
	w.run("build", "-t", "web", "-f", file, "--skip-pre-post").ends(ExitRefused, file+":3", "> 3 | HEALTHCHECK", "healthcheck_failed", "not yet")
	r := w.run("build", "-t", "web", "-f", file, "--skip-pre-post", "--healthcheck", "--interval=1ms --retries=1 probe").ends(ExitRefused)
	if strings.Contains(r.stderr, "> 3 |") {
		t.Errorf("stderr = %q, want no excerpt for a healthcheck that is not the recipe's", r.stderr)
	}
}

// A build that somebody else began is shown from its begin.
func TestRejoinABuild(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	w := newWorld(t, func(ctx context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		if err := out("stdout", []byte("begun\n")); err != nil {
			return agent.Exit{}, err
		}
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return agent.Exit{Code: 4}, nil
	})
	r := w.run("build", "-t", "web", "-f", recipeFile(t, "ENV A=b\nRUN x"), "--skip-pre-post", "--detach", "--progress", "quiet").ends(ExitOK)
	id := strings.TrimSpace(r.stdout)
	c := w.command("builds", "logs", id, "--progress", "tty")
	c.tty(t, 80, 20)
	wait := c.follow(t, t.Context())
	c.stderr.await(t.Context(), "│ begun")
	close(goOn)
	wait().ends(ExitRefused).shows(c, "#1 ENV A=b", "exit code 4", "[step_failed]")
	again := w.command("builds", "logs", id, "--progress", "tty")
	again.tty(t, 80, 20)
	again.run(t).ends(ExitRefused).shows(again, "#1 ENV A=b", "│ begun", "exit code 4", "[step_failed]")
	w.run("builds", "logs", "bld-none", "--progress", "quiet").ends(ExitRefused, "[id_invalid]")
}
