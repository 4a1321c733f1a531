package cli

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/api/gen/lehr/v1/lehrv1connect"
	"github.com/lehr-dev/lehr/internal/guest/guesttest"
)

// boxes is a server of sandboxes, as much of one as shells and copies ask of it.
type boxes struct {
	lehrv1connect.UnimplementedSandboxServiceHandler
	list []*lehrv1.Sandbox
}

func (b *boxes) Get(_ context.Context, r *connect.Request[lehrv1.GetSandboxRequest]) (*connect.Response[lehrv1.Sandbox], error) {
	for _, s := range b.list {
		if s.GetId() == r.Msg.GetId() {
			return connect.NewResponse(s), nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, nil)
}

func (b *boxes) List(context.Context, *connect.Request[lehrv1.ListSandboxesRequest]) (*connect.Response[lehrv1.ListSandboxesResponse], error) {
	return connect.NewResponse(&lehrv1.ListSandboxesResponse{Sandboxes: b.list}), nil
}

const boxID = "sb01jx0000000000000000000001"

// inside is a sandbox whose guest daemon runs in this process, and a command
// line that knows its server.
type inside struct {
	url    string
	server *httptest.Server
}

// newInside puts handler behind the gateway in place of a real guest daemon,
// unless it is nil.
func newInside(t *testing.T, handler http.Handler) *inside {
	t.Helper()
	token := "a token"
	all := &boxes{list: []*lehrv1.Sandbox{{Id: boxID, AccessToken: &token, Template: "web:default"}}}
	path, service := lehrv1connect.NewSandboxServiceHandler(all)
	mux := http.NewServeMux()
	mux.Handle(path, service)
	if handler == nil {
		d := guesttest.New(t, boxID, mux)
		all.list[0].AccessToken = &d.Token
		handler = d
	}
	i := &inside{server: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, path) {
			mux.ServeHTTP(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	}))}
	i.url = i.server.URL
	t.Cleanup(i.server.Close)
	return i
}

func (i *inside) command(args ...string) *command {
	c := newCommand(args...)
	c.env.LookupEnv = environment(map[string]string{"LEHR_URL": i.url, "LEHR_API_KEY": "lehr_x"})
	return c
}
