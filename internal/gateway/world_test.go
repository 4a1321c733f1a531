package gateway

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/httpkit"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const domain = "boxes.example"

// world is a gateway in front of an API that says "api", with sandboxes whose
// servers run in the test.
type world struct {
	t       *testing.T
	gateway *Gateway
	server  *httptest.Server

	mu    sync.Mutex
	boxes map[lehr.SandboxID]*box
}

// box is a sandbox; world.mu guards it.
type box struct {
	err   error // why it cannot be reached
	ports map[uint16]string
	conns []net.Conn
	dials int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, boxes: map[lehr.SandboxID]*box{}}
	w.gateway = New(Options{
		Sandboxes: w, Domain: domain, HostNames: []string{"lehr.example"}, Log: slog.New(slog.DiscardHandler),
		AccessToken: func(id lehr.SandboxID) string { return "token-" + string(id) },
	})
	api := httpkit.GuardHost([]string{"lehr.example"}, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "api "+r.URL.Path)
	}))
	w.server = httptest.NewUnstartedServer(w.gateway.Handler(api))
	w.server.Config.Protocols = new(http.Protocols)
	w.server.Config.Protocols.SetHTTP1(true)
	w.server.Config.Protocols.SetUnencryptedHTTP2(true)
	w.server.Start()
	t.Cleanup(func() {
		w.server.CloseClientConnections()
		w.server.Close()
		w.gateway.Close()
	})
	return w
}

// serve adds a sandbox with a server on port 8080.
func (w *world) serve(h http.HandlerFunc) lehr.SandboxID {
	w.t.Helper()
	id := lehr.NewSandboxID()
	w.mu.Lock()
	w.boxes[id] = &box{ports: map[uint16]string{}}
	w.mu.Unlock()
	w.listen(id, 8080, h)
	return id
}

// listen serves a port of a sandbox, over HTTP/1.1 and HTTP/2.
func (w *world) listen(id lehr.SandboxID, port uint16, h http.HandlerFunc) {
	w.t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Start()
	w.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boxes[id].ports[port] = s.Listener.Addr().String()
}

// end lets a sandbox end as a host does: its connections break.
func (w *world) end(id lehr.SandboxID, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.boxes[id]
	b.err = err
	for _, c := range b.conns {
		_ = c.Close()
	}
	b.conns = nil
}

func ended(id lehr.SandboxID) error {
	return errs.New(errs.Conflict, "sandbox %s is killed", id).WithCode("sandbox_ended")
}

// Ports implements Sandboxes.
func (w *world) Ports(_ context.Context, id lehr.SandboxID) (agent.Ports, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.boxes[id]
	if b == nil {
		return nil, errs.New(errs.NotFound, "no such sandbox")
	}
	return w, b.err
}

// Dial implements agent.Ports.
func (w *world) Dial(ctx context.Context, id lehr.SandboxID, port uint16) (net.Conn, error) {
	w.mu.Lock()
	addr, ok := w.boxes[id].ports[port]
	err := w.boxes[id].err
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errs.New(errs.Unavailable, "nothing listens").WithCode("port_closed")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boxes[id].conns = append(w.boxes[id].conns, conn)
	w.boxes[id].dials++
	return conn, nil
}

func hostOf(id lehr.SandboxID, port int) string {
	return strconv.Itoa(port) + "-" + string(id) + "." + domain + ":5347"
}

// request returns a request for port 8080 of a sandbox.
func (w *world) request(method, path string, id lehr.SandboxID, body io.Reader) *http.Request {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.server.URL+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Host = hostOf(id, 8080)
	return r
}

func (w *world) do(r *http.Request) *http.Response {
	w.t.Helper()
	res, err := w.server.Client().Do(r)
	if err != nil {
		w.t.Fatalf("%s %s = %v", r.Method, r.Host+r.URL.Path, err)
	}
	w.t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func text(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("the body ends with %v", err)
	}
	return string(b)
}

// wantRefusal checks an answer of the gateway's own.
func wantRefusal(t *testing.T, what string, res *http.Response, status int, code string) body {
	t.Helper()
	raw := text(t, res)
	var b body
	if err := json.Unmarshal([]byte(raw), &b); err != nil {
		t.Errorf("%s is answered with %d %q, want JSON", what, res.StatusCode, raw)
		return b
	}
	if res.StatusCode != status || b.Code != status || b.ErrorCode != code || b.Message == "" || res.Header.Get(headerErrorCode) != code {
		t.Errorf("%s is answered with %d %s, want %d, %s", what, res.StatusCode, raw, status, code)
	}
	return b
}

func say(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, s+" "+r.URL.Path) }
}

func has(s, part string) bool { return strings.Contains(s, part) }
