package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/sdk"
)

func TestBuildOverREST(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	b := w.build("web:v1")
	if b["name"] != "web" || b["tag"] != "v1" || b["error"] != nil || len(b["steps"].([]any)) == 0 {
		t.Errorf("build = %v, want web:v1 without an error and with steps", b)
	}
	var got object
	w.call("GET", "/v1/templates/web:v1", "").ok(200, &got)
	if got["version"] != b["artifact"].(object)["version"] {
		t.Errorf("template = %v, want the build's version", got)
	}
	w.call("POST", "/v1/builds/"+b["id"].(string)+"/cancel", "").fails(409, "build_finished")
}

func TestBuildErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, tt := range []struct {
		request, body string
		status        int
		code          string
	}{
		{"POST /v1/builds", `{"name":"x","recipe":["RUN true"],"nonsense":1}`, 400, "body_invalid"},
		{"POST /v1/builds", `{"name":`, 400, "body_invalid"},
		{"POST /v1/builds", `{"name":"x"} trailing`, 400, "body_invalid"},
		{"POST /v1/builds", `{"name":"x","recipe":["RUN true"],"limits":{"run":"soon"}}`, 400, "duration_invalid"},
		{"POST /v1/builds", `{"name":"x","recipe":["RUN true"],"limits":{"build":"-1s"}}`, 400, "duration_invalid"},
		{"POST /v1/builds", `{"name":"x","recipe":["RUN ` + strings.Repeat("x", 4<<20) + `"]}`, 400, "body_too_large"},
		{"POST /v1/builds?dry=1", `{"name":"x","recipe":["RUN true"]}`, 400, "parameter_unknown"},
		{"GET /v1/builds?nonsense=1", "", 400, "parameter_unknown"},
		{"GET /v1/builds?limit=x", "", 400, "invalid"},
		{"GET /v1/builds?limit=99999999999", "", 400, "invalid"},
		{"GET /v1/builds?limit=-1", "", 400, "invalid"},
		{"GET /v1/builds?limit=201", "", 400, "invalid"},
		{"GET /v1/builds?status=odd", "", 400, "invalid"},
		{"GET /v1/builds?cursor=odd", "", 400, "cursor_invalid"},
		{"GET /v1/builds?name=%00", "", 400, "invalid"},
		{"GET /v1/builds?name=%ff", "", 400, "invalid"},
		{"GET /v1/builds/odd", "", 400, "id_invalid"},
		{"GET /v1/builds/" + unknownBuild, "", 404, "build_not_found"},
		{"GET /v1/builds/" + unknownBuild + "?x=1", "", 400, "parameter_unknown"},
		{"POST /v1/builds/odd/cancel", "", 400, "id_invalid"},
		{"POST /v1/builds/" + unknownBuild + "/cancel", "", 404, "build_not_found"},
		{"GET /v1/builds/" + unknownBuild + "/logs", "", 404, "build_not_found"},
		{"GET /v1/builds/odd/logs?follow=true", "", 400, "id_invalid"},
		{"GET /v1/builds/" + unknownBuild + "/logs?after=-1", "", 400, "invalid"},
		{"GET /v1/builds/" + unknownBuild + "/logs?follow=maybe", "", 400, "invalid"},
		{"GET /v1/builds/" + unknownBuild + "/logs?tail=5", "", 400, "parameter_unknown"},
		{"PUT /v1/builds", "", 404, "route_unknown"},
		{"GET /v1/nothing", "", 404, "route_unknown"},
	} {
		method, path, _ := strings.Cut(tt.request, " ")
		w.call(method, path, tt.body).fails(tt.status, tt.code)
	}
}

// A refused build names every problem, with fields, and leaves nothing behind.
func TestRefusedBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.call("POST", "/v1/builds", `{"name":"Not A Name","recipe":["NONSENSE x"],"vcpus":-1}`)
	if a.status != 400 {
		t.Fatalf("POST = %d %s, want 400", a.status, a.body)
	}
	for _, want := range []string{"name", "NONSENSE", "vcpus"} {
		if !strings.Contains(string(a.body), want) {
			t.Errorf("error = %s, want %s in it", a.body, want)
		}
	}
	w.call("POST", "/v1/builds", `{"name":"x","base_template":"missing","recipe":["RUN true"]}`).fails(400, "base_not_found")
	if list := w.call("GET", "/v1/builds", ""); !strings.Contains(string(list.body), `"builds":[]`) {
		t.Errorf("builds = %s, want none", list.body)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const body = `{"name":"once","recipe":["RUN true"],"skip_pre_post":true}`
	var first, again, others object
	w.call("POST", "/v1/builds", body, "Idempotency-Key", "k1").ok(201, &first)
	w.call("POST", "/v1/builds", body, "Idempotency-Key", "k1").ok(200, &again)
	if first["id"] != again["id"] {
		t.Errorf("repeated create = %v, want the first build %v", again["id"], first["id"])
	}
	w.call("POST", "/v1/builds", strings.Replace(body, "once", "twice", 1), "Idempotency-Key", "k1").fails(409, "idempotency_mismatch")
	w.call("POST", "/v1/builds", body, "Idempotency-Key", strings.Repeat("k", 256)).fails(400, "idempotency_key_invalid")
	w.request("POST", "/v1/builds", strings.NewReader(body), "X-API-Key", w.admin, "Idempotency-Key", "k1").ok(201, &others)
	if others["id"] == first["id"] {
		t.Error("another team's idempotency key named this team's build")
	}
	req := connect.NewRequest(&lehrv1.CreateBuildRequest{Name: "once", Recipe: []string{"RUN true"}, SkipPrePost: true, IdempotencyKey: "k1"})
	res, err := w.client(w.user).Builds.Create(t.Context(), req)
	if err != nil || res.Msg.GetId() != first["id"] || res.Header().Get("Lehr-Replayed") != "true" {
		t.Errorf("Create over Connect = %v, %v, want the first build, replayed", res, err)
	}
}

func TestPagesOfBuilds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var want []string
	for i := range 5 {
		var b object
		w.call("POST", "/v1/builds", fmt.Sprintf(`{"name":"n%d","recipe":["RUN true"],"skip_pre_post":true}`, i)).ok(201, &b)
		want = append([]string{b["id"].(string)}, want...)
	}
	var got []string
	for cursor := ""; ; {
		var page struct {
			Builds     []struct{ ID string }
			NextCursor *string `json:"next_cursor"`
		}
		w.call("GET", "/v1/builds?limit=2&cursor="+cursor, "").ok(200, &page)
		for _, b := range page.Builds {
			got = append(got, b.ID)
		}
		if page.NextCursor == nil {
			break
		}
		cursor = *page.NextCursor
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages of two = %v, want %v", got, want)
	}
	var exact struct {
		NextCursor *string `json:"next_cursor"`
	}
	if w.call("GET", "/v1/builds?limit=5", "").ok(200, &exact); exact.NextCursor != nil {
		t.Errorf("a page that holds all has the cursor %q, want null", *exact.NextCursor)
	}
	if a := w.call("GET", "/v1/builds?name=n3", ""); strings.Count(string(a.body), `"team_id"`) != 1 {
		t.Errorf("builds of n3 = %s, want one", a.body)
	}
}

func TestTeamsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	build := w.build("secret")["id"].(string)
	box := w.sandbox()
	other := func(method, path, body string) answer {
		return w.request(method, path, strings.NewReader(body), "X-API-Key", w.admin)
	}
	other("GET", "/v1/builds/"+build, "").fails(404, "build_not_found")
	other("GET", "/v1/builds/"+build+"/logs", "").fails(404, "build_not_found")
	other("POST", "/v1/builds/"+build+"/cancel", "").fails(404, "build_not_found")
	other("GET", "/v1/templates/secret", "").fails(404, "template_not_found")
	other("DELETE", "/v1/templates/secret", "").fails(404, "template_not_found")
	other("POST", "/v1/builds", `{"name":"x","base_template":"secret","recipe":["RUN true"]}`).fails(400, "base_not_found")
	other("POST", "/v1/sandboxes", `{"template":"secret"}`).fails(404, "template_not_found")
	other("GET", "/v1/sandboxes/"+box, "").fails(404, "sandbox_not_found")
	other("DELETE", "/v1/sandboxes/"+box, "").fails(404, "sandbox_not_found")
	other("POST", "/v1/sandboxes/"+box+"/exec", `{"cmd":["id"]}`).fails(404, "sandbox_not_found")
	other("POST", "/v1/sandboxes/"+box+"/exec", `{"cmd":["id"],"id":"`+box+`"}`).fails(404, "sandbox_not_found")
	other("GET", "/v1/sandboxes/"+box+"/files?path=/etc/shadow", "").fails(404, "sandbox_not_found")
	other("PUT", "/v1/sandboxes/"+box+"/files?path=/x", "").fails(404, "sandbox_not_found")
	for _, path := range []string{"/v1/builds", "/v1/sandboxes?all=true", "/v1/templates"} {
		if a := other("GET", path, ""); strings.Contains(string(a.body), build) || strings.Contains(string(a.body), box) || strings.Contains(string(a.body), "secret") {
			t.Errorf("GET %s of another team = %s", path, a.body)
		}
	}
	w.call("GET", "/v1/sandboxes/"+box, "").ok(200, nil)
}

// A follower holds a line before its step has ended, and its stream ends by
// itself with the build.
func TestFollowNDJSON(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	w := newWorld(t, func(ctx context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		if err := out(lehr.StreamStdout, []byte("first <line>\n")); err != nil {
			return agent.Exit{}, err
		}
		select {
		case <-goOn:
		case <-ctx.Done():
			return agent.Exit{}, context.Cause(ctx)
		}
		return agent.Exit{}, out(lehr.StreamStdout, []byte("second\n"))
	})
	var b object
	w.call("POST", "/v1/builds", `{"name":"live","recipe":["RUN x"],"skip_pre_post":true}`).ok(201, &b)
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.url+"/v1/builds/"+b["id"].(string)+"/logs?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", w.user)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("Content-Type = %q, want application/x-ndjson", got)
	}
	var texts []string
	var last float64
	for sc := bufio.NewScanner(res.Body); sc.Scan(); {
		var l object
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatalf("line %q: %v", sc.Text(), err)
		}
		if l["seq"].(float64) != last+1 {
			t.Errorf("seq %v follows %v", l["seq"], last)
		}
		last = l["seq"].(float64)
		texts = append(texts, l["text"].(string))
		if l["text"] == "first <line>" {
			close(goOn)
		}
	}
	if !slices.Contains(texts, "second") {
		t.Errorf("log = %q, want second in it", texts)
	}
	rest := w.call("GET", fmt.Sprintf("/v1/builds/%s/logs?after=%v", b["id"], last-1), "")
	if rest.ok(200, nil); bytes.Count(rest.body, []byte("\n")) != 1 {
		t.Errorf("log after %v = %s, want one line", last-1, rest.body)
	}
	if end := w.call("GET", fmt.Sprintf("/v1/builds/%s/logs?after=%v", b["id"], last), ""); end.status != 200 || len(end.body) != 0 {
		t.Errorf("log after the end = %d %q, want 200 and nothing", end.status, end.body)
	}
}

func TestBuildsOverConnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	c := w.client(w.user)
	res, err := c.Builds.Create(t.Context(), connect.NewRequest(&lehrv1.CreateBuildRequest{Name: "web", Recipe: []string{"RUN true"}, SkipPrePost: true}))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.Builds.Logs(t.Context(), connect.NewRequest(&lehrv1.BuildLogsRequest{Id: res.Msg.GetId(), Follow: true}))
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for stream.Receive() {
		lines++
	}
	if stream.Err() != nil || lines == 0 {
		t.Errorf("the log has %d lines and ended with %v", lines, stream.Err())
	}
	got, err := c.Builds.Get(t.Context(), connect.NewRequest(&lehrv1.GetBuildRequest{Id: res.Msg.GetId()}))
	if err != nil || got.Msg.GetStatus() != "success" {
		t.Errorf("Get() = %v, %v, want success", got, err)
	}
	for _, tt := range []struct {
		call func() error
		code connect.Code
		want string
	}{
		{func() error {
			_, err := c.Builds.Get(t.Context(), connect.NewRequest(&lehrv1.GetBuildRequest{Id: "odd"}))
			return err
		}, connect.CodeInvalidArgument, "id_invalid"},
		{func() error {
			_, err := c.Builds.Get(t.Context(), connect.NewRequest(&lehrv1.GetBuildRequest{Id: unknownBuild}))
			return err
		}, connect.CodeNotFound, "build_not_found"},
		{func() error {
			_, err := c.Builds.Cancel(t.Context(), connect.NewRequest(&lehrv1.CancelBuildRequest{Id: res.Msg.GetId()}))
			return err
		}, connect.CodeFailedPrecondition, "build_finished"},
		{func() error {
			s, err := c.Builds.Logs(t.Context(), connect.NewRequest(&lehrv1.BuildLogsRequest{Id: unknownBuild}))
			if err == nil && !s.Receive() {
				err = s.Err()
			}
			return err
		}, connect.CodeNotFound, "build_not_found"},
	} {
		if err := tt.call(); connect.CodeOf(err) != tt.code || sdk.ErrorDetail(err).GetCode() != tt.want {
			t.Errorf("error = %v, want %v with %s", err, tt.code, tt.want)
		}
	}
}
