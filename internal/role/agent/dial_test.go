package agent_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// serveEcho starts a server in a sandbox that answers each connection with what
// it reads.
func serveEcho(t *testing.T, a *running, id lehr.SandboxID) {
	t.Helper()
	sh(t, a, id, "/bin/busybox nc -ll -p 8080 -e /bin/cat > /dev/null 2>&1 < /dev/null & until /bin/busybox nc 127.0.0.1 8080 < /dev/null; do sleep 0.1; done")
}

func dialEcho(t *testing.T, a *running, id lehr.SandboxID) net.Conn {
	t.Helper()
	conn, err := a.Dial(t.Context(), id, 8080)
	if err != nil {
		t.Fatalf("Dial() = %v", err)
	}
	got := make([]byte, 5)
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Fatalf("the sandbox answers %q, %v, want the same", got, err)
	}
	return conn
}

// descriptors counts the open files of this process, which is caller and agent.
func descriptors(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func wantBroken(t *testing.T, when string, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read() after %s = %d, %v, want an error that is no clean end", when, n, err)
	}
	_ = conn.Close()
}

// TestDial connects to real sandboxes through the agent's socket.
func TestDial(t *testing.T) {
	needRoot(t)
	data := newData(t)
	a := start(t, data, 0, host.Pool{})
	base := busybox(t, a)
	one, two := create(t, a, base.Digest, ""), create(t, a, base.Digest, "")
	serveEcho(t, a, one)
	serveEcho(t, a, two)

	conn := dialEcho(t, a, one)
	go func() { // 8 MB there and back, then a half-close
		_, _ = io.CopyN(conn, rand.NewChaCha8([32]byte{1}), 8<<20)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, want := sha256.New(), sha256.New()
	_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{1}), 8<<20)
	if n, err := io.Copy(got, conn); err != nil || n != 8<<20 || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d bytes come back, %v, want the 8 MB that were sent, then a clean end", n, err)
	}
	_ = conn.Close()

	if _, err := a.Dial(t.Context(), one, 81); errs.CodeOf(err) != "port_closed" {
		t.Errorf("Dial(closed port) = %v, want port_closed", err)
	}
	before := descriptors(t)
	for i := range 200 { // ended by us, in every way there is
		conn := dialEcho(t, a, one)
		if i%2 == 0 {
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		if i%4 == 0 {
			_, _ = io.Copy(io.Discard, conn)
		}
		_ = conn.Close()
	}
	for descriptors(t) > before { // the test's limit ends one that has a leak
		time.Sleep(10 * time.Millisecond)
	}
	doomed, other := dialEcho(t, a, one), dialEcho(t, a, two)
	if err := a.DestroySandbox(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	wantBroken(t, "the sandbox's end", doomed)
	if _, err := a.Dial(t.Context(), one, 8080); errs.KindOf(err) != errs.NotFound {
		t.Errorf("Dial(destroyed) = %v, want NotFound", err)
	}
	third := create(t, a, base.Digest, "")
	serveEcho(t, a, third)
	doomed = dialEcho(t, a, third)
	kill := agent.Exec{SandboxID: third, Args: []string{"/bin/sh", "-c", "kill -9 1; sleep 5"}}
	if exit, err := a.Exec(t.Context(), kill, func(lehr.LogStream, []byte) error { return nil }); err == nil {
		t.Fatalf("a command that kills the guest daemon ends with %+v", exit)
	}
	// Its kernel may have closed the dying program's side before it ended itself.
	if n, err := doomed.Read(make([]byte, 1)); err == nil {
		t.Errorf("Read() after a sandbox that ended by itself = %d, want an end", n)
	}
	_ = doomed.Close()

	a.stop(t)
	wantBroken(t, "the agent's stop", other)
	again := start(t, data, 0, host.Pool{})
	_ = dialEcho(t, again, two).Close()
	for _, id := range []lehr.SandboxID{two, third} {
		if err := again.DestroySandbox(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}
