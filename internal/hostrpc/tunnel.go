package hostrpc

import (
	"bufio"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// A tunnel is Dial over the wire: an HTTP/1.1 request on a connection of its
// own, which after the answer 101 carries frames (see frameReader) both ways
// until the caller closes it or it breaks.
const (
	tunnelPath     = "/lehr-tunnel"
	tunnelUpgrade  = "lehr-tunnel"
	tunnelSandbox  = "Lehr-Sandbox-Id"
	tunnelPort     = "Lehr-Sandbox-Port"
	tunnelError    = "application/vnd.lehr.error" // an encoded hostv1.Error
	maxTunnelError = 64 << 10
)

// lingerTime is how long the agent goes on giving a sandbox what it does not
// take, after the one who sent it is gone.
const lingerTime = 10 * time.Second

// tunnels serves Dial. It is safe for concurrent use.
type tunnels struct {
	agent  agent.Ports
	log    *slog.Logger
	linger time.Duration

	mu   sync.Mutex
	open map[*tunnel]struct{}
	shut bool // the server stops
}

func newTunnels(a agent.Ports, log *slog.Logger) *tunnels {
	return &tunnels{agent: a, log: log, linger: lingerTime, open: map[*tunnel]struct{}{}}
}

// ServeHTTP makes one tunnel and stays until it ends.
func (t *tunnels) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	inner, err := t.dial(r)
	if err != nil {
		t.refuse(w, r, err)
		return
	}
	defer inner.Close()
	outer, from, err := hijack(w)
	if err != nil {
		logLeave(r.Context(), t.log, "Dial", err) // nobody is left to be told
		return
	}
	tn := &tunnel{outer: outer, from: from, inner: inner, linger: t.linger}
	defer tn.breakOff()
	if !t.enter(tn) {
		return
	}
	defer t.leave(tn)
	if _, err := outer.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + tunnelUpgrade + "\r\n\r\n")); err != nil {
		return // the caller has gone
	}
	tn.run()
}

// dial reads the request and connects.
func (t *tunnels) dial(r *http.Request) (net.Conn, error) {
	if err := checkProtocol(r.Header); err != nil {
		return nil, err
	}
	if r.URL.Path != tunnelPath || !strings.EqualFold(r.Header.Get("Upgrade"), tunnelUpgrade) {
		return nil, errs.New(errs.Unsupported, "calls to the agent want HTTP/2")
	}
	port, err := strconv.ParseUint(r.Header.Get(tunnelPort), 10, 16)
	if err != nil {
		return nil, errs.New(errs.Invalid, "%q is no port", r.Header.Get(tunnelPort)).WithField("port")
	}
	return t.agent.Dial(r.Context(), lehr.SandboxID(r.Header.Get(tunnelSandbox)), uint16(port))
}

// hijack takes the connection from the server, and from its time limits.
func hijack(w http.ResponseWriter) (net.Conn, *bufio.Reader, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, errs.Wrap(err, errs.Internal, "hostrpc.tunnel", "the connection cannot be taken")
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		return nil, nil, errs.Wrap(err, errs.Internal, "hostrpc.tunnel", "the connection cannot be taken")
	}
	return conn, rw.Reader, nil
}

// refuse answers with err.
func (t *tunnels) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if errs.CodeOf(err) != "port_closed" { // which users see every day
		logLeave(r.Context(), t.log, "Dial", err)
	}
	body, merr := proto.Marshal(pack(err))
	if merr != nil {
		http.Error(w, "the error cannot be encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", tunnelError)
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusBadGateway)
	_, _ = w.Write(body) // a caller that is gone gets nothing
}

func (t *tunnels) enter(tn *tunnel) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		return false
	}
	t.open[tn] = struct{}{}
	return true
}

func (t *tunnels) leave(tn *tunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, tn)
}

// cut breaks every tunnel off and lets none in any more.
func (t *tunnels) cut() {
	t.mu.Lock()
	t.shut = true
	open := t.open
	t.open = map[*tunnel]struct{}{}
	t.mu.Unlock()
	for tn := range open {
		tn.breakOff()
	}
}
