package fake

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// network is the ports of one machine. Shut breaks everything for good.
type network struct {
	mu     sync.Mutex
	closed bool
	ports  map[uint16]*listener
	conns  map[net.Conn]bool
}

// Listen opens a TCP port of the machine.
func (m *Machine) Listen(port uint16) (net.Listener, error) {
	n := &m.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, net.ErrClosed
	}
	if n.ports[port] != nil {
		return nil, syscall.EADDRINUSE
	}
	if n.ports == nil {
		n.ports = map[uint16]*listener{}
	}
	l := &listener{net: n, port: port, accept: make(chan net.Conn), gone: make(chan struct{})}
	n.ports[port] = l
	return l, nil
}

// dial connects to a port from outside.
func (n *network) dial(ctx context.Context, port uint16) (net.Conn, error) {
	n.mu.Lock()
	l := n.ports[port]
	n.mu.Unlock()
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	outer, inner := net.Pipe()
	if !n.track(outer, inner) {
		return nil, syscall.ECONNREFUSED
	}
	tracked := &trackedConn{Conn: outer, net: n, peer: inner}
	select {
	case l.accept <- inner:
		return tracked, nil
	case <-l.gone:
		_ = tracked.Close()
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		_ = tracked.Close()
		return nil, context.Cause(ctx)
	}
}

func (n *network) track(conns ...net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	if n.conns == nil {
		n.conns = map[net.Conn]bool{}
	}
	for _, c := range conns {
		n.conns[c] = true
	}
	return true
}

// shut breaks every connection and listener, now and later.
func (n *network) shut() {
	n.mu.Lock()
	conns, ports := n.conns, n.ports
	n.closed, n.conns, n.ports = true, nil, nil
	n.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
	for _, l := range ports {
		_ = l.Close()
	}
}

// open counts the connections from outside.
func (n *network) open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// trackedConn is the outer end of a connection.
type trackedConn struct {
	net.Conn
	net  *network
	peer net.Conn
}

// Close ends the connection.
func (c *trackedConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c.Conn)
	delete(c.net.conns, c.peer)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

// listener is one open port.
type listener struct {
	net    *network
	port   uint16
	accept chan net.Conn
	once   sync.Once
	gone   chan struct{}
}

// Accept returns the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.gone:
		return nil, net.ErrClosed
	}
}

// Close closes the port.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.gone)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.ports, l.port)
	})
	return nil
}

// Addr names the port.
func (l *listener) Addr() net.Addr { return &net.TCPAddr{Port: int(l.port)} }
