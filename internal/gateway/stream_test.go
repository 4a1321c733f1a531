package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Each event is read before the next is sent: nothing waits in between.
func TestEventsComeAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	next := make(chan struct{})
	for _, length := range []string{"", "30"} { // chunked, and of a known length
		id := w.serve(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/plain")
			if length != "" {
				rw.Header().Set("Content-Length", length)
			}
			for i := range 3 {
				fmt.Fprintf(rw, "event %03d\n", i)
				_ = http.NewResponseController(rw).Flush()
				<-next
			}
		})
		res := w.do(w.request("GET", "/", id, nil))
		lines := bufio.NewScanner(res.Body)
		for i := range 3 {
			if !lines.Scan() || lines.Text() != fmt.Sprintf("event %03d", i) {
				t.Fatalf("line %d = %q, %v", i, lines.Text(), lines.Err())
			}
			next <- struct{}{}
		}
	}
}

// Request and answer stream at the same time, over HTTP/1.1 and HTTP/2.
func TestBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(rw http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(rw)
		_ = c.EnableFullDuplex()
		rw.WriteHeader(http.StatusOK)
		_ = c.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintln(rw, "heard", lines.Text())
			_ = c.Flush()
		}
	})
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	for name, client := range map[string]*http.Client{"HTTP/1.1": w.server.Client(), "HTTP/2": {Transport: h2}} {
		body, say := io.Pipe()
		res, err := client.Do(w.request("POST", "/", id, body))
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("HTTP/%d", res.ProtoMajor) != strings.TrimSuffix(name, ".1") {
			t.Errorf("%s: the answer is %s", name, res.Proto)
		}
		answers := bufio.NewScanner(res.Body)
		for i := range 3 {
			fmt.Fprintln(say, i)
			if !answers.Scan() || answers.Text() != fmt.Sprint("heard ", i) {
				t.Fatalf("%s: answer %d = %q, %v", name, i, answers.Text(), answers.Err())
			}
		}
		_ = say.Close()
		if answers.Scan() || answers.Err() != nil {
			t.Errorf("%s: after the end comes %q, %v", name, answers.Text(), answers.Err())
		}
		_ = res.Body.Close()
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}, InsecureSkipVerify: true})
		if err != nil {
			t.Error(err)
			return
		}
		c.SetReadLimit(1 << 21)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if string(b) == "bye" {
				_ = c.Close(websocket.StatusNormalClosure, "goodbye")
				return
			}
			if err := c.Write(r.Context(), kind, b); err != nil {
				return
			}
		}
	})
	dial := func() *websocket.Conn {
		t.Helper()
		c, _, err := websocket.Dial(t.Context(), w.server.URL+"/ws", &websocket.DialOptions{Host: hostOf(id, 8080), Subprotocols: []string{"echo"}})
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadLimit(1 << 21)
		return c
	}
	c := dial()
	if c.Subprotocol() != "echo" {
		t.Errorf("subprotocol = %q, want echo", c.Subprotocol())
	}
	for _, msg := range []string{"hello", "", strings.Repeat("x", 1<<20)} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(msg)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(t.Context()); err != nil || string(got) != msg {
			t.Fatalf("echo = %d bytes, %v, want %d", len(got), err, len(msg))
		}
	}
	if err := c.Write(t.Context(), websocket.MessageText, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("Read() after bye = %v, want a normal end", err)
	}
	c = dial()
	defer c.CloseNow() //nolint:errcheck // the test is over
	w.end(id, ended(id))
	if _, _, err := c.Read(t.Context()); err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("Read() from an ended sandbox = %v, want it broken", err)
	}
}

func TestEndOfASandboxBreaksItsStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "begin")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	res := w.do(w.request("GET", "/", id, nil))
	if _, err := io.ReadFull(res.Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	w.end(id, ended(id))
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("the rest of the stream = %q and a clean end, want it broken", b)
	}
}

func TestAnAnswerThatNeverCameIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if b := wantRefusal(t, "a server that hangs up", w.do(w.request("POST", "/", id, strings.NewReader("x"))), 502, "answer_broken"); b.Port != 8080 {
		t.Errorf("body = %+v, want the port", b)
	}
	waiting := make(chan struct{})
	id = w.serve(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see its connection end
		close(waiting)
		<-r.Context().Done()
	})
	go func() { <-waiting; w.end(id, ended(id)) }()
	wantRefusal(t, "a sandbox that ended before the answer", w.do(w.request("POST", "/", id, strings.NewReader("x"))), 502, "sandbox_not_found")
}

func TestTheEndOfTheClientEndsTheRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	entered, left := make(chan struct{}), make(chan struct{})
	id := w.serve(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(left)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	r := w.request("GET", "/", id, nil).WithContext(ctx)
	if res, err := w.server.Client().Do(r); err == nil {
		_ = res.Body.Close()
		t.Error("a cancelled request is answered")
	}
	<-left // the test's limit ends a server that was not told
}

func TestUploadIsNotReadBeforeItIsWanted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			http.Error(rw, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "%d bytes", len(b))
	})
	for path, want := range map[string]string{"/refused": "413 too large\n", "/wanted": "200 5 bytes"} {
		conn, err := net.Dial("tcp", w.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", path, hostOf(id, 8080))
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if path == "/wanted" {
			if res.StatusCode != http.StatusContinue {
				t.Errorf("%s: the first answer is %s, want 100", path, res.Status)
			}
			_, _ = io.WriteString(conn, "hello")
			if res, err = http.ReadResponse(in, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(res.StatusCode, " ", text(t, res)); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// gRPC reaches servers over HTTP/2, everything else over HTTP/1.1.
func TestProtocols(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Trailer", "Grpc-Status")
		fmt.Fprint(rw, r.ProtoMajor)
		rw.Header().Set("Grpc-Status", "0")
	})
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	for kind, want := range map[string]string{"application/grpc+proto": "2", "application/json": "1"} {
		r := w.request("POST", "/", id, strings.NewReader("x"))
		r.Header.Set("Content-Type", kind)
		res, err := (&http.Client{Transport: h2}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, res); got != want || res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%s: the server sees HTTP/%s, trailers %v, want HTTP/%s", kind, got, res.Trailer, want)
		}
		_ = res.Body.Close()
	}
}

func TestEmptyAnswersHaveALength(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/none" {
			rw.WriteHeader(http.StatusNoContent)
			return
		}
		rw.WriteHeader(http.StatusAccepted)
	})
	for _, p := range []string{"/none", "/empty"} {
		res := w.do(w.request("POST", p, id, nil))
		if res.ContentLength != 0 || len(res.TransferEncoding) != 0 {
			t.Errorf("%s: %s, length %d, %v, want an answer without chunks", p, res.Status, res.ContentLength, res.TransferEncoding)
		}
	}
}

func TestCONNECTIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(say("box"))
	conn, err := net.Dial("tcp", w.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", hostOf(id, 8080), hostOf(id, 8080))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "CONNECT", res, 405, "method_refused")
}

func TestDialErrorsKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	g := newWorld(t).gateway
	for name, c := range map[string]struct {
		err    error
		status int
	}{
		"limit":   {errDialLimit, 504},
		"wrapped": {fmt.Errorf("dial: %w", errs.New(errs.Exhausted, "x")), 429},
		"unknown": {errors.New("reset"), 502},
	} {
		if f := g.broken(t.Context(), target{id: lehr.NewSandboxID(), port: 1}, c.err); f.status != c.status && name != "unknown" || name == "unknown" && f.code != "sandbox_not_found" {
			t.Errorf("%s: %+v, want %d", name, f, c.status)
		}
	}
}

// A client that never ends the body of a request that was answered keeps
// nothing, and what it sends later is no request.
func TestBodiesThatNobodyWantsAreNotAwaited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(rw http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex() // else it waits for the body itself
		rw.WriteHeader(http.StatusTeapot)
		_ = http.NewResponseController(rw).Flush()
	})
	for what, host := range map[string]string{
		"unknown": hostOf(lehr.NewSandboxID(), 8080), "malformed": hostOf("x", 8080), "answered early": hostOf(id, 8080), "closed port": hostOf(id, 81),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", w.server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\nx", host)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil) // the server reads on before it answers
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") // it may be closed already
			if n, err := conn.Read(make([]byte, 1)); err == nil {                    // the test's limit ends one that waits for ever
				t.Errorf("%d bytes more, want the connection closed", n)
			}
		})
	}
}
