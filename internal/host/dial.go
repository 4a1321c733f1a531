package host

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"syscall"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// maxConnections bounds the connections into one sandbox at once, so that one
// sandbox's traffic does not use up the agent's descriptors.
const maxConnections = 1000

// Dial connects to a TCP port of a running sandbox. The connection breaks when
// the sandbox ends and when the host closes. Errors: NotFound; Conflict with
// code "sandbox_ended" or "sandbox_paused"; Unavailable with code "port_closed"
// when nothing listens there; Exhausted.
func (h *Host) Dial(ctx context.Context, id lehr.SandboxID, port uint16) (net.Conn, error) {
	if port == 0 {
		return nil, errs.New(errs.Invalid, "0 is no port").WithField("port").WithRemedy("name a port from 1 to 65535")
	}
	ctx, leave, err := h.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	s, err := h.running(id)
	if err != nil {
		return nil, err
	}
	if !s.ports.reserve() {
		return nil, errs.New(errs.Exhausted, "%d connections lead into sandbox %s", maxConnections, id).
			WithCode("connections_exhausted").WithRemedy("close some")
	}
	conn, err := h.opt.Engine.Sandbox(s.slot()).Dial(ctx, port)
	if err != nil {
		s.ports.release()
		return nil, h.dialError(ctx, s, port, err)
	}
	held := s.ports.hold(conn)
	if held == nil {
		return nil, h.cutError(s)
	}
	return held, nil
}

// dialError says why nothing answers.
func (h *Host) dialError(ctx context.Context, s *sandbox, port uint16, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errs.IsKind(err, errs.Unavailable) {
		if now := h.wantRunning(s); now != nil {
			return now
		}
		return errs.Wrap(err, errs.Unavailable, "host.Dial", "nothing answers on port "+strconv.Itoa(int(port))+" of the sandbox").
			WithCode("port_closed").WithRemedy("start a server that listens on all addresses of the sandbox, not only on its loopback")
	}
	return h.ruling(s, err)
}

// cutError says why a connection was cut as soon as it was made.
func (h *Host) cutError(s *sandbox) error {
	if err := h.wantRunning(s); err != nil {
		return err
	}
	return errClosed
}

// portSet is the connections into one sandbox. It is safe for concurrent use.
type portSet struct {
	mu    sync.Mutex
	taken int // connections that are open or being made
	open  map[*portConn]struct{}
	shut  bool // nothing is let in any more
}

// reserve takes a place for a connection; false when there is none.
func (p *portSet) reserve() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= maxConnections {
		return false
	}
	p.taken++
	return true
}

// release gives a place back.
func (p *portSet) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
}

// hold keeps a connection, to cut it. It returns nil, with conn closed, when
// that has happened already.
func (p *portSet) hold(conn net.Conn) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		p.taken--
		_ = conn.Close() // nobody has it
		return nil
	}
	held := &portConn{Conn: conn, set: p}
	if p.open == nil {
		p.open = map[*portConn]struct{}{}
	}
	p.open[held] = struct{}{}
	return held
}

// cut closes every connection and lets none in any more.
func (p *portSet) cut() {
	p.mu.Lock()
	open := p.open
	p.open, p.shut = nil, true
	p.mu.Unlock()
	for c := range open {
		_ = c.Conn.Close() // its holder hears of it
	}
}

// portConn is a connection that its set can cut.
type portConn struct {
	net.Conn
	set  *portSet
	once sync.Once
}

// Close ends the connection and gives its place back.
func (c *portConn) Close() error {
	c.once.Do(func() {
		c.set.mu.Lock()
		defer c.set.mu.Unlock()
		delete(c.set.open, c)
		c.set.taken--
	})
	return c.Conn.Close()
}

// CloseWrite half-closes the connection.
func (c *portConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
