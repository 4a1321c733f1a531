package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lehr-dev/lehr/test/world"
)

// response is an answer with its headers.
type response struct {
	status int
	header http.Header
	body   []byte
}

// send is call with the headers of the answer.
func send(t *testing.T, w *world.World, target, body string, header ...string) response {
	t.Helper()
	method, path, _ := strings.Cut(target, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", w.Key())
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s = %v", target, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s = %v", target, err)
	}
	return response{res.StatusCode, res.Header, b}
}

// into decodes an answer that must have the status.
func (r response) into(t *testing.T, status int, v any) {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d %s, want %d", r.status, r.body, status)
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
}

// limited is what these tests read of a sandbox.
type limited struct {
	ID        string            `json:"id"`
	State     string            `json:"state"`
	Reason    *string           `json:"reason"`
	ExpiresAt *string           `json:"expires_at"`
	Metadata  map[string]string `json:"metadata"`
}

// listed is a page of sandboxes.
type listed struct {
	Sandboxes []limited `json:"sandboxes"`
}

// TestLimits has one platform for what the API promises about creates, filters,
// time-to-live and limits of teams.
func TestLimits(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	t.Run("same key", func(t *testing.T) { testSameKey(t, w.In(t)) })
	t.Run("no wait", func(t *testing.T) { testNoWait(t, w.In(t)) })
	t.Run("filters", func(t *testing.T) { testFilters(t, w.In(t)) })
	t.Run("sandboxes", func(t *testing.T) { testSandboxLimit(t, w.In(t)) })
	t.Run("creates", func(t *testing.T) { testCreateLimit(t, w.In(t)) })
	t.Run("builds", func(t *testing.T) { testBuildLimits(t, w.In(t)) })
	t.Run("timeout", func(t *testing.T) { testTimeout(t, w.In(t)) })
	testTTLOverKill(t, w)
}

// testSameKey asks for one sandbox twenty times at once.
func testSameKey(t *testing.T, w *world.World) {
	const callers = 20
	var group sync.WaitGroup
	answers := make([]response, callers)
	for i := range callers {
		group.Go(func() {
			answers[i] = send(t, w, "POST /v1/sandboxes", `{"template":"minimal","metadata":{"once":"yes"}}`, "Idempotency-Key", "once")
		})
	}
	group.Wait()
	created, found := 0, map[string]bool{}
	for _, a := range answers {
		var s limited
		if err := json.Unmarshal(a.body, &s); err != nil || s.State != "running" {
			t.Errorf("a create = %d %s, want a running sandbox", a.status, a.body)
		}
		found[s.ID] = true
		if a.status == http.StatusCreated {
			created++
		} else if a.header.Get("Lehr-Replayed") != "true" {
			t.Errorf("a repeated create has no Lehr-Replayed: %v", a.header)
		}
	}
	if created != 1 || len(found) != 1 {
		t.Errorf("%d creates gave %d sandboxes, %d as new, want one", callers, len(found), created)
	}
	var page listed
	send(t, w, "GET /v1/sandboxes?metadata=once=yes", "").into(t, 200, &page)
	if len(page.Sandboxes) != 1 {
		t.Errorf("%d sandboxes live, want one", len(page.Sandboxes))
	}
	if a := send(t, w, "POST /v1/sandboxes", `{"template":"minimal"}`, "Idempotency-Key", "once"); a.status != http.StatusConflict {
		t.Errorf("the key with another request = %d %s, want 409", a.status, a.body)
	}
	kill(t, w, page)
}

// kill ends the sandboxes of a page.
func kill(t *testing.T, w *world.World, page listed) {
	t.Helper()
	for _, s := range page.Sandboxes {
		send(t, w, "DELETE /v1/sandboxes/"+s.ID, "").into(t, 200, &s)
	}
}

func testNoWait(t *testing.T, w *world.World) {
	var s limited
	send(t, w, "POST /v1/sandboxes?wait=false", `{"template":"minimal"}`, "Idempotency-Key", "soon").into(t, 202, &s)
	if s.State != "creating" {
		t.Errorf("state = %s, want creating", s.State)
	}
	var again limited
	send(t, w, "POST /v1/sandboxes", `{"template":"minimal"}`, "Idempotency-Key", "soon").into(t, 200, &again)
	if again.ID != s.ID || again.State != "running" {
		t.Errorf("the key once more, waiting = %+v, want %s running", again, s.ID)
	}
	kill(t, w, listed{[]limited{again}})
}

func testFilters(t *testing.T, w *world.World) {
	var all listed
	for _, m := range []string{`{"job":"1","stage":"a"}`, `{"job":"1","stage":"b"}`, `{"job":"2"}`} {
		var s limited
		send(t, w, "POST /v1/sandboxes", `{"template":"minimal","metadata":`+m+`}`).into(t, 201, &s)
		all.Sandboxes = append(all.Sandboxes, s)
	}
	for query, want := range map[string]int{
		"metadata=job=1": 2, "metadata=job=1&metadata=stage=b": 1, "metadata=job=3": 0,
		"metadata=job=1&state=running&template=minimal": 2, "metadata=job=1&state=killed": 0, "metadata=job=1&template=other": 0,
	} {
		var page listed
		send(t, w, "GET /v1/sandboxes?"+query, "").into(t, 200, &page)
		if len(page.Sandboxes) != want {
			t.Errorf("GET /v1/sandboxes?%s = %+v, want %d", query, page.Sandboxes, want)
		}
	}
	kill(t, w, all)
	var page listed
	send(t, w, "GET /v1/sandboxes?metadata=job=1&state=killed", "").into(t, 200, &page)
	if len(page.Sandboxes) != 2 {
		t.Errorf("killed with job=1 = %+v, want 2", page.Sandboxes)
	}
}

// limit sets the limits of the key's own team.
func limit(t *testing.T, w *world.World, limits string) {
	t.Helper()
	var team struct{ Name string }
	send(t, w, "GET /v1/team", "").into(t, 200, &team)
	send(t, w, "PUT /v1/teams/"+team.Name+"/limits", limits).into(t, 200, &team)
}

// refused checks that an answer is 429, says when to come again, and names the
// limit.
func refused(t *testing.T, a response, code string) {
	t.Helper()
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if a.status != http.StatusTooManyRequests || err != nil || seconds < 1 || !strings.Contains(string(a.body), `"code":"`+code+`"`) {
		t.Errorf("answer = %d %s, Retry-After %q, want 429 %s and seconds", a.status, a.body, a.header.Get("Retry-After"), code)
	}
}

// testSandboxLimit makes ten at once where three may live.
func testSandboxLimit(t *testing.T, w *world.World) {
	limit(t, w, `{"sandboxes":3}`)
	defer limit(t, w, `{}`)
	var group sync.WaitGroup
	answers := make([]response, 10)
	for i := range answers {
		group.Go(func() { answers[i] = send(t, w, "POST /v1/sandboxes", `{"template":"minimal"}`) })
	}
	group.Wait()
	var made listed
	for _, a := range answers {
		if a.status != http.StatusCreated {
			refused(t, a, "limit_sandboxes")
			continue
		}
		var s limited
		a.into(t, 201, &s)
		made.Sandboxes = append(made.Sandboxes, s)
	}
	if len(made.Sandboxes) != 3 {
		t.Errorf("%d sandboxes passed a limit of 3", len(made.Sandboxes))
	}
	limit(t, w, `{"sandboxes":1}`)
	var page listed
	send(t, w, "GET /v1/sandboxes", "").into(t, 200, &page)
	if len(page.Sandboxes) != 3 {
		t.Errorf("%d sandboxes live after the limit was lowered, want 3", len(page.Sandboxes))
	}
	kill(t, w, made)
}

func testCreateLimit(t *testing.T, w *world.World) {
	limit(t, w, `{"creates_per_minute":2}`)
	defer limit(t, w, `{}`)
	var made listed
	for range 2 {
		var s limited
		send(t, w, "POST /v1/sandboxes", `{"template":"minimal"}`).into(t, 201, &s)
		made.Sandboxes = append(made.Sandboxes, s)
	}
	refused(t, send(t, w, "POST /v1/sandboxes", `{"template":"minimal"}`), "limit_creates_per_minute")
	refused(t, send(t, w, "POST /v1/builds", `{"name":"slow","recipe":["RUN true"]}`), "limit_creates_per_minute")
	kill(t, w, made)
}

// testBuildLimits fills the queue of a team, and asks for more than the machine
// has.
func testBuildLimits(t *testing.T, w *world.World) {
	limit(t, w, `{"running_builds":1,"pending_builds":2}`)
	defer limit(t, w, `{}`)
	var running built
	slow := `{"name":"slow","recipe":["RUN sleep 600"],"skip_pre_post":true}`
	send(t, w, "POST /v1/builds", slow).into(t, 201, &running)
	awaitStatus(t, w, running.ID, "running")
	builds := []built{running}
	for range 2 {
		var b built
		send(t, w, "POST /v1/builds", slow).into(t, 201, &b)
		builds = append(builds, b)
	}
	refused(t, send(t, w, "POST /v1/builds", slow), "limit_pending_builds")
	for _, b := range builds[1:] {
		if got := buildOf(t, w, b.ID); got.Status != "pending" {
			t.Errorf("build %s beyond running_builds is %s, want pending", b.ID, got.Status)
		}
	}
	for i := len(builds) - 1; i >= 0; i-- {
		send(t, w, "POST /v1/builds/"+builds[i].ID+"/cancel", "").into(t, 200, &running)
	}
	var huge built
	send(t, w, "POST /v1/builds", `{"name":"huge","recipe":["RUN true"],"memory_mb":524288}`).into(t, 201, &huge)
	got := awaitStatus(t, w, huge.ID, "failed")
	if got.Error == nil || got.Error.Code != "too_large" || got.Error.Fault != "user" {
		t.Errorf("a build of 512 GB = %+v, want too_large", got.Error)
	}
}

func buildOf(t *testing.T, w *world.World, id string) built {
	t.Helper()
	var b built
	send(t, w, "GET /v1/builds/"+id, "").into(t, 200, &b)
	return b
}

// awaitStatus follows the build's log, which ends with it, or asks until it
// runs.
func awaitStatus(t *testing.T, w *world.World, id, status string) built {
	t.Helper()
	for {
		b := buildOf(t, w, id)
		switch b.Status {
		case status:
			return b
		case "pending", "running":
		default:
			t.Fatalf("build %s is %s, want %s", id, b.Status, status)
		}
		if status != "running" {
			send(t, w, "GET /v1/builds/"+id+"/logs?follow=true", "")
		}
	}
}

func testTimeout(t *testing.T, w *world.World) {
	var s limited
	send(t, w, "POST /v1/sandboxes", `{"template":"minimal","timeout":"10m"}`).into(t, 201, &s)
	send(t, w, "POST /v1/sandboxes/"+s.ID+"/timeout", `{"timeout":"1h"}`).into(t, 200, &s)
	first := *s.ExpiresAt
	send(t, w, "POST /v1/sandboxes/"+s.ID+"/timeout", `{"timeout":"0"}`).into(t, 200, &s)
	if s.ExpiresAt != nil {
		t.Errorf("expires_at = %s after a timeout of 0, want null", *s.ExpiresAt)
	}
	send(t, w, "POST /v1/sandboxes/"+s.ID+"/timeout", `{"timeout":"1s"}`).into(t, 200, &s)
	if s.ExpiresAt == nil || *s.ExpiresAt >= first {
		t.Errorf("expires_at = %v, want before %s", s.ExpiresAt, first)
	}
	if b := awaitEnd(t, w, s.ID); b.State != "killed" || reason(b) != "ttl" {
		t.Errorf("sandbox = %s (%s), want killed (ttl)", b.State, reason(b))
	}
	if a := send(t, w, "POST /v1/sandboxes/"+s.ID+"/timeout", `{"timeout":"1h"}`); a.status != http.StatusConflict {
		t.Errorf("a timeout of an ended sandbox = %d %s, want 409", a.status, a.body)
	}
}

// testTTLOverKill has the control plane and the agent killed before the end of
// a time-to-live: the next ones keep it, and say so.
func testTTLOverKill(t *testing.T, w *world.World) {
	var s limited
	send(t, w, "POST /v1/sandboxes", `{"template":"minimal","timeout":"2s"}`).into(t, 201, &s)
	w.Kill9()
	w.Up()
	if b := awaitEnd(t, w, s.ID); b.State != "killed" || reason(b) != "ttl" {
		t.Errorf("sandbox = %s (%s), want killed (ttl)", b.State, reason(b))
	}
}
