package hostrpc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// port is a host behind the wire whose one sandbox has a server on every port.
type port struct {
	host   *agenttest.Host
	client *Client
	server *http.Server
	id     lehr.SandboxID
	inside chan *net.TCPConn // the sandbox's end of each connection
	closed chan struct{}     // the agent's end of one connection was closed
}

func newPort(t *testing.T) *port {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := &port{host: agenttest.NewHost(), inside: make(chan *net.TCPConn, 10), closed: make(chan struct{}, 10)}
	p.host.Connect = func(ctx context.Context, _ lehr.SandboxID, _ uint16) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		got, err := l.Accept()
		if err != nil {
			return nil, err
		}
		p.inside <- got.(*net.TCPConn)
		return &notedConn{TCPConn: conn.(*net.TCPConn), closed: p.closed}, nil
	}
	r := request()
	p.id = r.ID
	p.host.AddArtifact(r.Image)
	p.host.AddArtifact(r.Snapshot)
	p.serve(t)
	if _, err := p.client.CreateSandbox(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *port) serve(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p.server = NewServer(p.host, slog.New(slog.DiscardHandler))
	go func() { _ = p.server.Serve(l) }() // ends with Close
	p.client = DialUnix(path)
	t.Cleanup(func() {
		_ = p.client.Close()
		_ = p.server.Close()
	})
}

// dial returns both ends of a connection.
func (p *port) dial(t *testing.T) (outside net.Conn, inside *net.TCPConn) {
	t.Helper()
	outside, err := p.client.Dial(t.Context(), p.id, 8080)
	if err != nil {
		t.Fatalf("Dial() = %v", err)
	}
	inside = <-p.inside
	t.Cleanup(func() {
		_ = outside.Close()
		_ = inside.Close()
	})
	return outside, inside
}

// notedConn tells when it is closed.
type notedConn struct {
	*net.TCPConn
	closed chan struct{}
}

func (c *notedConn) Close() error {
	err := c.TCPConn.Close()
	if err == nil {
		c.closed <- struct{}{}
	}
	return err
}

func closeWrite(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Errorf("CloseWrite() = %v", err)
	}
}

// random sends n bytes and returns their sum.
func random(n int64, to io.Writer) (hash.Hash, error) {
	sum := sha256.New()
	_, err := io.CopyN(io.MultiWriter(to, sum), rand.NewChaCha8([32]byte{1}), n)
	return sum, err
}

func TestTunnelCarriesBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	const size = 32 << 20
	outside, inside := newPort(t).dial(t)
	type end struct {
		sum hash.Hash
		err error
	}
	sent, got := make(chan end, 2), make(chan end, 2)
	for _, conn := range []net.Conn{outside, inside} {
		go func() {
			sum, err := random(size, conn)
			err = errors.Join(err, conn.(interface{ CloseWrite() error }).CloseWrite())
			sent <- end{sum, err}
		}()
		go func() {
			sum := sha256.New()
			n, err := io.Copy(sum, conn)
			if n != size {
				t.Errorf("%d bytes came, want %d", n, size)
			}
			got <- end{sum, err}
		}()
	}
	for range 2 {
		s, g := <-sent, <-got
		if s.err != nil || g.err != nil || !bytes.Equal(s.sum.Sum(nil), g.sum.Sum(nil)) {
			t.Errorf("sent %x, %v; got %x, %v", s.sum.Sum(nil), s.err, g.sum.Sum(nil), g.err)
		}
	}
}

// One direction ends, the other goes on, whoever is first.
func TestTunnelHalfCloses(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	for _, first := range []string{"outside", "inside"} {
		outside, inside := p.dial(t)
		var a, b net.Conn = outside, inside
		if first == "inside" {
			a, b = b, a
		}
		if _, err := a.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		closeWrite(t, a)
		if got, err := io.ReadAll(b); err != nil || string(got) != "question" {
			t.Errorf("%s ends first: the other reads %q, %v", first, got, err)
		}
		if _, err := b.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		closeWrite(t, b)
		if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
			t.Errorf("%s ends first: it reads %q, %v", first, got, err)
		}
		if n, err := outside.Write([]byte("x")); err == nil {
			t.Errorf("Write() after CloseWrite() = %d, want an error", n)
		}
		_ = outside.Close()
		<-p.closed // both ends have ended cleanly, and the agent keeps nothing
	}
}

func TestTunnelBreaksWithTheSandbox(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	outside, inside := p.dial(t)
	if _, err := inside.Write([]byte("half of it")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := outside.Read(buf); err != nil || string(buf[:n]) != "half of it" {
		t.Fatalf("Read() = %q, %v", buf[:n], err)
	}
	p.host.End(p.id, lehr.ReasonOOM)
	if n, err := outside.Read(buf); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read() from an ended sandbox = %d, %v, want an error that is no clean end", n, err)
	}
	<-p.closed
	if _, err := p.client.Dial(t.Context(), p.id, 8080); errs.CodeOf(err) != "sandbox_ended" || !errs.IsKind(err, errs.Conflict) {
		t.Errorf("Dial() into an ended sandbox = %v, want sandbox_ended", err)
	}
}

// A reset inside is no clean end outside.
func TestTunnelBreaksWithAReset(t *testing.T) {
	t.Parallel()
	outside, inside := newPort(t).dial(t)
	if err := errors.Join(inside.SetLinger(0), inside.Close()); err != nil {
		t.Fatal(err)
	}
	if n, err := outside.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read() after a reset = %d, %v, want an error that is no clean end", n, err)
	}
}

// What a server says before it turns a long upload away reaches the caller.
func TestTunnelDeliversTheLastWord(t *testing.T) {
	t.Parallel()
	outside, inside := newPort(t).dial(t)
	if _, err := inside.Write([]byte("too large")); err != nil {
		t.Fatal(err)
	}
	closeWrite(t, inside)
	if err := inside.CloseRead(); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = random(8<<20, outside) }() // ends with the connection
	if got, err := io.ReadAll(outside); err != nil || string(got) != "too large" {
		t.Errorf("ReadAll() = %q, %v, want the last word", got, err)
	}
}

func TestTunnelEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	outside, inside := p.dial(t)
	if _, err := outside.Write([]byte("the last")); err != nil {
		t.Fatal(err)
	}
	if err := outside.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(inside); err != nil || string(got) != "the last" {
		t.Errorf("the sandbox reads %q, %v, want what was sent before the close", got, err)
	}
	<-p.closed
	if n, err := outside.Read(make([]byte, 1)); err == nil {
		t.Errorf("Read() after Close() = %d, want an error", n)
	}
}

// A sandbox that takes nothing does not keep the connection of a caller that is
// gone.
func TestTunnelOfAStubbornSandbox(t *testing.T) {
	t.Parallel()
	outer, theirs := pair(t)
	inner, _ := net.Pipe() // nobody ever reads
	tn := &tunnel{outer: outer, from: bufio.NewReader(outer), inner: inner, linger: time.Millisecond}
	done := make(chan struct{})
	go func() { tn.run(); close(done) }()
	caller := &tunnelConn{Conn: theirs, frames: frameReader{from: bufio.NewReader(theirs)}}
	if _, err := caller.Write(make([]byte, 3*frameBytes)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
		t.Fatal("a slow sandbox ends the tunnel of a caller that waits")
	case <-time.After(20 * time.Millisecond): // many times the linger; cannot fail falsely
	}
	if err := caller.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
}

func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func TestTunnelsEndWithTheServer(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	var open []net.Conn
	for range 10 {
		outside, _ := p.dial(t)
		open = append(open, outside)
	}
	if err := p.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, conn := range open {
		if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("Read() after the agent's stop = %d, %v, want an error that is no clean end", n, err)
		}
		<-p.closed
	}
	if _, err := p.client.Dial(t.Context(), p.id, 8080); errs.CodeOf(err) != "agent_unreachable" {
		t.Errorf("Dial() without an agent = %v, want agent_unreachable", err)
	}
}

func TestTunnelErrors(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	want := errs.New(errs.Exhausted, "too many \xff").WithCode("connections_exhausted").WithField("f").WithRemedy("close some")
	p.host.Connect = func(context.Context, lehr.SandboxID, uint16) (net.Conn, error) { return nil, want }
	_, err := p.client.Dial(t.Context(), p.id, 1)
	var got *errs.Error
	if !errors.As(err, &got) || got.Kind != want.Kind || got.Code != want.Code || got.Field != want.Field || got.Remedy != want.Remedy || got.Message != "too many \uFFFD" {
		t.Errorf("Dial() = %#v, want the parts of %#v", err, want)
	}
	p.host.Connect = nil
	if _, err := p.client.Dial(t.Context(), p.id, 1); errs.CodeOf(err) != "port_closed" || !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Dial(closed port) = %v, want port_closed", err)
	}
	if _, err := p.client.Dial(t.Context(), "sb\r\nx: y", 1); !errs.IsKind(err, errs.NotFound) {
		t.Errorf("Dial(no id) = %v, want NotFound", err)
	}
	if _, err := p.client.Dial(t.Context(), lehr.SandboxID("sb"+strings.Repeat("x", 1<<21)), 1); err == nil {
		t.Error("Dial(a huge id) = nil, want an error")
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	entered, left := make(chan struct{}), make(chan struct{})
	p.host.Connect = func(ctx context.Context, _ lehr.SandboxID, _ uint16) (net.Conn, error) {
		close(entered)
		<-ctx.Done() // the agent hears that the caller has given up
		close(left)
		return nil, ctx.Err()
	}
	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-entered; cancel(reason) }()
	if _, err := p.client.Dial(ctx, p.id, 1); !errors.Is(err, reason) {
		t.Errorf("Dial() = %v, want the cause", err)
	}
	<-left
}

// The context of the dialling says nothing about the connection.
func TestTunnelOutlivesItsDialling(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := p.client.Dial(ctx, p.id, 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	inside := <-p.inside
	cancel()
	if _, err := inside.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("Read() after the dialling's context ended = %v", err)
	}
}

func TestReadingGoesOnAfterATimeLimit(t *testing.T) {
	t.Parallel()
	ours, theirs := pair(t)
	conn := &tunnelConn{Conn: ours, frames: frameReader{from: bufio.NewReader(ours)}}
	buf := make([]byte, 10)
	for i, part := range [][]byte{{0, 0}, {0, 3, 'a'}, {'b', 'c', 0, 0, 0}, {0}} {
		if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Read() %d = %v, want a time limit", i, err)
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := theirs.Write(part); err != nil {
			t.Fatal(err)
		}
		if i == 0 || i == 3 {
			continue
		}
		n, err := conn.Read(buf)
		if want := []string{"", "a", "bc"}[i]; err != nil || string(buf[:n]) != want {
			t.Fatalf("Read() %d = %q, %v, want %q", i, buf[:n], err, want)
		}
	}
	if n, err := conn.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read() at the end = %d, %v, want a clean end", n, err)
	}
}

func TestOldCallersAreRefused(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	for name, text := range map[string]string{
		"another protocol": "POST /lehr-tunnel HTTP/1.1\r\nHost: a\r\nUpgrade: lehr-tunnel\r\nConnection: Upgrade\r\nLehr-Host-Protocol: 999\r\n\r\n",
		"no upgrade":       "POST /lehr-tunnel HTTP/1.1\r\nHost: a\r\nLehr-Host-Protocol: 1\r\n\r\n",
		"a call":           "POST /lehr.host.v1.HostAgentService/Info HTTP/1.1\r\nHost: a\r\nLehr-Host-Protocol: 1\r\nContent-Length: 0\r\n\r\n",
		"no port":          "POST /lehr-tunnel HTTP/1.1\r\nHost: a\r\nUpgrade: lehr-tunnel\r\nConnection: Upgrade\r\nLehr-Host-Protocol: 1\r\nLehr-Sandbox-Port: 65536\r\n\r\n",
	} {
		raw, err := p.client.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(raw), nil)
		if err != nil || res.StatusCode == http.StatusSwitchingProtocols {
			t.Errorf("%s is answered with %v, %v, want a refusal", name, res, err)
			continue
		}
		if err := refusal(res, "x"); errs.IsKind(err, errs.Unavailable) {
			t.Errorf("%s is refused with %v, want the reason", name, err)
		}
		_ = raw.Close()
	}
}

// What answers a tunnel may be anything.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"nothing":      "",
		"no HTTP":      strings.Repeat("x", 1<<20),
		"endless":      "HTTP/1.1 101 Switching Protocols\r\nX: " + strings.Repeat("x", 1<<20),
		"other":        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		"page":         "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
		"broken error": "HTTP/1.1 502 X\r\nContent-Type: " + tunnelError + "\r\nContent-Length: 2\r\n\r\n\xff\xff",
	} {
		ours, theirs := pair(t)
		go func() {
			defer theirs.Close()
			if _, err := http.ReadRequest(bufio.NewReader(theirs)); err != nil {
				t.Error(err)
			}
			_, _ = theirs.Write([]byte(answer)) // the caller may leave
		}()
		if _, err := openTunnel(ours, "sb", 1); errs.CodeOf(err) != "agent_unreachable" {
			t.Errorf("%s: openTunnel() = %v, want agent_unreachable", name, err)
		}
		_ = ours.Close()
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'a', 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := io.ReadAll(&frameReader{from: bufio.NewReader(bytes.NewReader(b))})
		if len(got) > len(b) {
			t.Errorf("%d bytes of frames carry %d", len(b), len(got))
		}
		if err == nil && !bytes.Contains(b, []byte{0, 0, 0, 0}) {
			t.Error("a clean end without an end")
		}
	})
}

var _ agent.Ports = (*Client)(nil)
