package hostnet

import (
	"net"
	"net/netip"
	"sync"
)

// quota bounds how much goes on at a time, in all and for one client. Its
// methods may be called concurrently.
type quota struct {
	total, each int

	mu      sync.Mutex
	used    int
	clients map[netip.Addr]int
}

// newQuota returns a quota of total, and each for one client.
func newQuota(total, each int) *quota {
	return &quota{total: total, each: each, clients: map[netip.Addr]int{}}
}

// enter takes one place for client and reports whether there was one; then
// leave must follow.
func (q *quota) enter(client netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used >= q.total || q.clients[client] >= q.each {
		return false
	}
	q.used++
	q.clients[client]++
	return true
}

// leave gives a place back.
func (q *quota) leave(client netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used--
	if q.clients[client]--; q.clients[client] == 0 {
		delete(q.clients, client)
	}
}

// limitedListener closes connections beyond a quota at once.
type limitedListener struct {
	net.Listener
	quota *quota
}

// Accept returns the next connection the quota has a place for.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client := clientOf(conn.RemoteAddr())
		if l.quota.enter(client) {
			return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { l.quota.leave(client) })}, nil
		}
		conn.Close()
	}
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
