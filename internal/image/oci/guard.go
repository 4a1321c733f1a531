package oci

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Time limits of one request. The whole has those of its caller.
const (
	dialTime   = 10 * time.Second
	headerTime = 30 * time.Second
	stallTime  = 60 * time.Second // without a byte of an answer
)

// CodeForbidden is the code of errors about addresses that a registry must not
// have, or must not lead to.
const CodeForbidden = "registry_forbidden"

// Why a registry itself is not asked in a scheme. The client that tries both
// goes on with the other.
var (
	errPlainHTTP = errors.New("the registry is not spoken to without encryption")
	errOnlyHTTP  = errors.New("the registry is spoken to without encryption")
	errStalled   = errors.New("no byte came for a minute")
	errLongBody  = errors.New("the answer is too long")
)

// guard carries every request of one operation on a registry: those to the
// registry, to where it redirects, and to where it sends for tokens. All of
// that is said by callers and registries, which are hostile. The address is
// checked when it is dialled, so a name cannot change its meaning in between.
type guard struct {
	home  string // host of the registry in URLs
	known Registries
	inner *http.Transport

	mu      sync.Mutex
	proxies map[string]bool       // addresses of this machine's proxies
	open    map[*guarded]struct{} // connections; nil once closed
}

func newGuard(home string, known Registries) *guard {
	g := &guard{home: home, known: known, proxies: map[string]bool{}, open: map[*guarded]struct{}{}}
	g.inner = &http.Transport{
		Proxy: g.proxy, DialContext: g.dial, ForceAttemptHTTP2: true, TLSHandshakeTimeout: dialTime,
		ResponseHeaderTimeout: headerTime, MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: layersAtOnce,
	}
	return g
}

// close ends every connection: the transport leaves those of HTTP/2 open on
// which an answer was given up a moment ago.
func (g *guard) close() {
	g.inner.CloseIdleConnections()
	g.mu.Lock()
	open := g.open
	g.open = nil
	g.mu.Unlock()
	for c := range open {
		_ = c.Conn.Close() // nobody uses it any more
	}
}

// guarded is a connection that its guard closes in the end.
type guarded struct {
	net.Conn
	guard *guard
}

// Close ends the connection.
func (c *guarded) Close() error {
	c.guard.mu.Lock()
	delete(c.guard.open, c)
	c.guard.mu.Unlock()
	return c.Conn.Close()
}

// keep has close end a connection; one that comes after that is ended at once.
func (g *guard) keep(conn net.Conn) (net.Conn, error) {
	c := &guarded{Conn: conn, guard: g}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	g.open[c] = struct{}{}
	return c, nil
}

// blobKey marks the context of requests whose answers their reader bounds.
type blobKey struct{}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.check(req); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	res, err := g.inner.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	b := &body{ReadCloser: res.Body, ctx: ctx, cancel: cancel, left: maxDocument + 1}
	if req.Context().Value(blobKey{}) != nil {
		b.left = -1
	}
	b.late = time.AfterFunc(stallTime, func() { cancel(errStalled) })
	res.Body = b
	return res, nil
}

// check refuses a request that must not be sent.
func (g *guard) check(req *http.Request) error {
	host, home := req.URL.Host, req.URL.Host == g.home
	plain := g.known.at(req.URL).PlainHTTP
	switch {
	case req.URL.Scheme == "http" && home && !plain:
		return errPlainHTTP
	case req.URL.Scheme == "https" && home && plain:
		return errOnlyHTTP
	case req.URL.Scheme != "https" && (req.URL.Scheme != "http" || !plain):
		return forbidden("registry %s leads to %s://%s, which is not encrypted", g.home, clip(req.URL.Scheme), clip(host)).
			WithRemedy("name %s with \"plain_http\": true in the registries file, if that is meant", clip(host))
	}
	secret := req.Header.Get("Authorization") != "" || req.Method != http.MethodGet && req.Method != http.MethodHead
	if secret && !home && !(req.URL.Scheme == "https" && sameOwner(g.home, host)) {
		return forbidden("registry %s wants its login to be sent to %s", g.home, clip(host))
	}
	return nil
}

// sameOwner reports whether two hosts are names below one registered domain,
// as a registry and its token server often are.
func sameOwner(a, b string) bool {
	domain := func(host string) string {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			return ""
		}
		d, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(host))
		if err != nil {
			return ""
		}
		return d
	}
	own := domain(a)
	return own != "" && own == domain(b)
}

func forbidden(format string, args ...any) *errs.Error {
	return errs.New(errs.PermissionDenied, format, args...).WithCode(CodeForbidden)
}

// proxy is the machine's own proxy for a request, as its environment says. What
// a proxy connects to is checked before; a name that only the proxy can look up
// is left to it.
func (g *guard) proxy(req *http.Request) (*url.URL, error) {
	p, err := http.ProxyFromEnvironment(req)
	if p == nil || err != nil {
		return nil, err
	}
	if !g.known.at(req.URL).Private {
		if err := g.checkName(req.Context(), req.URL.Hostname()); err != nil {
			return nil, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proxies[withPort(p)] = true
	return p, nil
}

func (g *guard) checkName(ctx context.Context, host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		return g.admit(host, a)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil //nolint:nilerr // only the proxy knows the name
	}
	for _, a := range all {
		if err := g.admit(host, a); err != nil {
			return err
		}
	}
	return nil
}

// withPort is the address that a URL is dialled at.
func withPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "http":
		port = "80"
	case u.Scheme == "https":
		port = "443"
	default:
		port = "1080"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// dial connects to an address by name, unless it is one that only listed
// registries may have.
func (g *guard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	g.mu.Lock()
	free := g.proxies[addr] || g.known.dialled(addr).Private
	g.mu.Unlock()
	d := net.Dialer{Timeout: dialTime}
	if !free {
		d.ControlContext = func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(resolved)
			if err != nil {
				return forbidden("%s cannot be connected to", clip(addr))
			}
			return g.admit(addr, a.Addr())
		}
	}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return g.keep(conn)
}

func (g *guard) admit(name string, a netip.Addr) error {
	if !isPrivate(a) {
		return nil
	}
	return forbidden("%s has a private address", clip(name)).
		WithRemedy("who runs Lehr can name it with \"private\": true in the registries file")
}

// body is the body of an answer: bounded, and given up when nothing comes.
type body struct {
	io.ReadCloser
	ctx    context.Context //nolint:containedctx // of the request whose answer this is
	cancel context.CancelCauseFunc
	late   *time.Timer
	left   int64 // bytes; -1: whoever reads counts
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errLongBody
	}
	if b.left > 0 {
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	b.late.Reset(stallTime)
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(b.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.late.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// Registries says how registries are reached: a snapshot of the host's
// registries file. The zero value lists none.
type Registries struct {
	Hosts      map[string]Registry // by HOST[:PORT] as in lehr.ImageRef
	OnlyListed bool                // others are refused
	// Login returns the host's own login for a registry, empty where there is
	// none. nil: there are none.
	Login func(host string) (Login, error)
}

// Registry is what is known of one registry.
type Registry struct {
	PlainHTTP bool   // it is spoken to without encryption
	Private   bool   // it may have a private address
	Mirror    string // HOST[:PORT] that is asked first
}

// Login is user name and password, or a token.
type Login struct{ Username, Password, Token string }

// at returns what is known of the host of a URL.
func (r Registries) at(u *url.URL) Registry { return r.dialled(withPort(u)) }

// dialled returns what is known of an address, HOST:PORT, which the file may
// name without a usual port.
func (r Registries) dialled(addr string) Registry {
	for _, name := range []string{addr, strings.TrimSuffix(addr, ":443"), strings.TrimSuffix(addr, ":80")} {
		host, err := lehr.ParseRegistry(name)
		if err != nil {
			continue
		}
		if known, ok := r.Hosts[host]; ok {
			return known
		}
	}
	return Registry{}
}
