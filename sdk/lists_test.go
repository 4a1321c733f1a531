package sdk_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/api/gen/lehr/v1/lehrv1connect"
	"github.com/lehr-dev/lehr/sdk"
)

// pages serves a list of builds; cursor n is followed by n+1 up to last.
type pages struct {
	lehrv1connect.UnimplementedBuildServiceHandler
	last  int
	stuck bool
	asked []string
}

func (p *pages) List(_ context.Context, req *connect.Request[lehrv1.ListBuildsRequest]) (*connect.Response[lehrv1.ListBuildsResponse], error) {
	cursor := req.Msg.GetCursor()
	p.asked = append(p.asked, cursor+"/"+req.Msg.GetName())
	n := 0
	_, _ = fmt.Sscan(cursor, &n)
	res := &lehrv1.ListBuildsResponse{Builds: []*lehrv1.Build{{Id: fmt.Sprint(n)}}}
	if next := fmt.Sprint(n + 1); n < p.last {
		res.NextCursor = &next
	} else if p.stuck {
		res.NextCursor = &cursor
	}
	return connect.NewResponse(res), nil
}

func listed(t *testing.T, p *pages, most int) (ids string, err error) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(lehrv1connect.NewBuildServiceHandler(p))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	c, err := sdk.New(sdk.Options{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	req := &lehrv1.ListBuildsRequest{Name: "web"}
	for b, err := range c.AllBuilds(t.Context(), req) {
		if err != nil {
			return ids, err
		}
		if ids += b.GetId(); len(ids) == most {
			break
		}
	}
	if req.GetCursor() != "" {
		t.Errorf("the caller's request was changed: %v", req)
	}
	return ids, nil
}

func TestAllWalksThroughPages(t *testing.T) {
	t.Parallel()
	p := &pages{last: 3}
	if ids, err := listed(t, p, -1); ids != "0123" || err != nil {
		t.Errorf("AllBuilds() = %q, %v, want 0123", ids, err)
	}
	if got, want := fmt.Sprint(p.asked), "[/web 1/web 2/web 3/web]"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	p = &pages{last: 3}
	if ids, err := listed(t, p, 2); ids != "01" || err != nil || len(p.asked) != 2 {
		t.Errorf("AllBuilds() left after two = %q, %v, asked %v, want two pages", ids, err, p.asked)
	}
	if _, err := listed(t, &pages{last: 1, stuck: true}, -1); err == nil {
		t.Errorf("AllBuilds() of a list that does not go on = nil error")
	}
}
