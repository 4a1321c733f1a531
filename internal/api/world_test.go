package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/api"
	"github.com/lehr-dev/lehr/internal/bus/membus"
	"github.com/lehr-dev/lehr/internal/fleet"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/role/control"
	"github.com/lehr-dev/lehr/internal/seal"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
	"github.com/lehr-dev/lehr/sdk"
)

// world is a control plane with one scripted host behind a real HTTP server.
type world struct {
	t       *testing.T
	folder  string // of the database
	store   store.Store
	control *control.Control
	url     string
	admin   string // an administrator key of the team "admins"
	user    string // a key of the team "users"
}

// newWorld starts a world whose commands are played by run, nil for silent
// success.
func newWorld(t *testing.T, run agenttest.Script) *world {
	t.Helper()
	host := agenttest.NewHost()
	host.Run = run
	return newWorldOn(t, host)
}

// newWorldOn starts a world on a host of the test's own.
func newWorldOn(t *testing.T, host agent.Agent) *world {
	t.Helper()
	w := &world{t: t, folder: t.TempDir()}
	st, err := lite.Open(t.Context(), lite.Options{Path: filepath.Join(w.folder, "lehr.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	w.store = st
	signals := membus.New()
	t.Cleanup(func() { _ = signals.Close() })
	key, _, err := seal.Load(filepath.Join(w.folder, "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	w.control = control.New(control.Options{
		Key: key, Gateway: control.Gateway{Domain: "boxes.test", Scheme: "https", Port: "8443"},
		Store: st, Bus: signals, Workers: 2, Embedded: true, HostNames: []string{"lehr.test"}, Log: slog.New(slog.DiscardHandler),
		Hosts: []fleet.Member{{Name: "scripted", Dial: func(context.Context) (agent.Agent, error) { return host, nil }}},
	})
	w.run()
	w.admin, w.user = w.key("admins", true), w.key("users", false)
	return w
}

// run works and serves until the test ends.
func (w *world) run() {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.control.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			w.t.Errorf("Run() = %v", err)
		}
	})
	srv := httptest.NewServer(w.control.Handler())
	w.t.Cleanup(srv.Close)
	w.url = srv.URL
	if err := w.control.WaitHosts(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// key makes a key past the API.
func (w *world) key(team string, admin bool) string {
	w.t.Helper()
	made, err := w.store.Accounts().EnsureTeam(w.t.Context(), team)
	if err != nil {
		w.t.Fatal(err)
	}
	k, secret := api.NewKey(made.ID, "test", admin, time.Now())
	hash, ok := api.HashKey(secret)
	if !ok {
		w.t.Fatalf("HashKey(%q) is not ok", secret)
	}
	if err := w.store.Accounts().CreateKey(w.t.Context(), k, hash); err != nil {
		w.t.Fatal(err)
	}
	return secret
}

// client returns an SDK client with a key.
func (w *world) client(key string) *sdk.Client {
	w.t.Helper()
	c, err := sdk.New(sdk.Options{URL: w.url, Key: key})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// answer is what came back over REST.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// call makes one REST request as the user; headers are name, value, ….
func (w *world) call(method, path, body string, headers ...string) answer {
	w.t.Helper()
	return w.request(method, path, strings.NewReader(body), append([]string{"X-API-Key", w.user}, headers...)...)
}

func (w *world) request(method, path string, body io.Reader, headers ...string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if h := req.Header.Get("Host"); h != "" {
		req.Host = h
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{t: w.t, what: method + " " + path, status: res.StatusCode, header: res.Header, body: b}
}

// ok wants a status and decodes the body, where into is not nil.
func (a answer) ok(status int, into any) {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s = %d %s, want %d", a.what, a.status, a.body, status)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		a.t.Fatalf("%s = %s: %v", a.what, a.body, err)
	}
}

// fails wants an error of a status and code with a message.
func (a answer) fails(status int, code string) {
	a.t.Helper()
	var e struct {
		Error struct{ Code, Message string }
	}
	dec := json.NewDecoder(bytes.NewReader(a.body))
	if err := dec.Decode(&e); err != nil || dec.More() {
		a.t.Fatalf("%s = %d %q, want one JSON error", a.what, a.status, a.body)
	}
	if a.status != status || e.Error.Code != code || e.Error.Message == "" {
		a.t.Errorf("%s = %d %s, want %d %s with a message", a.what, a.status, a.body, status, code)
	}
}

// object is any JSON object.
type object = map[string]any

// build makes a build and waits for its end.
func (w *world) build(name string) object {
	w.t.Helper()
	var b object
	w.call("POST", "/v1/builds", `{"name":"`+name+`","recipe":["RUN true"],"skip_pre_post":true}`).ok(201, &b)
	w.call("GET", "/v1/builds/"+b["id"].(string)+"/logs?follow=true", "").ok(200, nil)
	w.call("GET", "/v1/builds/"+b["id"].(string), "").ok(200, &b)
	if b["status"] != "success" {
		w.t.Fatalf("build %s = %v, want success", name, b)
	}
	return b
}

// sandbox starts a sandbox of minimal.
func (w *world) sandbox() string {
	w.t.Helper()
	var s object
	w.call("POST", "/v1/sandboxes", `{"template":"minimal"}`).ok(201, &s)
	return s["id"].(string)
}

// unknown ids of every kind.
var (
	unknownBuild   = string(lehr.NewBuildID())
	unknownSandbox = string(lehr.NewSandboxID())
	unknownKey     = string(lehr.NewKeyID())
)
