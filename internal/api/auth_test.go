package api_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/sdk"
)

func TestAuthentication(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	secret := strings.TrimPrefix(w.user, "lehr_")
	for name, tt := range map[string]struct {
		headers []string
		code    string // empty: let in
	}{
		"header":              {[]string{"X-API-Key", w.user}, ""},
		"bearer":              {[]string{"Authorization", "Bearer " + w.user}, ""},
		"bearer in any case":  {[]string{"Authorization", "bearer  " + w.user}, ""},
		"E2B's prefix":        {[]string{"X-API-Key", "e2b_" + secret}, ""},
		"none":                {nil, "key_missing"},
		"another scheme":      {[]string{"Authorization", "Basic " + w.user}, "key_missing"},
		"no prefix":           {[]string{"X-API-Key", secret}, "key_invalid"},
		"another prefix":      {[]string{"X-API-Key", "sk_" + secret}, "key_invalid"},
		"upper case":          {[]string{"X-API-Key", "lehr_" + strings.ToUpper(secret)}, "key_invalid"},
		"too short":           {[]string{"X-API-Key", w.user[:len(w.user)-1]}, "key_invalid"},
		"too long":            {[]string{"X-API-Key", w.user + "0"}, "key_invalid"},
		"unknown":             {[]string{"X-API-Key", "lehr_" + strings.Repeat("0", 40)}, "key_invalid"},
		"bad one before good": {[]string{"X-API-Key", "x", "Authorization", "Bearer " + w.user}, "key_invalid"},
	} {
		a := w.request("GET", "/v1/builds", nil, tt.headers...)
		if tt.code == "" {
			a.ok(200, nil)
			continue
		}
		t.Log(name)
		a.fails(401, tt.code)
	}
}

// Every route but the probes wants a key, also one that does not exist.
func TestEveryRouteWantsAKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, route := range []string{
		"POST /v1/builds", "GET /v1/builds", "GET /v1/builds/x", "POST /v1/builds/x/cancel", "GET /v1/builds/x/logs",
		"GET /v1/templates", "GET /v1/templates/x", "DELETE /v1/templates/x", "POST /v1/templates/import",
		"POST /v1/sandboxes", "GET /v1/sandboxes", "GET /v1/sandboxes/x", "DELETE /v1/sandboxes/x", "POST /v1/sandboxes/x/exec",
		"GET /v1/sandboxes/x/files", "PUT /v1/sandboxes/x/files", "POST /v1/keys", "GET /v1/keys", "DELETE /v1/keys/x",
		"GET /", "GET /v1/nothing", "POST /healthz", "GET //v1/builds/..%2fkeys",
	} {
		method, path, _ := strings.Cut(route, " ")
		w.request(method, path, nil).fails(401, "key_missing")
	}
	for _, procedure := range []string{"BuildService/Create", "TemplateService/Get", "SandboxService/List", "KeyService/List"} {
		a := w.request("POST", "/lehr.v1."+procedure, strings.NewReader("{}"), "Content-Type", "application/json")
		if a.status != http.StatusUnauthorized || !strings.Contains(string(a.body), `"code":"unauthenticated"`) {
			t.Errorf("%s = %d %s, want 401 as Connect says it", procedure, a.status, a.body)
		}
	}
	_, err := w.client("").Builds.List(t.Context(), connect.NewRequest(&lehrv1.ListBuildsRequest{}))
	if connect.CodeOf(err) != connect.CodeUnauthenticated || sdk.ErrorDetail(err).GetCode() != "key_missing" {
		t.Errorf("List() = %v, want unauthenticated with key_missing", err)
	}
}

func TestProbesNeedNoKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.request("GET", "/healthz", nil).ok(200, nil)
	w.request("GET", "/readyz", nil).fails(503, "not_ready")
	w.control.SetReady(true)
	w.request("GET", "/readyz", nil).ok(200, nil)
	a := w.request("GET", "/metrics", nil)
	if a.ok(200, nil); !strings.Contains(string(a.body), "go_goroutines") {
		t.Errorf("GET /metrics = %.200s, want the process's figures", a.body)
	}
}

func TestForeignHostIsRefusedBeforeTheKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.call("GET", "/v1/builds", "", "Host", "rebound.example").fails(403, "host_refused")
	w.request("GET", "/metrics", nil, "Host", "rebound.example").fails(403, "host_refused")
	w.call("GET", "/v1/builds", "", "Host", "LEHR.test:5347").ok(200, nil)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	as := func(key, method, path, body string) answer {
		return w.request(method, path, strings.NewReader(body), "X-API-Key", key)
	}
	for _, route := range []string{"POST /v1/keys", "GET /v1/keys", "DELETE /v1/keys/" + unknownKey} {
		method, path, _ := strings.Cut(route, " ")
		as(w.user, method, path, "").fails(403, "admin_needed")
	}
	var made struct{ ID, Name, Key string }
	as(w.admin, "POST", "/v1/keys", `{"name":"ci","team":"users"}`).ok(201, &made)
	if made.Name != "ci" || !strings.HasPrefix(made.Key, "lehr_") || len(made.Key) != 45 {
		t.Errorf("created key = %+v, want ci with lehr_ and 40 digits", made)
	}
	as(made.Key, "GET", "/v1/builds", "").ok(200, nil)
	as(made.Key, "GET", "/v1/keys", "").fails(403, "admin_needed")

	as(w.admin, "POST", "/v1/keys", `{"name":""}`).fails(400, "invalid")
	as(w.admin, "POST", "/v1/keys", `{"name":"`+strings.Repeat("x", 101)+`"}`).fails(400, "invalid")
	as(w.admin, "POST", "/v1/keys", `{"name":"a\u001b[2J"}`).fails(400, "invalid")
	as(w.admin, "POST", "/v1/keys", `{"name":"x","team":"Not A Team"}`).fails(400, "invalid")
	as(w.admin, "POST", "/v1/keys", `{"name":"x","team":"a:b"}`).fails(400, "invalid")
	as(w.admin, "DELETE", "/v1/keys/nonsense", "").fails(400, "id_invalid")
	as(w.admin, "DELETE", "/v1/keys/"+unknownKey, "").fails(404, "key_not_found")
	as(w.admin, "DELETE", "/v1/keys/"+made.ID, "").fails(404, "key_not_found") // of another team
}

func TestRevokedKeyIsUselessAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	as := func(key, method, path, body string) answer {
		return w.request(method, path, strings.NewReader(body), "X-API-Key", key)
	}
	var made struct{ ID, Key string }
	as(w.admin, "POST", "/v1/keys", `{"name":"second","admin":true}`).ok(201, &made)
	as(made.Key, "GET", "/v1/keys", "").ok(200, nil)
	var revoked object
	as(w.admin, "DELETE", "/v1/keys/"+made.ID, "").ok(200, &revoked)
	if revoked["revoked_at"] == nil {
		t.Errorf("revoked key = %v, want revoked_at", revoked)
	}
	as(made.Key, "GET", "/v1/keys", "").fails(401, "key_invalid")
	as("e2b_"+strings.TrimPrefix(made.Key, "lehr_"), "GET", "/v1/builds", "").fails(401, "key_invalid")
	as(w.admin, "DELETE", "/v1/keys/"+made.ID, "").ok(200, nil)
	if list := string(as(w.admin, "GET", "/v1/keys", "").body); strings.Contains(list, strings.TrimPrefix(made.Key, "lehr_")) {
		t.Errorf("the list of keys holds a secret: %s", list)
	}
}

// What a thief of the database file gets must not let him in.
func TestSecretIsNowhereInTheDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var made struct{ Key string }
	w.request("POST", "/v1/keys", strings.NewReader(`{"name":"x"}`), "X-API-Key", w.admin).ok(201, &made)
	files, err := filepath.Glob(filepath.Join(w.folder, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("files of the store = %v, %v", files, err)
	}
	sawPrefix := false
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		sawPrefix = sawPrefix || strings.Contains(string(b), made.Key[:11])
		for _, secret := range []string{w.admin, w.user, made.Key} {
			if strings.Contains(string(b), strings.TrimPrefix(secret, "lehr_")) {
				t.Errorf("%s holds a secret", f)
			}
		}
	}
	if !sawPrefix {
		t.Error("the shown prefix of the key is in no file: the check is blind")
	}
}
