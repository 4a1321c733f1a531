package httpkit_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/httpkit"
)

// A client that never ends its body is answered and let go, whether the body is
// read or the request is refused before.
func TestBodiesWithoutEnd(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			httpkit.WriteError(w, errs.New(errs.Unauthenticated, "no key"))
			return
		}
		_, err := httpkit.ReadBody(w, r, 100)
		var large *http.MaxBytesError
		if !errors.As(err, &large) {
			t.Errorf("ReadBody = %v, want it too large", err)
		}
		httpkit.WriteError(w, errs.New(errs.Invalid, "too large"))
	}))
	defer server.Close()
	for path, status := range map[string]string{"/refused": "401", "/read": "400"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n"+strings.Repeat("x", 255)+"\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(bufio.NewReader(conn)) // ends only when the server hangs up
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 "+status) {
			t.Errorf("%s = %q, %v, want %s and the connection closed", path, answer, err, status)
		}
	}
}
