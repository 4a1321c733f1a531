package cli

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/cli/progress"
)

// built is what tests read of a build.
type built struct {
	ID, Status string
	Error      *struct{ Code, Fault string }
}

func says(code int32, stdout, stderr string) agenttest.Script {
	return func(_ context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		if err := out("stdout", []byte(stdout)); err != nil {
			return agent.Exit{}, err
		}
		return agent.Exit{Code: code}, out("stderr", []byte(stderr))
	}
}

func TestBuildShowsItsLogCleanly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, says(0, "0% [Working]\r            \rHit:1 trixie\n\x1b[32mgreen\x1b[0m \x1b]0;title\x07\x9b31m\n", ""))
	r := w.run("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "--skip-pre-post").ends(ExitOK, "Hit:1 trixie\n", "green ", "built web:default", "lehr run web:default")
	if strings.ContainsAny(r.stderr, "\x1b\x07\r") || strings.Contains(r.stderr, "Working") || strings.Contains(r.stderr, "title") {
		t.Errorf("stderr = %q, want it fit for a terminal", r.stderr)
	}
	if r.stdout != "" {
		t.Errorf("stdout = %q, want nothing", r.stdout)
	}
}

func TestFailedBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, says(7, "", "bad \x1b[31mthing\n"))
	file := recipeFile(t, "RUN x")
	r := w.run("build", "-t", "web", "-f", file, "--skip-pre-post").ends(ExitRefused, "lehr: ", "bad thing", "log: lehr builds logs bld-")
	if r.stdout != "" || strings.Contains(r.stderr, "\x1b") {
		t.Errorf("stdout = %q, stderr = %q, want no data and no escapes", r.stdout, r.stderr)
	}
	var b built
	w.run("build", "-t", "web", "-f", file, "--skip-pre-post", "-o", "json").ends(ExitRefused).document(&b)
	if b.Status != "failed" || b.Error.Fault != "user" {
		t.Errorf("build = %+v, want failed by its user", b)
	}
	w.run("builds", "get", b.ID).ends(ExitOK).prints("failed", "user")
}

// A refusal before anything exists leaves stdout empty.
func TestRefusedBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, tt := range []struct {
		args   []string
		recipe string
		code   int
		stderr string
	}{
		{[]string{"-t", "Not A Name"}, "RUN x", ExitRefused, "name"},
		{[]string{"-t", "x", "--base", "missing"}, "RUN x", ExitRefused, "base_not_found"},
		{[]string{"-t", "x"}, "RUN x\nNONSENSE y", ExitRefused, "NONSENSE"},
		{[]string{"-t", "x", "--cpus", "-1"}, "RUN x", ExitRefused, "vcpus"},
		{nil, "RUN x", ExitUsage, "-t NAME"},
		{[]string{"-t", "x", "--secret", "id=a"}, "RUN x", ExitUsage, "not supported"},
		{[]string{"-t", "x", "--build-arg", "a"}, "RUN x", ExitUsage, "KEY=VALUE"},
		{[]string{"-t", "x", "."}, "RUN x", ExitUsage, "context"},
		{[]string{"-t", "x", "--cpus", "many"}, "RUN x", ExitUsage, "cpus"},
		{[]string{"-t", "x"}, strings.Repeat("#", maxRecipe+1), ExitRefused, "recipe_too_large"},
	} {
		args := append([]string{"build", "-o", "json", "-f", recipeFile(t, tt.recipe)}, tt.args...)
		if r := w.run(args...).ends(tt.code, tt.stderr); r.stdout != "" {
			t.Errorf("lehr %s prints %q, want nothing", r.args, r.stdout)
		}
	}
	w.run("build", "-t", "x", "-f", t.TempDir()+"/none").ends(ExitUsage, "no recipe file")
	big := w.command("build", "-t", "x", "-f", "-")
	big.env.Stdin = strings.NewReader(strings.Repeat("#", maxRecipe+1))
	big.run(t).ends(ExitRefused, "recipe_too_large")
	w.run("builds", "ls").ends(ExitOK)
	if list := w.run("builds", "ls", "-o", "json"); list.stdout != "[]\n" {
		t.Errorf("builds = %q, want []", list.stdout)
	}
}

func TestDetachedBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, waits)
	c := w.command("build", "-t", "web:v1", "-f", "-", "--detach", "-o", "json", "--skip-pre-post")
	c.env.Stdin = strings.NewReader("RUN x")
	var b built
	c.run(t).ends(ExitOK).document(&b)
	w.run("builds", "cancel", b.ID).ends(ExitOK).prints("cancelled")
	w.run("builds", "cancel", b.ID).ends(ExitRefused, "cancelled", "[build_finished]")
}

// follow runs a command in the background; the function returned waits for it.
func (c *command) follow(t *testing.T, ctx context.Context) (wait func() result) {
	t.Helper()
	code := make(chan int, 1)
	go func() { code <- Main(ctx, c.env) }()
	return func() result {
		t.Helper()
		return result{t: t, args: strings.Join(c.env.Args, " "), code: <-code, stdout: c.stdout.String(), stderr: c.stderr.String()}
	}
}

func TestInterruptCancelsTheBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, waits)
	c := w.command("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "-o", "json", "--skip-pre-post")
	interrupts := make(chan os.Signal, 2)
	c.env.Signals = interrupts
	wait := c.follow(t, t.Context())
	c.stderr.await(t.Context(), "begun")
	interrupts <- os.Interrupt
	var b built
	r := wait().ends(ExitCancelled, "cancelling the build\n", "cancelled bld-").document(&b)
	if b.Status != "cancelled" || strings.Contains(r.stderr, "again") {
		t.Errorf("build = %+v, stderr = %q, want it cancelled without the offer of a second interrupt", b, r.stderr)
	}
}

// SIGTERM reaches commands as the end of their context.
func TestTerminationCancelsTheBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, waits)
	c := w.command("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "-o", "json", "--skip-pre-post")
	ctx, end := context.WithCancel(t.Context())
	wait := c.follow(t, ctx)
	c.stderr.await(t.Context(), "begun")
	end()
	var b built
	if wait().ends(ExitCancelled, "cancelling the build\n").document(&b); b.Status != "cancelled" {
		t.Errorf("build = %+v, want cancelled", b)
	}
}

// The build exists on the server before the command line knows its id.
func TestInterruptDuringTheCreate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, waits)
	interrupts := make(chan os.Signal)
	c := w.command("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "-o", "json", "--skip-pre-post")
	c.env.Signals = interrupts
	w.middle = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "BuildService/Create") {
				interrupts <- os.Interrupt
				c.stderr.await(r.Context(), "cancelling")
			}
			next.ServeHTTP(rw, r)
		})
	}
	var b built
	if c.run(t).ends(ExitCancelled).document(&b); b.Status != "cancelled" {
		t.Errorf("build = %+v, want cancelled", b)
	}
}

func TestSecondInterruptDetachesOnATerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, waits)
	cancelling := make(chan struct{})
	w.middle = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "BuildService/Cancel") {
				_, _ = io.Copy(io.Discard, r.Body) // or the end of the client is not seen
				close(cancelling)
				<-r.Context().Done() // a server that hangs
				return
			}
			next.ServeHTTP(rw, r)
		})
	}
	c := w.command()
	a := &app{env: c.env, output: "json", terminal: true}
	cl, err := a.client()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c.stderr.await(t.Context(), "begun")
		(*a.onInterrupt.Load())()
		<-cancelling
		(*a.onInterrupt.Load())()
	}()
	watching := &watch{app: a, client: cl, display: a.display(progress.Plain, recipeSource{}, nil, true)}
	got := watching.buildAndWatch(t.Context(), &lehrv1.CreateBuildRequest{Name: "web", Recipe: []string{"RUN x"}, SkipPrePost: true})
	if got != exitCode(ExitCancelled) {
		t.Errorf("buildAndWatch() = %v, want exit code 130", got)
	}
	var b built
	r := result{t: t, stdout: c.stdout.String(), stderr: c.stderr.String(), code: ExitCancelled}
	if r.ends(ExitCancelled, "again", "detached; follow it with: lehr builds logs -f bld-").document(&b); b.Status != "running" {
		t.Errorf("build = %+v, want running", b)
	}
	w.middle = nil
	w.run("builds", "cancel", b.ID).ends(ExitOK)
}

// breakingLogs ends the first streams of a log in the middle.
func (w *world) breakingLogs(times int32, how func(http.ResponseWriter, *http.Request, http.Handler)) *atomic.Int32 {
	var streams atomic.Int32
	w.middle = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "BuildService/Logs") && streams.Add(1) <= times {
				how(rw, r, next)
				return
			}
			next.ServeHTTP(rw, r)
		})
	}
	return &streams
}

// A log whose connection breaks is taken up where it was; what counts is how
// the build ended.
func TestBuildOutlivesBrokenStreams(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"cut off":     func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
		"bad gateway": func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { rw.WriteHeader(http.StatusBadGateway) },
		"cut in the middle": func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&cutting{ResponseWriter: rw}, r)
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, says(0, "one\ntwo\nthree\n", ""))
			streams := w.breakingLogs(1, how)
			r := w.run("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "--skip-pre-post").ends(ExitOK, "trying again", "built web:default")
			for _, line := range []string{" one\n", " two\n", " three\n"} {
				if n := strings.Count(r.stderr, line); n != 1 {
					t.Errorf("line %q appears %d times, want once\n%s", line, n, r.stderr)
				}
			}
			if streams.Load() < 2 {
				t.Errorf("the log was asked for %d times, want again", streams.Load())
			}
		})
	}
}

// cutting lets the first write through and breaks the connection at the second.
type cutting struct {
	http.ResponseWriter
	writes int
}

func (c *cutting) Write(b []byte) (int, error) {
	if c.writes++; c.writes > 8 {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(b)
}

func (c *cutting) Unwrap() http.ResponseWriter { return c.ResponseWriter }
func (c *cutting) Flush()                      { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// A server that dies in the middle of a build and comes back at the same
// address is taken up again; no line is lost or doubled.
func TestBuildOutlivesItsServer(t *testing.T) {
	t.Parallel()
	back := make(chan struct{})
	w := newWorld(t, func(ctx context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		if err := out("stdout", []byte("before\n")); err != nil {
			return agent.Exit{}, err
		}
		select {
		case <-back:
		case <-ctx.Done():
			return agent.Exit{}, context.Cause(ctx)
		}
		return agent.Exit{}, out("stdout", []byte("after\n"))
	})
	c := w.command("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "--skip-pre-post")
	wait := c.follow(t, t.Context())
	c.stderr.await(t.Context(), " before\n")
	address, handler := w.server.Listener.Addr().String(), w.server.Config.Handler
	w.server.CloseClientConnections()
	w.server.Close()
	c.stderr.await(t.Context(), "trying again")
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	again := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}} //nolint:gosec // a test
	again.Start()
	t.Cleanup(again.Close)
	close(back)
	r := wait().ends(ExitOK, "built web:default")
	for _, line := range []string{" before\n", " after\n"} {
		if n := strings.Count(r.stderr, line); n != 1 {
			t.Errorf("line %q appears %d times, want once\n%s", line, n, r.stderr)
		}
	}
}

// A stream that ends early without an error is no end of the build.
func TestBuildOutlivesStreamsThatEndEarly(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	w := newWorld(t, func(ctx context.Context, _ agent.Exec, _ agent.Output) (agent.Exit, error) {
		select {
		case <-goOn:
			return agent.Exit{}, nil
		case <-ctx.Done():
			return agent.Exit{}, context.Cause(ctx)
		}
	})
	w.breakingLogs(1, func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
		defer close(goOn)
		rw.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		_, _ = rw.Write([]byte("\x02\x00\x00\x00\x02{}")) // how Connect ends a stream well
	})
	w.run("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "--skip-pre-post").ends(ExitOK, "built web:default")
}

func TestLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, says(0, "one\n\x1b[1mtwo\n", ""))
	var b built
	w.run("build", "-t", "web", "-f", recipeFile(t, "RUN x"), "--skip-pre-post", "-o", "json").ends(ExitOK).document(&b)
	w.run("builds", "logs", b.ID).ends(ExitOK).prints(" one\n", " two\n")
	var lines []struct {
		Seq  int64
		Text string
	}
	w.run("builds", "logs", b.ID, "-o", "json").ends(ExitOK).document(&lines)
	if len(lines) < 2 || lines[0].Seq != 1 {
		t.Errorf("lines = %+v, want them from seq 1", lines)
	}
	r := w.run("builds", "logs", "-f", b.ID, "-o", "json").ends(ExitOK)
	if n := strings.Count(r.stdout, "\n"); n != len(lines) {
		t.Errorf("followed as JSON = %d lines, want %d", n, len(lines))
	}
	if all := w.run("builds", "logs", b.ID, "--after", "9999", "-o", "json").ends(ExitOK); all.stdout != "[]\n" {
		t.Errorf("log after its end = %q, want []", all.stdout)
	}
	w.run("builds", "logs", "odd").ends(ExitRefused, "[build_not_found]", "try: ")
}
