package hostrpc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	hostv1 "github.com/lehr-dev/lehr/api/gen/host/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Dial connects to a port of a sandbox; see agent.Ports.
func (c *Client) Dial(ctx context.Context, id lehr.SandboxID, port uint16) (net.Conn, error) {
	const op = "host.Dial"
	raw, err := c.dial(ctx, "", "")
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, unreachable(err, op)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	conn, err := openTunnel(raw, id, port)
	if !stop() { // the deadline may be set any moment
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		_ = raw.Close()
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	return conn, nil
}

// openTunnel asks for a tunnel and reads the answer.
func openTunnel(conn net.Conn, id lehr.SandboxID, port uint16) (net.Conn, error) {
	const op = "host.Dial"
	r, err := http.NewRequest(http.MethodPost, "http://agent"+tunnelPath, http.NoBody)
	if err != nil {
		return nil, errs.New(errs.Internal, "%w", err).WithOp(op)
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", tunnelUpgrade)
	r.Header.Set(protocolHeader, strconv.Itoa(Protocol))
	r.Header.Set(tunnelSandbox, string(id))
	r.Header.Set(tunnelPort, strconv.Itoa(int(port)))
	if err := r.Write(conn); err != nil {
		return nil, unreachable(err, op)
	}
	limit := &bounded{from: conn, left: maxTunnelError}
	answer := bufio.NewReader(limit)
	res, err := http.ReadResponse(answer, r)
	if err != nil {
		return nil, unreachable(err, op)
	}
	if res.StatusCode == http.StatusSwitchingProtocols && strings.EqualFold(res.Header.Get("Upgrade"), tunnelUpgrade) {
		limit.left = math.MaxInt // it was the answer's
		return &tunnelConn{Conn: conn, frames: frameReader{from: answer}}, nil
	}
	defer res.Body.Close()
	return nil, refusal(res, op)
}

func unreachable(err error, op string) error {
	return errs.Wrap(err, errs.Unavailable, op, "the host's agent does not answer").WithCode("agent_unreachable")
}

// refusal reads why a tunnel was refused.
func refusal(res *http.Response, op string) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, maxTunnelError))
	var m hostv1.Error
	if err != nil || res.Header.Get("Content-Type") != tunnelError || proto.Unmarshal(b, &m) != nil {
		return errs.New(errs.Unavailable, "the host's agent answers a tunnel with status %d", res.StatusCode).WithOp(op).WithCode("agent_unreachable")
	}
	return unpack(&m, op)
}

// bounded reads at most left bytes.
type bounded struct {
	from io.Reader
	left int
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errs.New(errs.Internal, "the answer is too large")
	}
	n, err := b.from.Read(p[:min(len(p), b.left)])
	if b.left != math.MaxInt {
		b.left -= n
	}
	return n, err
}

// tunnelConn is the caller's end of a tunnel. One goroutine may read and one
// write, others may set deadlines and close.
type tunnelConn struct {
	net.Conn
	frames frameReader

	writing sync.Mutex
	ended   error // why nothing can be written any more
}

// Read reads what the sandbox sends; io.EOF is the end of what it had to say,
// a connection that was broken off is another error.
func (c *tunnelConn) Read(p []byte) (int, error) { return c.frames.Read(p) }

// Write sends p. After an error, a time limit too, the connection can only be
// closed.
func (c *tunnelConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	sent := 0
	for c.ended == nil && sent < len(p) {
		n := min(maxFrame, len(p)-sent)
		var header [frameHeader]byte
		binary.BigEndian.PutUint32(header[:], uint32(n))
		parts := net.Buffers{header[:], p[sent : sent+n]}
		wrote, err := parts.WriteTo(c.Conn)
		sent += max(0, int(wrote)-frameHeader)
		c.ended = err
	}
	return sent, c.ended
}

// CloseWrite tells the sandbox that nothing more comes.
func (c *tunnelConn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.ended != nil {
		return c.ended
	}
	var end [frameHeader]byte
	if _, err := c.Conn.Write(end[:]); err != nil {
		c.ended = err
		return err
	}
	c.ended = net.ErrClosed
	return nil
}
