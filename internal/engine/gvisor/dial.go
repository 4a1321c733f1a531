package gvisor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/runsc/boot"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
)

// Dial implements engine.Sandbox.
func (b *sandbox) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	s, err := b.e.find(b.id)
	if err != nil {
		return nil, err
	}
	if state := s.status().State; state != engine.StateRunning && state != engine.StatePaused {
		return nil, s.errEnded()
	}
	conn, err := s.dial(ctx, port)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if s.isDown() {
			return nil, s.errEnded()
		}
		return nil, errs.Wrap(err, errs.Unavailable, "gvisor.Dial", "nothing answers on that port of the sandbox")
	}
	return s.track(conn)
}

// dial connects, and gives up when the sandbox ends meanwhile.
func (s *slot) dial(ctx context.Context, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	waiting.Go(func() {
		select {
		case <-s.down:
			cancel()
		case <-ctx.Done():
		}
	})
	if lease := s.netLease(); lease != nil {
		return dialThrough(ctx, lease, port)
	}
	return s.forward(ctx, port)
}

func (s *slot) isDown() bool {
	select {
	case <-s.down:
		return true
	default:
		return false
	}
}

// dialThrough connects over the sandbox's own link: many sandboxes have the
// same address, the device says which one is meant.
func dialThrough(ctx context.Context, lease NetLease, port uint16) (net.Conn, error) {
	device := lease.HostDevice()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var bound error
		err := raw.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), device) })
		return errors.Join(err, bound)
	}}
	return dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(lease.InnerAddr(), port).String())
}

// forward connects through the sentry, which dials the port inside.
func (s *slot) forward(ctx context.Context, port uint16) (net.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "forward"), os.NewFile(uintptr(pair[1]), "forward")
	defer func() { _ = errors.Join(ours.Close(), theirs.Close()) }()
	opts := &boot.PortForwardOpts{ContainerID: guestContainer, Port: port, FilePayload: urpc.FilePayload{}}
	if err := s.ctl.call(ctx, boot.ContMgrPortForward, opts, nil, theirs); err != nil {
		return nil, err
	}
	return net.FileConn(ours) // a copy, non-blocking and close-on-exec
}

// trackedConn is a connection that the slot closes when its sandbox ends: a
// dead sandbox answers nothing, not even a reset.
type trackedConn struct {
	net.Conn
	s *slot
}

// track hands conn to the slot. Errors: Conflict when the sandbox ended
// meanwhile.
func (s *slot) track(conn net.Conn) (net.Conn, error) {
	s.mu.Lock()
	cut := s.cut
	tracked := &trackedConn{Conn: conn, s: s}
	if !cut {
		s.conns[tracked] = struct{}{}
	}
	s.mu.Unlock()
	if cut {
		_ = conn.Close()
		return nil, s.errEnded()
	}
	return tracked, nil
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite half-closes the connection, as callers that copy streams need.
func (c *trackedConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// cutConnections closes every connection to the sandbox and refuses new ones.
func (s *slot) cutConnections() {
	s.mu.Lock()
	if !s.cut {
		s.cut = true
		close(s.down)
	}
	conns := s.conns
	s.conns = map[net.Conn]struct{}{}
	s.mu.Unlock()
	for conn := range conns {
		_ = conn.(*trackedConn).Conn.Close()
	}
}
