package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/api"
)

// described is the description as the server serves it, and what of it was
// answered in a test.
type described struct {
	t    *testing.T
	w    *world
	doc  *openapi3.T
	mu   sync.Mutex
	seen map[string]bool // METHOD PATH STATUS
}

func newDescribed(t *testing.T, w *world) *described {
	t.Helper()
	a := w.request("GET", "/v1/openapi.json", nil)
	a.ok(200, nil)
	doc, err := openapi3.NewLoader().LoadFromData(a.body)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatalf("the description is not valid: %v", err)
	}
	return &described{t: t, w: w, doc: doc, seen: map[string]bool{}}
}

// call makes a request and holds its answer, and its body where it was
// accepted, to the description of the route.
func (d *described) call(route, path, body string, headers ...string) answer {
	d.t.Helper()
	method, pattern, _ := strings.Cut(route, " ")
	op := d.doc.Paths.Value(pattern).GetOperation(method)
	if op == nil {
		d.t.Fatalf("%s is not described", route)
	}
	a := d.w.request(method, path, strings.NewReader(body), append([]string{"X-API-Key", d.w.admin}, headers...)...)
	d.mu.Lock()
	d.seen[fmt.Sprint(route, " ", a.status)] = true
	d.mu.Unlock()
	described := op.Responses.Status(a.status)
	if described == nil {
		if a.status < 400 {
			d.t.Errorf("%s = %d, which is not described", a.what, a.status)
		}
		described = op.Responses.Default()
	}
	d.holds(a, described.Value)
	if a.status < 400 && op.RequestBody != nil {
		if media := op.RequestBody.Value.Content.Get("application/json"); media != nil && body != "" {
			d.fits(a.what+": its body", media.Schema.Value, []byte(body))
		}
	}
	return a
}

func (d *described) holds(a answer, r *openapi3.Response) {
	d.t.Helper()
	kind, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	media := r.Content.Get(kind)
	switch {
	case media == nil && len(a.body) == 0 && len(r.Content) == 0:
	case media == nil:
		d.t.Errorf("%s = %d with %q, described are %v", a.what, a.status, kind, slices.Collect(maps.Keys(r.Content)))
	case kind == "application/json":
		d.fits(a.what, media.Schema.Value, a.body)
	case kind == "application/x-ndjson":
		for line := range bytes.Lines(a.body) {
			d.fits(a.what, media.Schema.Value, line)
		}
	}
}

func (d *described) fits(what string, schema *openapi3.Schema, text []byte) {
	d.t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		d.t.Errorf("%s: %q is no JSON: %v", what, text, err)
		return
	}
	if err := schema.VisitJSON(v, openapi3.MultiErrors()); err != nil {
		d.t.Errorf("%s = %s\ndoes not fit its description: %v", what, text, err)
	}
}

// The routes that the server has are those that are described, and none else.
func TestDescribedRoutes(t *testing.T) {
	t.Parallel()
	d := newDescribed(t, newWorld(t, nil))
	var have []string
	for _, pattern := range append(api.RestRoutes(), "GET /v1/openapi.json", "GET /healthz", "GET /readyz") {
		if pattern != "/" {
			have = append(have, strings.ReplaceAll(pattern, "...}", "}"))
		}
	}
	var want []string
	ids := map[string]bool{}
	for path, item := range d.doc.Paths.Map() {
		for method, op := range item.Operations() {
			want = append(want, method+" "+path)
			if ids[op.OperationID] {
				t.Errorf("operation %s is described twice", op.OperationID)
			}
			ids[op.OperationID] = true
			if op.Summary == "" {
				t.Errorf("%s %s has no summary: comment the method in its .proto file", method, path)
			}
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range have {
		_, path, _ := strings.Cut(route, " ")
		if !bytes.Contains(page, []byte(path)) {
			t.Errorf("docs/api.md has no %s", path)
		}
	}
	if !slices.Equal(have, want) {
		t.Errorf("served are %v\ndescribed are %v\nsee api/openapi/routes.json", have, want)
	}
}

// Every route is called, and what comes back, successes and errors, is as
// described; every described success is seen.
func TestAnswersAreAsDescribed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
		if slices.Contains(r.Args, "fail") || slices.ContainsFunc(r.Args, func(s string) bool { return strings.Contains(s, "fail") }) {
			return agent.Exit{Code: 9}, out("stderr", []byte("bad\n"))
		}
		return agent.Exit{}, out("stdout", []byte("good\n"))
	})
	d := newDescribed(t, w)
	d.open()
	d.builds()
	d.templates()
	d.sandboxes()
	d.keysAndTeams()
	for path, item := range d.doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status := range op.Responses.Map() {
				if status != "default" && !d.seen[method+" "+path+" "+status] {
					t.Errorf("%s %s never answered %s in this test", method, path, status)
				}
			}
		}
	}
}

func (d *described) open() {
	d.t.Helper()
	d.call("GET /readyz", "/readyz", "").fails(503, "not_ready")
	d.w.control.SetReady(true)
	for _, path := range []string{"/v1/openapi.json", "/healthz", "/readyz"} {
		d.call("GET "+path, path, "").ok(200, nil)
	}
}

func (d *described) builds() {
	d.t.Helper()
	var b object
	create := `{"name":"web","base_template":"minimal","recipe":["RUN true","ENV A=b"],"vcpus":1,"memory_mb":512,"disk_mb":5120,"skip_pre_post":true,` +
		`"build_args":{},"no_cache":true,"limits":{"run":"1m"},"priority":1,"metadata":{"team":"a"},"healthcheck":""}`
	d.call("POST /v1/builds", "/v1/builds", create, "Idempotency-Key", "one").ok(201, &b)
	d.call("POST /v1/builds", "/v1/builds", create, "Idempotency-Key", "one").ok(200, nil)
	id, _ := b["id"].(string)
	one := "/v1/builds/" + id
	d.call("GET /v1/builds/{id}/logs", one+"/logs?follow=true&after=0", "").ok(200, nil)
	d.call("GET /v1/builds/{id}", one, "").ok(200, &b)
	d.call("POST /v1/builds/{id}/cancel", one+"/cancel", "").fails(409, "build_finished")
	d.call("GET /v1/builds", "/v1/builds?limit=1&status=success&name=web&metadata=team=a", "").ok(200, nil)
	d.call("GET /v1/builds", "/v1/builds?nonsense=1", "").fails(400, "parameter_unknown")
	d.call("POST /v1/builds", "/v1/builds", `{"name":"web","recipe":["NONSENSE"]}`).fails(400, "unknown_instruction")
	var failed object
	d.call("POST /v1/builds", "/v1/builds", `{"name":"bad","recipe":["RUN fail"],"skip_pre_post":true}`).ok(201, &failed)
	id, _ = failed["id"].(string)
	d.call("GET /v1/builds/{id}/logs", "/v1/builds/"+id+"/logs?follow=true", "").ok(200, nil)
	if d.call("GET /v1/builds/{id}", "/v1/builds/"+id, "").ok(200, &failed); failed["status"] != "failed" {
		d.t.Errorf("build = %v, want failed", failed)
	}
	var waiting object // cancelled before or after a worker has it
	d.call("POST /v1/builds", "/v1/builds", `{"name":"late","recipe":["START sleep","RUN true"],"skip_pre_post":true,"healthcheck":"--interval=1h fail"}`).ok(201, &waiting)
	id, _ = waiting["id"].(string)
	d.call("POST /v1/builds/{id}/cancel", "/v1/builds/"+id+"/cancel", "").ok(200, nil)
	d.call("GET /v1/builds/{id}", "/v1/builds/"+unknownBuild, "").fails(404, "build_not_found")
}

func (d *described) templates() {
	d.t.Helper()
	d.call("GET /v1/templates", "/v1/templates?type=base&limit=2", "").ok(200, nil)
	d.call("GET /v1/templates/{name}", "/v1/templates/web", "").ok(200, nil)
	d.call("POST /v1/templates/{name}/tag", "/v1/templates/web/tag", `{"tag":"v2"}`).ok(200, nil)
	d.call("DELETE /v1/templates/{name}", "/v1/templates/web:v2", "").ok(200, nil)
	d.call("GET /v1/templates/{name}", "/v1/templates/none", "").fails(404, "template_not_found")
	d.call("POST /v1/templates/import", "/v1/templates/import?kind=tar", "not looked at by the scripted host").ok(201, nil)
	d.call("POST /v1/templates/import", "/v1/templates/import?kind=odd", "x")
}

func (d *described) sandboxes() {
	d.t.Helper()
	var s object
	create := `{"template":"minimal","env":{"A":"b"},"timeout":"1h","metadata":{"team":"a"}}`
	d.call("POST /v1/sandboxes", "/v1/sandboxes", create, "Idempotency-Key", "two").ok(201, &s)
	d.call("POST /v1/sandboxes", "/v1/sandboxes", create, "Idempotency-Key", "two").ok(200, nil)
	d.call("POST /v1/sandboxes", "/v1/sandboxes?wait=false", create).ok(202, nil)
	d.call("POST /v1/sandboxes", "/v1/sandboxes", `{"template":"none"}`).fails(404, "template_not_found")
	id, _ := s["id"].(string)
	one := "/v1/sandboxes/" + id
	d.call("GET /v1/sandboxes", "/v1/sandboxes?all=true&state=running&metadata=team=a&template=minimal", "").ok(200, nil)
	d.call("GET /v1/sandboxes/{id}", one, "").ok(200, nil)
	d.call("POST /v1/sandboxes/{id}/timeout", one+"/timeout", `{"timeout":"2h"}`).ok(200, nil)
	d.call("POST /v1/sandboxes/{id}/exec", one+"/exec", `{"cmd":["say"],"user":"root","cwd":"/","env":{"A":"b"},"timeout":"1m","stdin":"aGk="}`).ok(200, nil)
	d.call("POST /v1/sandboxes/{id}/exec", one+"/exec", `{"cmd":["fail"]}`).ok(200, nil)
	d.call("PUT /v1/sandboxes/{id}/files", one+"/files?path=/tmp/a&user=root", "content").ok(204, nil)
	d.call("GET /v1/sandboxes/{id}/files", one+"/files?path=/tmp/a", "").ok(200, nil)
	d.call("GET /v1/sandboxes/{id}/files", one+"/files", "")
	d.call("DELETE /v1/sandboxes/{id}", one, "").ok(200, nil)
	d.call("POST /v1/sandboxes/{id}/exec", one+"/exec", `{"cmd":["say"]}`)
	d.call("GET /v1/sandboxes/{id}", "/v1/sandboxes/"+unknownSandbox, "").fails(404, "sandbox_not_found")
}

func (d *described) keysAndTeams() {
	d.t.Helper()
	var k object
	d.call("POST /v1/keys", "/v1/keys", `{"name":"ci","admin":false,"team":"others"}`).ok(201, &k)
	d.call("GET /v1/keys", "/v1/keys?team=others&limit=1", "").ok(200, nil)
	id, _ := k["id"].(string)
	d.call("DELETE /v1/keys/{id}", "/v1/keys/"+id+"?team=others", "").ok(200, nil)
	d.call("DELETE /v1/keys/{id}", "/v1/keys/"+unknownKey, "").fails(404, "key_not_found")
	d.call("GET /v1/team", "/v1/team", "").ok(200, nil)
	d.call("GET /v1/teams", "/v1/teams", "").ok(200, nil)
	d.call("GET /v1/teams/{name}", "/v1/teams/others", "").ok(200, nil)
	d.call("PUT /v1/teams/{name}/limits", "/v1/teams/others/limits", `{"sandboxes":5,"creates_per_minute":1}`).ok(200, nil)
	d.call("PUT /v1/teams/{name}/limits", "/v1/teams/others/limits", `{"sandboxes":-5}`)
}
