package sdk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/guest/guesttest"
	"github.com/lehr-dev/lehr/sdk"
)

const box = "sb00000000000000000000000001"

// newGuest is a guest daemon in this process behind what stands for a server.
func newGuest(t *testing.T) (*sdk.Guest, *httptest.Server) {
	t.Helper()
	d := guesttest.New(t, box, nil)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-API-Key") != "" {
			t.Errorf("%s %s takes the API key into the sandbox", r.Method, r.URL.Path)
		}
		d.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return guestOf(t, s.URL, box, d.Token), s
}

func guestOf(t *testing.T, url, id, token string) *sdk.Guest {
	t.Helper()
	c, err := sdk.New(sdk.Options{URL: url, Key: "lehr_secret"})
	if err != nil {
		t.Fatal(err)
	}
	return c.Guest(&lehrv1.Sandbox{Id: id, AccessToken: &token})
}

func sh(script string) sdk.Command { return sdk.Command{Args: []string{"sh", "-c", script}} }

func TestOutput(t *testing.T) {
	t.Parallel()
	g, _ := newGuest(t)
	for script, want := range map[string]string{
		"echo out; echo err >&2; exit 7":           `out "out\n" err "err\n" exit {7 0}`,
		"kill -9 $$":                               `out "" err "" exit {137 9}`,
		"kill -TERM $$":                            `out "" err "" exit {143 15}`,
		"head -c 3000 /dev/zero | tr '\\0' x":      `out "xxxxxxxxxxxxxxxxxxxx" err "" exit {0 0}`,
		"head -c 9999 /dev/zero >&2":               fmt.Sprintf("out %q err %q exit {0 0}", "", strings.Repeat("\x00", 4096)),
		`printf '%s' "$(pwd) $(id -u)"; exec true`: `out "/tmp 0" err "" exit {0 0}`,
	} {
		out, errOut, exit, err := g.Processes.Output(t.Context(), sh(script), 20)
		if err != nil {
			t.Errorf("Output(%q) = %v", script, err)
			continue
		}
		if got := fmt.Sprintf("out %q err %q exit %v", out, errOut, exit); got != want {
			t.Errorf("Output(%q) = %s, want %s", script, got, want)
		}
	}
	c := sh(`printf '%s' "$A"`)
	c.Env = map[string]string{"A": "x y\n"}
	if out, _, _, err := g.Processes.Output(t.Context(), c, 100); err != nil || string(out) != "x y\n" {
		t.Errorf("Output with an environment = %q, %v", out, err)
	}
	if out, _, _, err := g.As("nobody").Processes.Output(t.Context(), sh("id -un"), 100); err != nil || string(out) != "nobody\n" {
		t.Errorf("Output as nobody = %q, %v", out, err)
	}
}

func TestStartCannotRun(t *testing.T) {
	t.Parallel()
	g, _ := newGuest(t)
	for want, start := range map[string]func() error{
		"command_not_found": func() error {
			_, err := g.Processes.Start(t.Context(), sdk.Command{Args: []string{"/no/such"}})
			return err
		},
		"command_not_executable": func() error {
			_, err := g.Processes.Start(t.Context(), sdk.Command{Args: []string{"/etc/passwd"}})
			return err
		},
		"workdir_missing": func() error {
			_, err := g.Processes.Start(t.Context(), sdk.Command{Args: []string{"true"}, Cwd: "/no/such"})
			return err
		},
		"user_unknown": func() error {
			_, err := g.As("nosuchuser").Processes.Start(t.Context(), sdk.Command{Args: []string{"true"}})
			return err
		},
		"process_unknown": func() error {
			_, err := g.Processes.Attach(t.Context(), 1<<22, false)
			return err
		},
	} {
		if err := start(); sdk.ErrorDetail(err).GetCode() != want || errors.Is(err, sdk.ErrLost) {
			t.Errorf("error = %v, want code %s", err, want)
		}
	}
	if _, err := g.Processes.Start(t.Context(), sdk.Command{}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("Start without a command = %v, want invalid_argument", err)
	}
}

func TestInputAndSignals(t *testing.T) {
	t.Parallel()
	g, _ := newGuest(t)
	c := sdk.Command{Args: []string{"cat"}, Stdin: true}
	p, err := g.Processes.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var want bytes.Buffer
	for i := range 20 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		if err := p.Write(t.Context(), []byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.CloseStdin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := drain(t, p); got != want.String() || p.Exit() != (sdk.Exit{}) {
		t.Errorf("cat = %q, %v, want what was written", got, p.Exit())
	}

	p, err = g.Processes.Start(t.Context(), sdk.Command{Args: []string{"sleep", "1000"}, Tag: "sleeper"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	list, err := g.Processes.List(t.Context())
	if err != nil || len(list) != 1 || list[0].GetPid() != p.PID() || list[0].GetTag() != "sleeper" {
		t.Errorf("List() = %v, %v, want the sleeper", list, err)
	}
	if err := p.Signal(t.Context(), 15); err != nil {
		t.Fatal(err)
	}
	if drain(t, p); p.Exit() != (sdk.Exit{Code: 143, Signal: 15}) {
		t.Errorf("Exit() = %v, want SIGTERM", p.Exit())
	}
}

func drain(t *testing.T, p *sdk.Process) string {
	t.Helper()
	var all bytes.Buffer
	for {
		_, b, err := p.Next()
		if errors.Is(err, io.EOF) {
			return all.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
}

// What ends a stream ends its process, or leaves it alone where it lingers.
func TestLinger(t *testing.T) {
	t.Parallel()
	g, s := newGuest(t)
	lingering := sdk.Command{Args: []string{"sh", "-c", "echo begun; exec sleep 1000"}, Linger: true}
	p, err := g.Processes.Start(t.Context(), lingering)
	if err != nil {
		t.Fatal(err)
	}
	if _, b, err := p.Next(); err != nil || string(b) != "begun\n" {
		t.Fatalf("Next() = %q, %v", b, err)
	}
	s.CloseClientConnections()
	if _, _, err := p.Next(); !errors.Is(err, sdk.ErrLost) {
		t.Errorf("Next() after the connection broke = %v, want ErrLost", err)
	}
	p.Close()
	again, err := g.Processes.Attach(t.Context(), p.PID(), false)
	if err != nil {
		t.Fatalf("Attach() = %v, want the process to live", err)
	}
	defer again.Close()
	if err := again.Signal(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	if drain(t, again); again.Exit().Signal != 9 {
		t.Errorf("Exit() = %v, want SIGKILL", again.Exit())
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	p, err = g.Processes.Start(ctx, sdk.Command{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	ours := errors.New("ours")
	cancel(ours)
	if _, _, err := p.Next(); !errors.Is(err, ours) {
		t.Errorf("Next() after its end = %v, want the cause", err)
	}
	p.Close()
	for { // the daemon sees the end of the stream in its own time
		list, err := g.Processes.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	g, _ := newGuest(t)
	dir, ctx := t.TempDir(), t.Context()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	name := filepath.Join(dir, "new", "dir", "with space & ?q=1%")
	if err := g.Files.Write(ctx, name, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	r, err := g.Files.Read(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, content) || r.Size != int64(len(content)) {
		t.Errorf("Read() = %d bytes of %d, %v, want %d", len(got), r.Size, err, len(content))
	}
	_ = r.Close()
	if err := g.Files.Move(ctx, name, filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Files.MakeDir(ctx, filepath.Join(dir, "made")); err != nil {
			t.Errorf("MakeDir() = %v", err)
		}
	}
	e, err := g.Files.Stat(ctx, filepath.Join(dir, "moved"))
	if err != nil || e.GetSize() != int64(len(content)) || e.GetMode() != 0o644 {
		t.Errorf("Stat() = %v, %v", e, err)
	}
	list, err := g.Files.List(ctx, dir, 1)
	if err != nil || len(list) != 3 {
		t.Errorf("List() = %v, %v, want made, moved and new", list, err)
	}
	for range 2 {
		if err := g.Files.Remove(ctx, filepath.Join(dir, "moved")); err != nil {
			t.Errorf("Remove() = %v", err)
		}
	}
	if _, err := g.Files.Read(ctx, filepath.Join(dir, "moved")); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("Read(removed) = %v, want not_found", err)
	}
	ours := errors.New("ours")
	if err := g.Files.Write(ctx, filepath.Join(dir, "cut"), io.MultiReader(strings.NewReader("x"), failing{ours})); !errors.Is(err, ours) {
		t.Errorf("Write() of a broken reader = %v, want its error", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := g.As("nobody").Files.Write(ctx, filepath.Join(dir, "closed", "x"), strings.NewReader("x")); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("Write() as nobody = %v, want permission_denied", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Who is not admitted, and what is not there, is said.
func TestGuestIsRefused(t *testing.T) {
	t.Parallel()
	_, s := newGuest(t)
	for name, tt := range map[string]struct {
		id, token string
		code      connect.Code
		text      string
	}{
		"wrong token":   {box, "wrong", connect.CodeUnauthenticated, "token"},
		"wrong sandbox": {"sb00000000000000000000000002", "x", connect.CodeUnavailable, "The sandbox was not found"},
		"no token":      {box, "", connect.CodeUnimplemented, "gateway"},
	} {
		g := guestOf(t, s.URL, tt.id, tt.token)
		_, err := g.Processes.Start(t.Context(), sh("true"))
		_, ferr := g.Files.Read(t.Context(), "/etc/passwd")
		_, serr := g.Files.Stat(t.Context(), "/etc/passwd")
		for _, err := range []error{err, ferr, serr} {
			if connect.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.text) || errors.Is(err, sdk.ErrLost) {
				t.Errorf("%s: error = %v, want %v with %q", name, err, tt.code, tt.text)
			}
		}
	}
	s.Close()
	if _, err := guestOf(t, s.URL, box, "x").Files.Read(t.Context(), "/x"); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("Read() without a server = %v, want unavailable", err)
	}
}

// A sandbox that answers nonsense gives errors, no hang and no panic.
func TestHostileGuest(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"empty": func(http.ResponseWriter, *http.Request) {},
		"page":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"no start": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/connect+proto")
			_, _ = w.Write([]byte{2, 0, 0, 0, 2, '{', '}'})
		},
		"huge error": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"code":500,"message":"` + strings.Repeat("x", 1<<20) + `"}`))
		},
		"odd error": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`[1]`))
		},
	} {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		g := guestOf(t, s.URL, box, "x")
		if p, err := g.Processes.Start(t.Context(), sh("true")); err == nil {
			t.Errorf("%s: Start() = %v, want an error", name, p)
		} else if len(err.Error()) > 100_000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
		if _, err := g.Files.Stat(t.Context(), "/x"); err == nil && name != "empty" {
			t.Errorf("%s: Stat() = nil, want an error", name)
		}
	}
}
