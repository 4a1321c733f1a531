package guestclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lehr-dev/lehr/api/gen/envd/process"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// against returns a client of a daemon that is h.
func against(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(h)
	c := New(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}, "secret")
	t.Cleanup(func() { c.Close(); server.CloseClientConnections(); server.Close() })
	return c
}

// frame is one message of a Connect stream.
func frame(flags byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(body))), body...)
}

func event(t *testing.T, e *process.ProcessEvent) []byte {
	t.Helper()
	body, err := proto.Marshal(&process.StartResponse{Event: e})
	if err != nil {
		t.Fatal(err)
	}
	return frame(0, body)
}

func endEvent(t *testing.T, e *process.ProcessEvent_EndEvent) []byte {
	t.Helper()
	return event(t, &process.ProcessEvent{Event: &process.ProcessEvent_End{End: e}})
}

// stream answers with raw bytes as a Connect stream.
func stream(parts ...[]byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/connect+proto")
		_, _ = w.Write(bytes.Join(parts, nil))
	}
}

// Streams that are cut, oversized, empty, mad: errors, never a hang, a panic or
// a made-up success.
func TestExecHostileStream(t *testing.T) {
	t.Parallel()
	huge := frame(0, nil)
	binary.BigEndian.PutUint32(huge[1:], 1<<31)
	tests := []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"nothing", stream()},
		{"no end", stream(frame(2, []byte("{}")))},
		{"nonsense", stream([]byte("hello, world, this is no frame"))},
		{"bad message", stream(frame(0, []byte{0xff, 0xff, 0xff}))},
		{"huge frame", stream(huge)},
		{"large frame", stream(frame(0, make([]byte, maxMessage+1)))},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/connect+proto")
			h := frame(0, nil)
			binary.BigEndian.PutUint32(h[1:], maxMessage+1)
			_, _ = w.Write(h)
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}},
		{"other content", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.com/", http.StatusTemporaryRedirect)
		}},
		{"huge headers", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }},
		{"error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			exit, err := against(t, tt.answer).Exec(ctx, ExecRequest{Cmd: []string{"x"}}, nil)
			if err == nil || ctx.Err() != nil {
				t.Errorf("Exec = %+v, %v, want an error before the time is up", exit, err)
			}
		})
	}
}

// Whatever numbers a daemon sends, an exit is one a process can have.
func TestExitIsBounded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		end     *process.ProcessEvent_EndEvent
		trailer string
		want    Exit
	}{
		{&process.ProcessEvent_EndEvent{Exited: true, ExitCode: 3}, `{}`, Exit{Code: 3}},
		{&process.ProcessEvent_EndEvent{Exited: true, ExitCode: -1}, `{}`, Exit{Code: 255}},
		{&process.ProcessEvent_EndEvent{Exited: true, ExitCode: 1 << 30}, `{}`, Exit{Code: 0}},
		{&process.ProcessEvent_EndEvent{}, `{"metadata":{"x-lehr-signal":["15"]}}`, Exit{Code: 143, Signal: 15}},
		{&process.ProcessEvent_EndEvent{}, `{"metadata":{"x-lehr-signal":["9999"]}}`, Exit{Code: 137, Signal: 9}},
		{&process.ProcessEvent_EndEvent{}, `{"metadata":{"x-lehr-signal":["x"]}}`, Exit{Code: 137, Signal: 9}},
	}
	for _, tt := range tests {
		c := against(t, stream(endEvent(t, tt.end), frame(2, []byte(tt.trailer))))
		got, err := c.Exec(t.Context(), ExecRequest{Cmd: []string{"x"}}, nil)
		if err != nil || got != tt.want {
			t.Errorf("Exec with %v and %s = %+v, %v, want %+v", tt.end, tt.trailer, got, err, tt.want)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	answers := 0
	c := against(t, func(w http.ResponseWriter, _ *http.Request) {
		if answers++; answers < 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set(wire.HeaderGuest, "v1")
		w.Header().Set(wire.HeaderProtocol, "1")
		w.WriteHeader(http.StatusNoContent)
	})
	if h, err := c.Health(t.Context()); err != nil || h != (Health{Version: "v1", Protocol: 1}) {
		t.Errorf("Health = %+v, %v, want v1", h, err)
	}
}

func TestHealthFails(t *testing.T) {
	t.Parallel()
	other := against(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(wire.HeaderProtocol, "999")
		w.WriteHeader(http.StatusNoContent)
	})
	if h, err := other.Health(t.Context()); !errs.IsKind(err, errs.Conflict) {
		t.Errorf("Health of another protocol = %+v, %v, want conflict", h, err)
	}
	never := New(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }, "s")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if h, err := never.Health(ctx); !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Health of nobody = %+v, %v, want unavailable", h, err)
	}
}

// The daemon's words reach a terminal and a log harmless and short.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	c := against(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(wire.HeaderErrorCode, "made_up")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"message":"\u001b[31mred\u0007\u009b`+strings.Repeat("x", 1<<20)+`"}`)
	})
	err := c.Sync(t.Context())
	if !errs.IsKind(err, errs.Invalid) || errs.CodeOf(err) != "invalid" {
		t.Errorf("Sync = %v (%s), want invalid without a made-up code", err, errs.CodeOf(err))
	}
	if text := err.Error(); len(text) > 2*maxText || strings.ContainsAny(text, "\x1b\x07\u009b") {
		t.Errorf("the error's text has %d bytes and control characters or too many: %.80q", len(text), text)
	}
}

// The operator's secret goes with every call and to nobody else.
func TestSecretIsSent(t *testing.T) {
	t.Parallel()
	var paths []string
	c := against(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(wire.HeaderOperator) == "secret" {
			paths = append(paths, r.URL.Path)
		}
		http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
	})
	_ = c.Sync(t.Context())
	_, _ = c.List(t.Context())
	_, _ = c.Env(t.Context())
	if got := strings.Join(paths, " "); got != "/sync /process.Process/List /envs" {
		t.Errorf("calls with the secret: %q", got)
	}
}

func TestEnvIsBounded(t *testing.T) {
	t.Parallel()
	c := against(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"A":"`)
		for {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
				return
			}
		}
	})
	if env, err := c.Env(t.Context()); !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Env of an endless answer = %d variables, %v, want unavailable", len(env), err)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[2J\xff\x00")
	f.Fuzz(func(t *testing.T, text string) {
		got := clean(text)
		if len(got) > 3*maxText || strings.ContainsAny(got, "\x00\x1b\x7f\r") {
			t.Errorf("clean(%q) = %q", text, got)
		}
	})
}
