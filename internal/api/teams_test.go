package api_test

import (
	"strconv"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// asAdmin is call with the administrator's key.
func (w *world) asAdmin(method, path, body string) answer {
	w.t.Helper()
	return w.call(method, path, body, "X-API-Key", w.admin)
}

func TestTeamLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.sandbox()
	var team object
	w.asAdmin("PUT", "/v1/teams/users/limits", `{"sandboxes":2,"pending_builds":0}`).ok(200, &team)
	limits, _ := team["limits"].(map[string]any)
	use, _ := team["usage"].(map[string]any)
	if limits["sandboxes"] != 2.0 || use["sandboxes"] != 1.0 {
		t.Errorf("team = %v, want a limit of 2 and 1 in use", team)
	}
	w.sandbox()
	a := w.call("POST", "/v1/sandboxes", `{"template":"minimal"}`)
	a.fails(429, "limit_sandboxes")
	if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < 1 {
		t.Errorf("Retry-After = %q, want whole seconds", a.header.Get("Retry-After"))
	}
	_, err := w.client(w.user).Sandboxes.Create(t.Context(), connect.NewRequest(&lehrv1.CreateSandboxRequest{Template: "minimal"}))
	ce := new(connect.Error)
	if connect.CodeOf(err) != connect.CodeResourceExhausted || !asConnect(err, &ce) || ce.Meta().Get("Retry-After") == "" {
		t.Errorf("a create at the limit over Connect = %v, want resource_exhausted and Retry-After", err)
	}
	w.call("GET", "/v1/team", "").ok(200, &team)
	if team["name"] != "users" {
		t.Errorf("GET /v1/team = %v, want the caller's own", team)
	}
	w.call("GET", "/v1/teams/users", "").ok(200, nil)
	w.asAdmin("PUT", "/v1/teams/users/limits", `{}`).ok(200, nil)
	w.sandbox()

	w.asAdmin("PUT", "/v1/teams/fresh/limits", `{"running_builds":1}`).ok(200, &team)
	if team["name"] != "fresh" {
		t.Errorf("limits of a new team = %v, want it made", team)
	}
}

func asConnect(err error, target **connect.Error) bool {
	ce, ok := err.(*connect.Error) //nolint:errorlint // clients return it unwrapped
	*target = ce
	return ok
}

func TestTeamRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.call("GET", "/v1/teams", "").fails(403, "admin_needed")
	w.call("GET", "/v1/teams/admins", "").fails(403, "admin_needed")
	w.call("GET", "/v1/teams/nobody", "").fails(403, "admin_needed")
	w.call("PUT", "/v1/teams/users/limits", `{}`).fails(403, "admin_needed")
	w.asAdmin("GET", "/v1/teams/nobody", "").fails(404, "team_not_found")
	w.asAdmin("GET", "/v1/teams/A", "").fails(400, "invalid")
	w.asAdmin("PUT", "/v1/teams/A/limits", `{}`).fails(400, "invalid")
	for _, body := range []string{`{"sandboxes":-1}`, `{"vcpus":1000001}`, `{"creates_per_minute":2000000}`} {
		w.asAdmin("PUT", "/v1/teams/users/limits", body).fails(400, "limit_invalid")
	}
	w.asAdmin("PUT", "/v1/teams/users/limits", `{"sandboxs":1}`).fails(400, "body_invalid")
	w.asAdmin("GET", "/v1/teams?cursor=users", "").fails(400, "cursor_invalid")
	w.asAdmin("GET", "/v1/teams?cursor="+unknownBuild, "").fails(400, "cursor_invalid")
	var page object
	w.asAdmin("GET", "/v1/teams?limit=2", "").ok(200, &page)
	next, _ := page["next_cursor"].(string)
	w.asAdmin("GET", "/v1/teams?limit=2&cursor="+next, "").ok(200, &page)
	if teams, _ := page["teams"].([]any); len(teams) != 2 || page["next_cursor"] != nil {
		t.Errorf("the second page of teams = %v, want the last two", page)
	}
}

func TestKeysOfAnotherTeam(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var made, page object
	w.asAdmin("POST", "/v1/keys", `{"name":"ci","team":"robots"}`).ok(201, &made)
	id := made["id"].(string)
	w.asAdmin("GET", "/v1/keys?team=robots", "").ok(200, &page)
	if got := ids(page, "keys"); len(got) != 1 || got[0] != id {
		t.Errorf("keys of robots = %v, want %s", got, id)
	}
	w.asAdmin("DELETE", "/v1/keys/"+id, "").fails(404, "key_not_found")
	w.call("DELETE", "/v1/keys/"+id+"?team=robots", "").fails(403, "admin_needed")
	w.call("GET", "/v1/keys?team=robots", "").fails(403, "admin_needed")
	w.asAdmin("GET", "/v1/keys?team=nobody", "").fails(404, "team_not_found")
	w.asAdmin("DELETE", "/v1/keys/"+id+"?team=robots", "").ok(200, nil)
	w.call("GET", "/v1/team", "", "X-API-Key", made["key"].(string)).fails(401, "key_invalid")
	w.asAdmin("DELETE", "/v1/keys/"+unknownKey, "").fails(404, "key_not_found")
}
