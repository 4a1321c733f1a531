package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/test/world"
)

// call makes one REST request, target being "METHOD /path", and returns status
// and body.
func call(t *testing.T, w *world.World, target, body string, header ...string) (int, string) {
	t.Helper()
	method, path, _ := strings.Cut(target, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", w.Key())
	for i := 0; i+1 < len(header); i += 2 {
		if req.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := http.DefaultClient.Do(req)
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

func testREST(t *testing.T, w *world.World) {
	status, body := call(t, w, "POST /v1/builds", `{"name":"rest","recipe":["RUN echo one","RUN echo two"],"skip_pre_post":true}`, "Idempotency-Key", "k1")
	var b built
	if err := json.Unmarshal([]byte(body), &b); err != nil || status != 201 || b.Status != "pending" || b.TotalSteps != 2 {
		t.Fatalf("POST /v1/builds = %d %s, want 201 and a pending build", status, body)
	}
	status, again := call(t, w, "POST /v1/builds", `{"name":"rest","recipe":["RUN echo one","RUN echo two"],"skip_pre_post":true}`, "Idempotency-Key", "k1")
	if status != 200 || !strings.Contains(again, b.ID) {
		t.Errorf("the same Idempotency-Key = %d %s, want 200 and %s", status, again, b.ID)
	}
	_, logs := call(t, w, "GET /v1/builds/"+b.ID+"/logs?follow=true", "")
	var texts []string
	for sc := bufio.NewScanner(strings.NewReader(logs)); sc.Scan(); {
		var l line
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatalf("log line %q: %v", sc.Text(), err)
		}
		texts = append(texts, l.Text)
	}
	wantIn(t, "log", strings.Join(texts, "\n"), "two")
	if status, body := call(t, w, "GET /v1/builds?limit=1", ""); status != 200 || !strings.Contains(body, `"next_cursor":"bld-`) || strings.Contains(body, `"stdout_tail"`) {
		t.Errorf("GET /v1/builds?limit=1 = %d %s, want one build, a cursor and no steps", status, body)
	}
	refusals := []struct {
		name, method, path, body string
		status                   int
		code                     string
		header                   []string
	}{
		{"no key", "GET", "/v1/builds", "", 401, "key_missing", []string{"X-API-Key", ""}},
		{"wrong key", "GET", "/v1/builds", "", 401, "key_invalid", []string{"X-API-Key", "lehr_" + strings.Repeat("0", 40)}},
		{"wrong host", "GET", "/v1/builds", "", 403, "host_refused", []string{"Host", "evil.example"}},
		{"unknown field", "POST", "/v1/builds", `{"nonsense":1}`, 400, "body_invalid", nil},
		{"unknown parameter", "GET", "/v1/builds?colour=red", "", 400, "parameter_unknown", nil},
		{"malformed id", "GET", "/v1/builds/bld-x", "", 400, "id_invalid", nil},
		{"unknown build", "GET", "/v1/builds/bld-00000000000000000000000000", "", 404, "", nil},
		{"finished build", "POST", "/v1/builds/" + b.ID + "/cancel", "", 409, "", nil},
		{"unknown route", "GET", "/v1/nothing", "", 404, "route_unknown", nil},
	}
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			w := w.In(t)
			status, body := call(t, w, tt.method+" "+tt.path, tt.body, tt.header...)
			var e struct {
				Error struct{ Code, Message string }
			}
			if err := json.Unmarshal([]byte(body), &e); err != nil || status != tt.status || e.Error.Message == "" || tt.code != "" && e.Error.Code != tt.code {
				t.Errorf("%s %s = %d %s, want %d and code %q", tt.method, tt.path, status, body, tt.status, tt.code)
			}
		})
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if status, _ := call(t, w, "GET "+path, "", "X-API-Key", ""); status != 200 {
			t.Errorf("GET %s = %d, want 200", path, status)
		}
	}
}

func testKeys(t *testing.T, w *world.World) {
	var k struct{ ID, Name, Key string }
	w.JSON(&k, "keys", "create", "ci")
	if status, _ := call(t, w, "GET /v1/builds", "", "X-API-Key", k.Key); status != 200 {
		t.Errorf("a new key = %d, want 200", status)
	}
	e2b := "e2b_" + strings.TrimPrefix(k.Key, "lehr_")
	if status, _ := call(t, w, "GET /v1/builds", "", "X-API-Key", e2b); status != 200 {
		t.Errorf("the key under its other prefix = %d, want 200", status)
	}
	if status, body := call(t, w, "GET /v1/keys", "", "X-API-Key", k.Key); status != 403 {
		t.Errorf("keys with a plain key = %d %s, want 403", status, body)
	}
	if out := w.OK("keys", "ls"); strings.Contains(out, k.Key) || !strings.Contains(out, k.ID) {
		t.Errorf("keys ls = %s, want the id and not the secret", out)
	}
	w.OK("keys", "revoke", k.ID)
	if status, _ := call(t, w, "GET /v1/builds", "", "X-API-Key", k.Key); status != 401 {
		t.Errorf("a revoked key = %d, want 401", status)
	}
	// Another team sees nothing of ours.
	w.JSON(&k, "keys", "create", "other", "--team", "others")
	if status, body := call(t, w, "GET /v1/builds", "", "X-API-Key", k.Key); status != 200 || !strings.Contains(body, `"builds":[]`) {
		t.Errorf("builds of another team = %d %s, want none", status, body)
	}
}

func testTemplates(t *testing.T, w *world.World) {
	one := mustBuild(t, w, "RUN echo one > /v", "-t", "versioned:a")
	two := mustBuild(t, w, "RUN echo two > /v", "-t", "versioned:a")
	if one.Artifact.Version == two.Artifact.Version {
		t.Error("two builds published one version")
	}
	if got := w.OK("run", "versioned:a", "--", "cat", "/v"); got != "two\n" {
		t.Errorf("the tag points to %q, want the newer version", got)
	}
	var list []struct {
		Name    string   `json:"name"`
		Tags    []string `json:"tags"`
		Version string   `json:"version"`
	}
	w.JSON(&list, "templates", "ls", "--name", "versioned")
	if len(list) != 1 || list[0].Version != two.Artifact.Version || strings.Join(list[0].Tags, ",") != "a" {
		t.Errorf("templates ls = %+v, want one entry with tag a at %s", list, two.Artifact.Version)
	}
	id := create(t, w, "versioned:a").ID
	if r := w.Run("templates", "rm", "versioned"); r.Code != 1 || !strings.Contains(r.Stderr, id) {
		t.Errorf("rm under a live sandbox = %d %q, want a conflict that names %s", r.Code, r.Stderr, id)
	}
	w.OK("sandbox", "kill", id)
	w.OK("templates", "rm", "versioned")
	if r := w.Run("templates", "get", "versioned"); r.Code != 1 {
		t.Errorf("get after rm = exit code %d, want 1", r.Code)
	}
	if r := w.RunInput("RUN true", "build", "-t", "minimal", "-f", "-"); r.Code != 1 {
		t.Errorf("a build of the reserved name minimal = exit code %d, want 1", r.Code)
	}
}

func testUsage(t *testing.T, w *world.World) {
	for _, args := range [][]string{
		{"build"},
		{"build", "-t", "x", "context"},
		{"build", "-t", "x", "--secret", "id=a", "-f", "-"},
		{"nosuch"},
		{"builds", "nosuch"},
		{"builds", "get"},
		{"sandbox", "exec", "sbx"},
		{"sandbox", "create"},
		{"run"},
		{"--output", "xml", "builds", "ls"},
		{"build", "-t", "x", "-f", "/no/such/recipe"},
		{"sandbox", "create", "minimal", "-e", "novalue"},
		{"up", "--workers", "0"},
		{"version", "extra"},
	} {
		if r := w.Run(args...); r.Code != 2 || r.Stdout != "" || !strings.Contains(r.Stderr, "lehr: ") {
			t.Errorf("lehr %s = exit code %d, stdout %q, stderr %q, want 2 and a sentence on stderr", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
		}
	}
	wantIn(t, "version", w.OK("version"), "lehr ")
	if r := w.Run("up", "--data", w.Data(), "--listen", "127.0.0.1:0"); r.Code != 1 || !strings.Contains(r.Stderr, "data_in_use") {
		t.Errorf("a second lehr up on the folder = %d %q, want a refusal", r.Code, r.Stderr)
	}
	w.OK("doctor")
}
