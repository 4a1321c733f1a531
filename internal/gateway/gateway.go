// Package gateway is the door to servers in sandboxes. A request names its
// sandbox and port by the host name <port>-<id>.<domain>, or by headers at an
// address of ours, and is passed to that port of that sandbox and to nothing
// else: before any route of ours, and never to one of ours.
//
// It streams in both directions, holds no body in memory, and has no time limit
// but that of making a connection. Connections are kept and reused for each
// sandbox and port; the host breaks them when the sandbox ends.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/httpkit"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Sandboxes knows how sandboxes are reached.
type Sandboxes interface {
	// Ports returns who dials into a running sandbox. Errors: NotFound; Conflict
	// with code "sandbox_ended", "sandbox_paused" or "sandbox_not_running";
	// Unavailable where its host cannot be reached now.
	Ports(ctx context.Context, id lehr.SandboxID) (agent.Ports, error)
}

// Options are the parts of a Gateway; HostNames and AccessToken may be left out.
type Options struct {
	Sandboxes   Sandboxes
	AccessToken func(lehr.SandboxID) string // the users' token, which only the guest daemon may see
	Domain      string                      // sandboxes are its subdomains
	HostNames   []string                    // of the server itself, besides addresses and localhost
	Log         *slog.Logger
}

// guestPort is the guest daemon's.
const guestPort = 49983

// Limits. A sandbox's connections are bounded by its host as well, a little
// higher, because kept ones count there.
const (
	maxRequests  = 900 // at once, in one sandbox
	maxHeader    = 256 << 10
	keptPerPort  = 32
	keptTogether = 2048
	keptTime     = 4 * time.Second // servers close idle connections after 5 s or more
	dialLimit    = 10 * time.Second
	copyBytes    = 32 << 10
)

// errDialLimit is the cause of a connection that took too long.
var errDialLimit = errors.New("the port does not answer in time")

// Gateway passes requests to sandboxes. It is safe for concurrent use.
type Gateway struct {
	o     Options
	own   httpkit.Hosts
	proxy *httputil.ReverseProxy
	pools [2]*http.Transport // HTTP/1.1, and HTTP/2 for gRPC

	mu   sync.Mutex
	busy map[lehr.SandboxID]int // requests under way
}

// New returns a gateway.
func New(o Options) *Gateway {
	g := &Gateway{o: o, own: httpkit.NewHosts(append(slices.Clone(o.HostNames), "sandbox."+o.Domain)...), busy: map[lehr.SandboxID]int{}}
	g.pools = [2]*http.Transport{newPool(false), newPool(true)}
	g.proxy = &httputil.ReverseProxy{
		Rewrite: g.rewrite, Transport: roundTripper(g.roundTrip), FlushInterval: -1, BufferPool: &buffers{},
		ModifyResponse: func(res *http.Response) error {
			h := hopOf(res.Request.Context())
			cleanResponse(res.Header, h.host, h.target)
			if res.StatusCode != http.StatusSwitchingProtocols {
				h.body.endConnection(res.Header)
			}
			return nil
		},
		ErrorHandler: g.fail, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return g
}

func newPool(http2 bool) *http.Transport {
	var p http.Protocols
	p.SetHTTP1(!http2)
	p.SetUnencryptedHTTP2(http2)
	return &http.Transport{
		DialContext: dial, Protocols: &p, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
		MaxIdleConns: keptTogether, MaxIdleConnsPerHost: keptPerPort, IdleConnTimeout: keptTime,
		ExpectContinueTimeout: time.Second, ReadBufferSize: copyBytes, WriteBufferSize: copyBytes,
	}
}

// Close gives kept connections up; requests under way go on.
func (g *Gateway) Close() {
	for _, p := range g.pools {
		p.CloseIdleConnections()
	}
}

// Handler passes requests for sandboxes to them and all others to next.
func (g *Gateway) Handler(next http.Handler) http.Handler {
	return httpkit.Recover(g.o.Log, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, ours, refused := g.find(r)
		switch {
		case !ours:
			next.ServeHTTP(w, r)
		case refused != nil:
			refused.dismiss(w)
		default:
			g.serve(w, r, t)
		}
	}))
}

// serve passes one request on.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, t target) {
	ports, err := g.o.Sandboxes.Ports(r.Context(), t.id)
	if err != nil {
		f := refuse(t, err)
		if f.status >= http.StatusInternalServerError && f.status != http.StatusBadGateway {
			httpkit.LogError(r.Context(), g.o.Log, "gateway", err)
		}
		f.dismiss(w)
		return
	}
	switch {
	case r.Method == http.MethodConnect:
		(&refusal{status: http.StatusMethodNotAllowed, id: t.id, code: "method_refused", message: "CONNECT is not served"}).dismiss(w)
		return
	case t.port == guestPort && !guestRoute(r):
		(&refusal{status: http.StatusNotFound, id: t.id, port: t.port, code: "not_found", message: "The guest daemon has no such route for users"}).dismiss(w)
		return
	case !g.enter(t.id):
		refuse(t, errs.New(errs.Exhausted, "requests").WithCode("requests_exhausted")).dismiss(w)
		return
	}
	defer g.leave(t.id)
	// Servers may answer before they have read a request to its end.
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always does
	h := hop{target: t, ports: ports, host: r.Host}
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		h.body = &watchedBody{ReadCloser: r.Body}
		r.Body = h.body
		defer h.body.leave(w)
	}
	g.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), hopKey{}, h)))
}

func (g *Gateway) enter(id lehr.SandboxID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[id] >= maxRequests {
		return false
	}
	g.busy[id]++
	return true
}

func (g *Gateway) leave(id lehr.SandboxID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[id]--; g.busy[id] == 0 {
		delete(g.busy, id)
	}
}

// guestRoute reports whether a path is one of the guest daemon's for users. It
// must stand there exactly: what the daemon's router would clean up is refused,
// so no spelling leads to a route of the operator's.
func guestRoute(r *http.Request) bool {
	p := r.URL.Path
	if r.URL.RawPath != "" || r.URL.Opaque != "" || path.Clean(p) != p {
		return false
	}
	switch p {
	case "/health", "/metrics", "/envs", "/files":
		return true
	}
	return strings.HasPrefix(p, "/files/") || strings.HasPrefix(p, "/process.Process/") || strings.HasPrefix(p, "/filesystem.Filesystem/")
}

// hop is where a request goes; it travels in its context.
type hop struct {
	target target
	ports  agent.Ports
	host   string       // that the client named
	body   *watchedBody // nil: none, or not over HTTP/1
}

type hopKey struct{}

func hopOf(ctx context.Context) hop {
	h, _ := ctx.Value(hopKey{}).(hop)
	return h
}

// rewrite makes the request that the sandbox sees.
func (g *Gateway) rewrite(r *httputil.ProxyRequest) {
	h := hopOf(r.In.Context())
	r.Out.URL.Scheme, r.Out.URL.Host = "http", h.target.addr()
	r.Out.URL.RawQuery = r.In.URL.RawQuery // as it was written
	r.Out.Host = r.In.Host
	r.Out.Trailer = r.In.Trailer // filled once the body is read
	g.cleanRequest(r.Out.Header, h.target)
	forwarded(r)
	if h.target.port == guestPort { // it speaks nothing but HTTP
		r.Out.Header.Del("Upgrade")
		r.Out.Header.Del("Connection")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// roundTrip speaks HTTP/2 where gRPC wants it, else HTTP/1.1.
func (g *Gateway) roundTrip(r *http.Request) (*http.Response, error) {
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		return g.pools[1].RoundTrip(r)
	}
	return g.pools[0].RoundTrip(r)
}

// dial connects a pool to the target of the request it wants a connection for.
func dial(ctx context.Context, _, _ string) (net.Conn, error) {
	h := hopOf(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, errDialLimit)
	defer cancel()
	return h.ports.Dial(ctx, h.target.id, h.target.port)
}

// fail answers a request that got no answer.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	h := hopOf(r.Context())
	t := h.target
	h.body.endConnection(w.Header())
	g.o.Log.DebugContext(r.Context(), "a sandbox did not answer", "sandbox", t.id, "port", t.port, "error", err)
	g.broken(r.Context(), t, err).write(w)
}

// buffers lends the proxy what it copies with.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, copyBytes)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
