package guestd_test

import (
	"bufio"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/guest/guestd"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// A client that neither reads nor writes nor goes is given up, in both
// directions, and what it has looks like the part that it is.
func TestStandstillOfATransfer(t *testing.T) {
	t.Parallel()
	d := newDaemonWith(t, func(o *guestd.Options) { o.StallLimit = 300 * time.Millisecond })
	dir := openDir(t)
	large := filepath.Join(dir, "large")
	content := make([]byte, 16<<20) // more than a connection holds, and packed not less
	_, err := rand.Read(content)
	must(t, err)
	must(t, os.WriteFile(large, content, 0o644))
	kept := d.dial(t)
	for _, coding := range []string{"identity", "gzip"} {
		if text, err := kept.get("/etc/passwd", ""); err != nil || !strings.Contains(text, "root:") {
			t.Errorf("a kept connection, whatever stood still elsewhere: %.20q, %v", text, err)
		}
		c := d.dial(t)
		c.ask(t, "GET", large, "Accept-Encoding: "+coding+"\r\n", "")
		c.awaitGone(t)
		if text, err := c.answer(); err == nil {
			t.Errorf("%s: a download that stood still ended as if it were whole, after %d bytes", coding, len(text))
		}
	}
	c := d.dial(t)
	c.ask(t, "POST", filepath.Join(dir, "half"), "Content-Length: 100\r\n", "half")
	if text, err := c.answer(); err == nil && !strings.Contains(text, `"code":504`) {
		t.Errorf("an upload that stood still = %.100q, want 504", text)
	}
	c.awaitGone(t)
	if text, err := kept.get("/etc/passwd", ""); err != nil || !strings.Contains(text, "root:") {
		t.Errorf("a connection whose transfers went well: %.20q, %v", text, err)
	}
}

// bare is a connection to the daemon without a client that reads by itself.
type bare struct {
	*net.UnixConn
	in *bufio.Reader
}

func (d *daemon) dial(t *testing.T) bare {
	t.Helper()
	conn, err := net.Dial("unix", d.socket)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return bare{conn.(*net.UnixConn), bufio.NewReader(conn)}
}

// ask sends a request for a file, which body may be only the beginning of.
func (b bare) ask(t *testing.T, method, path, header, body string) {
	t.Helper()
	_, err := io.WriteString(b, method+" /files?path="+path+" HTTP/1.1\r\nHost: sandbox\r\n"+wire.HeaderOperator+": "+secret+"\r\n"+header+"\r\n"+body)
	must(t, err)
}

// answer reads an answer to its end.
func (b bare) answer() (string, error) {
	resp, err := http.ReadResponse(b.in, nil)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func (b bare) get(path, header string) (string, error) {
	_, err := io.WriteString(b, "GET /files?path="+path+" HTTP/1.1\r\nHost: sandbox\r\n"+wire.HeaderOperator+": "+secret+"\r\n"+header+"\r\n")
	if err != nil {
		return "", err
	}
	return b.answer()
}

// awaitGone waits until the daemon has closed the connection, reading nothing.
func (b bare) awaitGone(t *testing.T) {
	t.Helper()
	raw, err := b.SyscallConn()
	must(t, err)
	var n int
	var failure error
	must(t, raw.Control(func(fd uintptr) {
		n, failure = unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, 60_000)
		for failure == unix.EINTR {
			n, failure = unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, 60_000)
		}
	}))
	if failure != nil || n == 0 {
		t.Fatalf("the connection is still open: %v", failure)
	}
}
