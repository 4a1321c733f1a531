package api_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// access is what the API says of how a sandbox is reached.
type access struct {
	ID     string  `json:"id"`
	URL    *string `json:"url"`
	Port   *string `json:"port_url"`
	Domain *string `json:"domain"`
	Token  *string `json:"access_token"`
}

func TestAccessToSandboxes(t *testing.T) {
	t.Parallel()
	host := agenttest.NewHost()
	w := newWorldOn(t, host)
	var made, got access
	w.call("POST", "/v1/sandboxes", `{"template":"minimal"}`).ok(201, &made)
	if made.Token == nil || !regexp.MustCompile("^[0-9a-f]{64}$").MatchString(*made.Token) {
		t.Fatalf("create = %+v, want an access token", made)
	}
	if sent := host.Request(lehr.SandboxID(made.ID)).AccessToken; sent != *made.Token {
		t.Errorf("the host was given the token %q, the caller %q", sent, *made.Token)
	}
	if made.Domain == nil || *made.Domain != "boxes.test:8443" || made.URL != nil || made.Port == nil || *made.Port != "https://{port}-"+made.ID+".boxes.test:8443" {
		t.Errorf("create = %+v, want domain and address of any port, and no URL of an exposed one", made)
	}
	w.call("GET", "/v1/sandboxes/"+made.ID, "").ok(200, &got)
	if got.Token == nil || *got.Token != *made.Token {
		t.Errorf("get = %+v, want the same token", got)
	}
	list := w.call("GET", "/v1/sandboxes", "")
	if list.ok(200, nil); strings.Contains(string(list.body), *made.Token) || !strings.Contains(string(list.body), `"domain":"boxes.test:8443"`) {
		t.Errorf("list = %s, want the domain and no token", list.body)
	}
	w.call("DELETE", "/v1/sandboxes/"+made.ID, "").ok(200, nil)
	got = access{}
	w.call("GET", "/v1/sandboxes/"+made.ID, "").ok(200, &got)
	if got.Token != nil || got.URL != nil || got.Port != nil {
		t.Errorf("get of a killed sandbox = %+v, want no way in", got)
	}
}

// The gateway stands in front of the API: what is for a sandbox never meets a
// route of ours, and a killed one is gone from the next request on.
func TestGatewayInFrontOfTheAPI(t *testing.T) {
	t.Parallel()
	inside := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, "inside "+r.URL.Path) }))
	t.Cleanup(inside.Close)
	host := agenttest.NewHost()
	host.Connect = func(ctx context.Context, _ lehr.SandboxID, _ uint16) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", inside.Listener.Addr().String())
	}
	w := newWorldOn(t, host)
	id := w.sandbox()
	ask := func(path string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "80-" + id + ".boxes.test"
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	for _, path := range []string{"/v1/sandboxes", "/healthz", "/metrics", "/lehr.v1.SandboxService/List"} {
		if status, got := ask(path); status != 200 || got != "inside "+path {
			t.Errorf("%s = %d %q, want the sandbox's answer", path, status, got)
		}
	}
	w.call("DELETE", "/v1/sandboxes/"+id, "").ok(200, nil)
	if status, got := ask("/"); status != 502 || !strings.Contains(got, `"message":"The sandbox was not found","code":502`) {
		t.Errorf("a killed sandbox answers %d %s", status, got)
	}
}
