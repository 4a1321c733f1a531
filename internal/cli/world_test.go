package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/api"
	"github.com/lehr-dev/lehr/internal/bus/membus"
	"github.com/lehr-dev/lehr/internal/fleet"
	"github.com/lehr-dev/lehr/internal/role/control"
	"github.com/lehr-dev/lehr/internal/seal"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// world is a control plane with one scripted host, and a command line that
// knows it.
type world struct {
	t      *testing.T
	host   *agenttest.Host
	server *httptest.Server
	key    string
	// middle stands between the command line and the server; nil does nothing.
	middle func(next http.Handler) http.Handler
}

func newWorld(t *testing.T, run agenttest.Script) *world {
	t.Helper()
	w := &world{t: t, host: agenttest.NewHost()}
	w.host.Run = run
	st, err := lite.Open(t.Context(), lite.Options{Path: lite.Memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	signals := membus.New()
	t.Cleanup(func() { _ = signals.Close() })
	secretKey, _, err := seal.Load(filepath.Join(t.TempDir(), "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	c := control.New(control.Options{
		Store: st, Bus: signals, Workers: 2, Embedded: true, Key: secretKey, Log: slog.New(slog.DiscardHandler),
		Hosts: []fleet.Member{{Name: "scripted", Dial: func(context.Context) (agent.Agent, error) { return w.host, nil }}},
	})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	t.Cleanup(func() { stop(); running.Wait() })
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h := c.Handler()
		if w.middle != nil {
			h = w.middle(h)
		}
		h.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.server.Close)
	if err := c.WaitHosts(ctx); err != nil {
		t.Fatal(err)
	}
	team, err := st.Accounts().EnsureTeam(ctx, "default")
	if err != nil {
		t.Fatal(err)
	}
	k, secret := api.NewKey(team.ID, "test", true, time.Now())
	hash, _ := api.HashKey(secret)
	if err := st.Accounts().CreateKey(ctx, k, hash); err != nil {
		t.Fatal(err)
	}
	w.key = secret
	return w
}

// command is one run of the command line; change what the test needs.
type command struct {
	env            Env
	stdout, stderr *buffer
}

func (w *world) command(args ...string) *command {
	c := newCommand(args...)
	c.env.LookupEnv = environment(map[string]string{"LEHR_URL": w.server.URL, "LEHR_API_KEY": w.key})
	return c
}

func newCommand(args ...string) *command {
	c := &command{stdout: newBuffer(), stderr: newBuffer()}
	c.env = Env{Args: args, Stdin: strings.NewReader(""), Stdout: c.stdout, Stderr: c.stderr, LookupEnv: environment(nil)}
	return c
}

func environment(m map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

// result is how a command ended.
type result struct {
	t              *testing.T
	args           string
	code           int
	stdout, stderr string
}

func (c *command) run(t *testing.T) result {
	t.Helper()
	ctx, done := context.WithCancel(t.Context())
	defer done()
	// One that hangs says where, instead of holding up the whole suite.
	hangs := time.AfterFunc(3*time.Minute, func() {
		stacks := make([]byte, 1<<20)
		t.Errorf("lehr %s does not end:\n%s", strings.Join(c.env.Args, " "), stacks[:runtime.Stack(stacks, true)])
		done()
	})
	defer hangs.Stop()
	code := Main(ctx, c.env)
	return result{t: t, args: strings.Join(c.env.Args, " "), code: code, stdout: c.stdout.String(), stderr: c.stderr.String()}
}

func (w *world) run(args ...string) result { w.t.Helper(); return w.command(args...).run(w.t) }

// ends wants an exit code and texts on stderr.
func (r result) ends(code int, stderr ...string) result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("lehr %s = %d, want %d\nstdout: %s\nstderr: %s", r.args, r.code, code, r.stdout, r.stderr)
	}
	for _, want := range stderr {
		if !strings.Contains(r.stderr, want) {
			r.t.Errorf("lehr %s says %q, want %q in it", r.args, r.stderr, want)
		}
	}
	return r
}

// prints wants texts on stdout.
func (r result) prints(texts ...string) result {
	r.t.Helper()
	for _, want := range texts {
		if !strings.Contains(r.stdout, want) {
			r.t.Errorf("lehr %s prints %q, want %q in it", r.args, r.stdout, want)
		}
	}
	return r
}

// document wants exactly one JSON document on stdout.
func (r result) document(into any) result {
	r.t.Helper()
	dec := json.NewDecoder(strings.NewReader(r.stdout))
	if err := dec.Decode(into); err != nil {
		r.t.Fatalf("lehr %s prints %q: %v", r.args, r.stdout, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		r.t.Errorf("lehr %s prints more than one document: %q", r.args, r.stdout)
	}
	return r
}

// buffer is safe for concurrent use and tells of a text that appears.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	written chan struct{} // closed and replaced at every write
}

func newBuffer() *buffer { return &buffer{written: make(chan struct{})} }

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.written)
	b.written = make(chan struct{})
	return b.b.Write(p)
}

func (b *buffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// await returns once text was written.
func (b *buffer) await(ctx context.Context, text string) bool {
	for {
		b.mu.Lock()
		written, found := b.written, strings.Contains(b.b.String(), text)
		b.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-written:
		case <-ctx.Done():
			return false
		}
	}
}

// waits runs until its context ends.
func waits(ctx context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
	if err := out("stdout", []byte("begun\n")); err != nil {
		return agent.Exit{}, err
	}
	<-ctx.Done()
	return agent.Exit{}, context.Cause(ctx)
}

// recipeFile writes a recipe and returns its name.
func recipeFile(t *testing.T, text string) string {
	t.Helper()
	name := t.TempDir() + "/Recipe"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
