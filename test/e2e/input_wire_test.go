package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/test/world"
)

// wireLimit is when a test gives up on a connection that must have ended.
const wireLimit = 2 * time.Minute

// speak sends bytes over a connection of its own and returns all that comes
// back until the server hangs up.
func speak(t *testing.T, w *world.World, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(wireLimit)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(conn, text) }() // what is refused early is not read to its end
	b, err := io.ReadAll(bufio.NewReader(conn))
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Errorf("%.100q: the server keeps the connection for longer than %s; so far %.200q", text, wireLimit, b)
	}
	return string(b)
}

// testBadWire breaks HTTP itself. Whatever comes, the server answers once or
// hangs up, in bounded time, and serves others.
func testBadWire(t *testing.T, w *world.World) {
	host := "Host: localhost\r\n"
	key := "X-API-Key: " + w.Key() + "\r\n"
	hidden := "GET /v1/keys HTTP/1.1\r\n" + host + key + "Connection: close\r\n\r\n"
	tests := []struct {
		name, text string
		want       string // prefix of the answer; empty: nothing, or an error of the client's
		answers    int    // at most
	}{
		{"no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "HTTP/1.1 400", 1},
		{"an unknown version", "GET / HTTP/9.9\r\n" + host + "\r\n", "HTTP/1.1 505", 1},
		{"no host", "GET /v1/builds HTTP/1.1\r\n" + key + "\r\n", "HTTP/1.1 400", 1},
		{"two hosts", "GET /v1/builds HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.1 400", 1},
		{"huge headers", "GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", "HTTP/1.1 431", 1},
		{"many headers", "GET / HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 100000) + "\r\n", "HTTP/1.1 431", 1},
		{"headers without end", "GET / HTTP/1.1\r\n" + host, "", 1},
		{"a body without end, without a key", "POST /v1/builds HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "HTTP/1.1 401", 1},
		{"a body without end", "POST /v1/builds HTTP/1.1\r\n" + host + key + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "HTTP/1.1 400", 1},
		{"a body shorter than it says", "POST /v1/builds HTTP/1.1\r\n" + host + key + "Content-Length: 100\r\n\r\n{}", "HTTP/1.1 400", 1},
		{"a chunk that is no chunk", "POST /v1/builds HTTP/1.1\r\n" + host + key + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400", 1},
		{"length and chunks (CL.TE)", "POST /v1/builds HTTP/1.1\r\n" + host + "Content-Length: " + fmt.Sprint(5+len(hidden)) + "\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n" + hidden, "HTTP/1.1 40", 1},
		{"two lengths", "POST /v1/builds HTTP/1.1\r\n" + host + "Content-Length: 0\r\nContent-Length: 50\r\n\r\n" + hidden, "HTTP/1.1 400", 1},
		{"an unknown encoding (TE.CL)", "POST /v1/builds HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\n1\r\nx" + hidden, "HTTP/1.1 501", 1},
		{"a blank in a header's name", "POST /v1/builds HTTP/1.1\r\n" + host + "Content-Length : 5\r\n\r\n" + hidden, "HTTP/1.1 400", 1},
		{"a folded header", "GET /v1/builds HTTP/1.1\r\n" + host + "X: a\r\n b\r\nConnection: close\r\n\r\n", "HTTP/1.1 4", 1},
		{"another host's request line", "GET http://evil.example/v1/builds HTTP/1.1\r\n" + host + key + "Connection: close\r\n\r\n", "HTTP/1.1 403", 1},
		{"a tunnel", "CONNECT 169.254.169.254:80 HTTP/1.1\r\n" + host + key + "Connection: close\r\n\r\n", "HTTP/1.1 40", 1},
		{"dots in the path", "GET /v1/../../etc/passwd HTTP/1.1\r\n" + host + key + "Connection: close\r\n\r\n", "HTTP/1.1 ", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := w.In(t)
			got := speak(t, w, tt.text)
			if !strings.HasPrefix(got, tt.want) || strings.Count(got, "HTTP/1.1 ") > tt.answers || strings.Contains(got, `"keys"`) || strings.Contains(got, "root:") {
				t.Errorf("the answer is %.300q, want at most %d that begin with %q", got, tt.answers, tt.want)
			}
		})
	}
}
