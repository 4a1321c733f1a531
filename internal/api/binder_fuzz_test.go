package api

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// FuzzQuery binds any query. What is refused is the caller's fault.
func FuzzQuery(f *testing.F) {
	f.Add("limit=1&cursor=bld-x&status=running")
	f.Add("limit=1&limit=2")
	f.Add("metadata=a=b&metadata=a=c")
	f.Add("%zz=%00&;=")
	f.Fuzz(func(t *testing.T, raw string) {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/v1/builds", RawQuery: raw}}
		for _, err := range []error{
			query(httptest.NewRecorder(), r, &lehrv1.ListBuildsRequest{}),
			query(httptest.NewRecorder(), r, &lehrv1.ListSandboxesRequest{}),
			query(httptest.NewRecorder(), r, &lehrv1.ListTemplatesRequest{}),
		} {
			if err != nil && errs.KindOf(err) != errs.Invalid {
				t.Errorf("query(%q) = %v of kind %s, want invalid", raw, err, errs.KindOf(err))
			}
		}
	})
}

// FuzzCursor reads any text as a cursor and as a duration.
func FuzzCursor(f *testing.F) {
	f.Add(string(lehr.NewBuildID()))
	f.Add("1h30m")
	f.Add("-1s")
	f.Add("99999999999999h")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := cursor(s, lehr.ParseBuildID); err == nil && string(id) != s {
			t.Errorf("cursor(%q) = %q", s, id)
		} else if err != nil && errs.CodeOf(err) != "cursor_invalid" {
			t.Errorf("cursor(%q) = %v", s, err)
		}
		if d, err := duration("timeout", s); err == nil && d != nil && *d < 0 {
			t.Errorf("duration(%q) = %s", s, *d)
		}
		if c := clipName(s); len(c) > 4*len(s)+8 {
			t.Errorf("clipName(%q) has %d bytes", s, len(c))
		}
	})
}
