package agenttest

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Dial connects to a port by Host.Connect. The connection breaks when the
// sandbox ends.
func (h *Host) Dial(ctx context.Context, id lehr.SandboxID, port uint16) (net.Conn, error) {
	var ended chan struct{}
	err := h.with(ctx, "Dial", id, func(b *box) error {
		switch {
		case !b.State.Live():
			return errs.New(errs.Conflict, "sandbox %s has ended", id).WithCode("sandbox_ended")
		case b.State != lehr.SandboxRunning:
			return errs.New(errs.Conflict, "sandbox %s is %s", id, b.State).WithCode("sandbox_paused")
		}
		ended = b.ended
		return nil
	})
	if err != nil {
		return nil, err
	}
	if h.Connect == nil {
		return nil, errs.New(errs.Unavailable, "nothing listens on port %d", port).WithCode("port_closed")
	}
	conn, err := h.Connect(ctx, id, port)
	if err != nil {
		return nil, err
	}
	c := &portConn{Conn: conn, closed: make(chan struct{})}
	go func() {
		select {
		case <-ended:
			_ = conn.Close() // the caller hears of it
		case <-c.closed:
		}
	}()
	return c, nil
}

// portConn is a connection that ends with its sandbox.
type portConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Close ends the connection.
func (c *portConn) Close() error {
	c.once.Do(func() { close(c.closed) })
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
