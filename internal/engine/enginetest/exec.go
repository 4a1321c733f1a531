package enginetest

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

var execTests = []subtest{
	{"the first process sees what was asked for", testSees},
	{"the guest mount is read-only", testGuestMount},
	{"processes of processes", testSpawn},
	{"dial of a closed port fails, and the sandbox lives", testDialClosed},
	{"files are the sandbox's own", testFilesOwn},
}

func testSees(t *testing.T, b *bench) {
	shape := lehr.Resources{VCPUs: 1, MemoryMB: 384, DiskMB: 128}
	_, sb := b.boot(t, shape)
	if got := b.do(t, sb, "echo", "a b", "c"); got != "a b c" {
		t.Errorf("echo = %q, want %q", got, "a b c")
	}
	if got := b.do(t, sb, "env", "PROBE"); got != "line one\nline two" {
		t.Errorf("environment PROBE = %q", got)
	}
	who := b.fields(t, sb, "whoami")
	for key, want := range map[string]string{"uid": "0", "pid": "1", "nproc": "1", "hostname": "probe"} {
		if who[key] != want {
			t.Errorf("whoami %s = %q, want %q (%v)", key, who[key], want, who)
		}
	}
	if mem := number(t, who, "mem_mb"); mem > int64(shape.MemoryMB) || mem < int64(shape.MemoryMB)/2 {
		t.Errorf("whoami mem_mb = %d, want at most %d and not much less", mem, shape.MemoryMB)
	}
	if got := b.do(t, sb, "read", "/base/link"); got != "keep\n" {
		t.Errorf("read through the image's symlink = %q", got)
	}
}

func testGuestMount(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	for _, verb := range [][]string{
		{"put", "/.lehr/new", "x"}, {"put", "/.lehr/probe", "x"}, {"delete", "/.lehr/probe"}, {"chmod", "/.lehr/probe", "644"},
	} {
		if out, err := b.Run(b.ctx(t), sb, verb[0], verb[1:]...); err == nil {
			t.Errorf("probe %q in the guest mount = %q, want an error", verb, out)
		}
	}
	b.do(t, sb, "spawn") // the binary is still what it was
}

func testSpawn(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	pid := b.fields(t, sb, "spawn")["pid"]
	if alive := b.do(t, sb, "alive", pid); alive != "true" {
		t.Errorf("spawned child %s alive = %s", pid, alive)
	}
	if out := b.fields(t, sb, "fork", "20"); out["started"] != "20" {
		t.Errorf("fork 20 = %v", out)
	}
}

func testDialClosed(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	conn, err := sb.Dial(b.ctx(t), 7071)
	if err == nil {
		_ = conn.Close()
		t.Error("Dial(closed port) = nil, want an error")
	}
	if errs.KindOf(err) == errs.NotFound {
		t.Errorf("Dial(closed port) = %v: not found would mean that the sandbox is gone", err)
	}
	b.do(t, sb, "echo", "alive")
}

func testFilesOwn(t *testing.T, b *bench) {
	_, one := b.boot(t, small)
	_, two := b.boot(t, small)
	b.do(t, one, "put", "/base/keep", "mine")
	if got := b.do(t, one, "read", "/base/keep"); got != "mine" {
		t.Errorf("own change = %q", got)
	}
	if got := b.do(t, two, "read", "/base/keep"); got != "keep\n" {
		t.Errorf("the sibling sees %q, want the image's text", got)
	}
	_, fresh := b.boot(t, small)
	if got := b.do(t, fresh, "read", "/base/keep"); got != "keep\n" {
		t.Errorf("a later sandbox sees %q, want the image's text", got)
	}
}

// wantBroken checks that a held connection ends by itself.
func wantBroken(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return // already closed
	}
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || (errors.As(err, &timeout) && timeout.Timeout()) {
		t.Errorf("read from a connection into an ended sandbox = %v, want it broken at once", err)
	}
}

// hasErrno reports whether err is the probe's and begins with the errno's name.
func hasErrno(err error, name string) bool {
	var p *ProbeError
	return errors.As(err, &p) && strings.HasPrefix(p.Text, name+":")
}

// countingWriter counts what is written and keeps nothing.
type countingWriter struct{ n int64 }

// Write counts b.
func (w *countingWriter) Write(b []byte) (int, error) {
	w.n += int64(len(b))
	return len(b), nil
}
