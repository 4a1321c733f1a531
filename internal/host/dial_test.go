package host_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host/hosttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// listen serves a port of the only sandbox of b; accepted connections echo.
func listen(t *testing.T, b *hosttest.Bundle, port uint16) {
	t.Helper()
	slots, err := b.Opt.Engine.List(t.Context())
	if err != nil || len(slots) != 1 {
		t.Fatalf("List() = %v, %v, want one slot", slots, err)
	}
	l, err := b.World.Machine(slots[0].Slot).Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // the machine has ended
			}
			go func() { _, _ = io.Copy(conn, conn) }() // ends with the connection
		}
	}()
}

func echo(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("echo = %q, %v, want %q", got, err, text)
	}
}

func TestDial(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	r := hosttest.Request(b.Minimal(t))
	if _, err := b.CreateSandbox(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	listen(t, b, 8080)
	conn, err := b.Dial(t.Context(), r.ID, 8080)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, conn, "hello")
	for name, c := range map[string]struct {
		id   lehr.SandboxID
		port uint16
		kind errs.Kind
		code string
	}{
		"closed port": {r.ID, 81, errs.Unavailable, "port_closed"},
		"no port":     {r.ID, 0, errs.Invalid, "invalid"},
		"unknown":     {lehr.NewSandboxID(), 80, errs.NotFound, "sandbox_not_found"},
	} {
		if _, err := b.Dial(t.Context(), c.id, c.port); errs.KindOf(err) != c.kind || errs.CodeOf(err) != c.code {
			t.Errorf("Dial(%s) = %v, want %s, %s", name, err, c.kind, c.code)
		}
	}
	if err := b.PauseSandbox(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Dial(t.Context(), r.ID, 8080); errs.CodeOf(err) != "sandbox_paused" {
		t.Errorf("Dial(paused) = %v, want sandbox_paused", err)
	}
	if err := b.DestroySandbox(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("Read() from a destroyed sandbox = %d, want it broken", n)
	}
}

func TestConnectionsAreCutWithTheSandbox(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	r := hosttest.Request(b.Minimal(t))
	if _, err := b.CreateSandbox(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	listen(t, b, 8080)
	conn, err := b.Dial(t.Context(), r.ID, 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	slots, err := b.Opt.Engine.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Opt.Engine.Sandbox(slots[0].Slot).Stop(t.Context()); err != nil { // nobody asked the host
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("Read() from an ended sandbox = %d, want it broken", n)
	}
}

func TestConnectionsAreCutWithTheHost(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	r := hosttest.Request(b.Minimal(t))
	if _, err := b.CreateSandbox(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	listen(t, b, 8080)
	conn, err := b.Dial(t.Context(), r.ID, 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b.Restart(t)
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("Read() after the agent's stop = %d, want it broken", n)
	}
	again, err := b.Dial(t.Context(), r.ID, 8080)
	if err != nil {
		t.Fatalf("Dial() after the agent's restart = %v", err)
	}
	echo(t, again, "hello again")
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	const most = 1000
	b := hosttest.New(t, hosttest.Options{})
	r := hosttest.Request(b.Minimal(t))
	if _, err := b.CreateSandbox(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	listen(t, b, 8080)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range most {
		conn, err := b.Dial(t.Context(), r.ID, 8080)
		if err != nil {
			t.Fatalf("Dial() with %d open = %v", len(open), err)
		}
		open = append(open, conn)
	}
	if _, err := b.Dial(t.Context(), r.ID, 8080); !errs.IsKind(err, errs.Exhausted) {
		t.Errorf("Dial() with %d open = %v, want Exhausted", most, err)
	}
	if err := errors.Join(open[0].Close(), open[0].Close()); err != nil { // twice is once
		t.Log("closing twice:", err)
	}
	for range 3 { // what fails takes no place
		if _, err := b.Dial(t.Context(), r.ID, 81); errs.CodeOf(err) != "port_closed" {
			t.Errorf("Dial(closed) = %v, want port_closed", err)
		}
	}
	conn, err := b.Dial(t.Context(), r.ID, 8080)
	if err != nil {
		t.Fatalf("Dial() with a place free = %v", err)
	}
	open = append(open, conn)
	if _, err := b.Dial(t.Context(), r.ID, 8080); !errs.IsKind(err, errs.Exhausted) {
		t.Errorf("Dial() with %d open again = %v, want Exhausted", most, err)
	}
}

func TestAccessTokenStays(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	r := hosttest.Request(b.Minimal(t))
	r.AccessToken = "0123456789abcdef"
	if _, err := b.CreateSandbox(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.Opt.StateDir, string(r.ID)+".json")
	wantToken := func(when string) {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(raw), `"access_token":"0123456789abcdef"`) {
			t.Errorf("the record %s = %s, %v, want the access token in it", when, raw, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the record %s has mode %v, %v, want 0600", when, info.Mode(), err)
		}
	}
	wantToken("of a new sandbox")
	b.Restart(t)
	wantToken("of an adopted sandbox")
	for _, s := range []string{"pause", "resume"} {
		change := b.PauseSandbox
		if s == "resume" {
			change = b.ResumeSandbox
		}
		if err := change(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		wantToken("after " + s)
	}
}
