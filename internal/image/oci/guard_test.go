package oci

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What an operation has opened ends with it, also where a registry speaks
// HTTP/2 and keeps the connection of an answer that was given up.
func TestConnectionsEndWithTheOperation(t *testing.T) {
	t.Parallel()
	for range 20 {
		closed := make(chan struct{})
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		server.EnableHTTP2 = true
		server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				close(closed)
			}
		}
		server.StartTLS()
		host := strings.TrimPrefix(server.URL, "https://")
		g := newGuard(host, Registries{Hosts: map[string]Registry{host: {Private: true}}})
		client, ok := server.Client().Transport.(*http.Transport)
		if !ok {
			t.Fatalf("the server's client has a %T", server.Client().Transport)
		}
		g.inner.TLSClientConfig = client.TLSClientConfig
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := g.RoundTrip(req)
		if err != nil || res.ProtoMajor != 2 {
			t.Fatalf("RoundTrip() = %v, %v, want HTTP/2", res, err)
		}
		cancel()
		_ = res.Body.Close()
		g.close()
		select {
		case <-closed:
		case <-time.After(20 * time.Second):
			t.Fatal("a connection is open after the operation")
		}
		server.Close()
	}
}
