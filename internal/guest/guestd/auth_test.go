package guestd_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/guestclient"
	"github.com/lehr-dev/lehr/internal/guest/initd"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// call makes a plain HTTP call and returns the answer with its body read.
func (d *daemon) call(t *testing.T, method, target string, header map[string]string, body string) (*http.Response, string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://sandbox"+target, strings.NewReader(body))
	must(t, err)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp, string(text)
}

func (d *daemon) status(t *testing.T, method, target string, header map[string]string) int {
	t.Helper()
	body := "{}"
	if method == http.MethodGet {
		body = ""
	}
	resp, _ := d.call(t, method, target, header, body)
	return resp.StatusCode
}

func asJSON(key, value string) map[string]string {
	return map[string]string{"Content-Type": "application/json", key: value}
}

// Every route with every credential, before and after /init, and after a
// restore that brought another operator.
func TestAccess(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	credentials := map[string]map[string]string{
		"nobody":          asJSON("X", ""),
		"operator":        asJSON(wire.HeaderOperator, secret),
		"wrong operator":  asJSON(wire.HeaderOperator, "guess"),
		"next operator":   asJSON(wire.HeaderOperator, "next"),
		"user":            asJSON(wire.HeaderToken, "token"),
		"wrong user":      asJSON(wire.HeaderToken, "guess"),
		"user's operator": asJSON(wire.HeaderOperator, "token"),
	}
	operatorCalls := []string{"POST /init", "POST /sync", "POST /end-processes"}
	userCalls := []string{
		"GET /envs", "GET /metrics", "GET /files?path=/etc/hostname", "POST /process.Process/List",
		"POST /filesystem.Filesystem/ListDir",
	}
	check := func(state string, admitted map[string]bool, calls []string) {
		t.Helper()
		for name, header := range credentials {
			for _, c := range calls {
				method, target, _ := strings.Cut(c, " ")
				got := d.status(t, method, target, header)
				if ok := got >= 200 && got < 300; ok != admitted[name] || (!ok && got != http.StatusUnauthorized) {
					t.Errorf("%s: %s as %s = %d, want admitted %t", state, c, name, got, admitted[name])
				}
			}
		}
		if got := d.status(t, "GET", "/health", nil); got != http.StatusNoContent {
			t.Errorf("%s: GET /health = %d, want 204", state, got)
		}
	}
	check("before init", map[string]bool{"operator": true}, userCalls)
	check("before init", map[string]bool{"operator": true}, operatorCalls)
	must(t, d.client.Init(t.Context(), guestclient.InitRequest{AccessToken: "token", SandboxID: "a"}))
	check("after init", map[string]bool{"operator": true, "user": true}, userCalls)
	check("after init", map[string]bool{"operator": true}, operatorCalls[1:])
	d.operator(t, "next")
	check("after restore", map[string]bool{"next operator": true}, userCalls)
	check("after restore", map[string]bool{"next operator": true}, operatorCalls)
}

// A sandbox without an operator's digest, or with nonsense for one, serves
// nobody.
func TestAccessWithoutOperator(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	for _, env := range []string{"", wire.EnvOperatorSHA256 + "=\x00", wire.EnvOperatorSHA256 + "=zz\x00"} {
		rewrite(t, d.spec, env)
		for _, header := range []map[string]string{
			asJSON(wire.HeaderOperator, secret), asJSON(wire.HeaderOperator, ""), asJSON(wire.HeaderToken, "token"),
		} {
			if got := d.status(t, "GET", "/envs", header); got != http.StatusUnauthorized {
				t.Errorf("GET /envs with %q, %v = %d, want 401", env, header, got)
			}
		}
	}
}

func TestSignedURL(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	path := t.TempDir() + "/signed"
	sign := func(operation, user, expiry string) string {
		text := path + ":" + operation + ":" + user + ":token"
		q := url.Values{"path": {path}}
		if user != "" {
			q.Set("username", user)
		}
		if expiry != "" {
			text += ":" + expiry
			q.Set("signature_expiration", expiry)
		}
		sum := sha256.Sum256([]byte(text))
		q.Set("signature", "v1_"+base64.RawStdEncoding.EncodeToString(sum[:]))
		return "/files?" + q.Encode()
	}
	at := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	tests := []struct {
		name, method, target string
		status               int
		text                 string
	}{
		{"write", "POST", sign("write", "root", ""), 200, "signed"},
		{"read", "GET", sign("read", "", ""), 200, "{}"},
		{"read in time", "GET", sign("read", "root", at(time.Hour)), 200, "{}"},
		{"read too late", "GET", sign("read", "root", at(-time.Hour)), 401, "signature is already expired"},
		{"read with a write's", "GET", sign("write", "root", ""), 401, "invalid signature"},
		{"other path", "GET", strings.Replace(sign("read", "", ""), "signed&", "other&", 1), 401, "invalid signature"},
		{"other user", "GET", sign("read", "", "") + "&username=root", 401, "invalid signature"},
		{"without expiry", "GET", strings.Replace(sign("read", "", at(time.Hour)), "signature_expiration", "x", 1), 401, "invalid signature"},
		{"longer", "GET", strings.Replace(sign("read", "", at(time.Hour)), "expiration=1", "expiration=9", 1), 401, "invalid signature"},
	}
	for _, tt := range tests {
		body := ""
		if tt.method == "POST" {
			body = "{}"
		}
		resp, text := d.call(t, tt.method, tt.target, nil, body)
		if resp.StatusCode != tt.status || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %s %s = %d %s, want %d %s", tt.name, tt.method, tt.target, resp.StatusCode, text, tt.status, tt.text)
		}
	}
}

// A signed URL works as the user it was signed for, whoever else a header names.
func TestSignedURLKeepsItsUser(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	private := t.TempDir() + "/private"
	must(t, os.WriteFile(private, []byte("root's"), 0o600))
	sum := sha256.Sum256([]byte(private + ":read:nobody:token"))
	q := url.Values{"path": {private}, "username": {"nobody"}, "signature": {"v1_" + base64.RawStdEncoding.EncodeToString(sum[:])}}
	for name, header := range map[string]map[string]string{
		"nothing": nil, "our header": {wire.HeaderUser: "root"}, "credentials": {"Authorization": "Basic cm9vdDo="},
	} {
		if resp, text := d.call(t, "GET", "/files?"+q.Encode(), header, ""); resp.StatusCode != http.StatusForbidden {
			t.Errorf("nobody's URL with %s = %d %s, want 403", name, resp.StatusCode, text)
		}
	}
}

// The last /init wins as a whole; the same one again changes nothing.
func TestInit(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	first := guestclient.InitRequest{
		AccessToken: "t1", SandboxID: "a", Hostname: "one", DefaultUser: "nobody", DefaultWorkdir: "/",
		EnvVars: map[string]string{"A": "1", "PATH": "/bin:/usr/bin"},
	}
	must(t, d.client.Init(t.Context(), first))
	must(t, d.client.Init(t.Context(), first))
	env, err := d.client.Env(t.Context())
	must(t, err)
	if diff := cmp.Diff(map[string]string{"A": "1", "PATH": "/bin:/usr/bin", "HOME": "/nonexistent"}, env); diff != "" {
		t.Errorf("Env (-want +got):\n%s", diff)
	}
	must(t, d.client.Init(t.Context(), guestclient.InitRequest{SandboxID: "b", MachineID: strings.Repeat("ab", 16)}))
	env, err = d.client.Env(t.Context())
	must(t, err)
	if env["A"] != "" || env["HOME"] != "/root" {
		t.Errorf("Env after a second init = %v, want nothing of the first", env)
	}
	if got := d.status(t, "GET", "/envs", asJSON(wire.HeaderToken, "t1")); got != http.StatusUnauthorized {
		t.Errorf("GET /envs with the first token = %d, want 401", got)
	}
	want := []initd.Identity{
		{Hostname: "one", MachineID: initd.NewMachineID("a"), BootID: initd.NewBootID("a")},
		{Hostname: "one", MachineID: initd.NewMachineID("a"), BootID: initd.NewBootID("a")},
		{MachineID: strings.Repeat("ab", 16), BootID: initd.NewBootID("b")},
	}
	if diff := cmp.Diff(want, d.system.identities()); diff != "" {
		t.Errorf("identities applied (-want +got):\n%s", diff)
	}
}

func TestInitRefuses(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	for _, body := range []string{
		"", "[]", `{"machineId":"x"}`, `{"hostname":"a b"}`, `{"hostname":"a\nb"}`, `{"defaultWorkdir":"/a\u0000b"}`,
		`{"hosts":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		resp, text := d.call(t, "POST", "/init", asJSON(wire.HeaderOperator, secret), body)
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("POST /init %.40q = %d %s, want 400", body, resp.StatusCode, text)
		}
	}
	if got := d.system.identities(); len(got) != 0 {
		t.Errorf("identities applied = %v, want none", got)
	}
}

// An /init for another sandbox drops the connections of the one before, and
// with them the commands that were not to outlive them.
func TestInitDropsConnections(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	_, err := d.client.Exec(t.Context(), sh("echo ready; exec sleep 1000"), func(guestStream, []byte) error {
		return d.as(secret).Init(t.Context(), guestclient.InitRequest{SandboxID: "other", DefaultWorkdir: "/"})
	})
	if !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Exec across an init = %v (%s), want unavailable", err, errs.KindOf(err))
	}
}
