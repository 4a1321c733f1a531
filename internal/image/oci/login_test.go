package oci

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// gate is the login of a registry: basic, or by a token of the realm.
func gate(user, password, realm string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		u, p, ok := r.BasicAuth()
		right := ok && u == user && p == password
		switch {
		case r.URL.Path == "/token":
			if !right {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"token": "a-token"})
			return true
		case realm == "" && right, realm != "" && r.Header.Get("Authorization") == "Bearer a-token":
			return false
		case realm == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		default:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="x"`, realm))
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"not with `+p+`"}]}`)
		return true
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	ref := s.push("private/base:x", testImage(t, "here", runtime.GOARCH))
	for name, realm := range map[string]string{"basic": "", "bearer": s.server.URL + "/token"} {
		s.answer(gate("me", "pass-canary", realm))
		for who, tt := range map[string]struct {
			login Login
			works bool
		}{
			"nobody":        {Login{}, false},
			"another":       {Login{Username: "me", Password: "guess-canary"}, false},
			"the right one": {Login{Username: "me", Password: "pass-canary"}, true},
			"token":         {Login{Token: "a-token"}, realm != ""},
		} {
			store := openStore(t)
			_, err := s.client().Resolve(t.Context(), ref, tt.login)
			if tt.works {
				if err == nil {
					_, err = s.client().Pull(t.Context(), store, ref, tt.login, nil)
				}
				if err != nil {
					t.Errorf("%s, %s: Resolve() and Pull() = %v", name, who, err)
				}
				continue
			}
			wantError(t, name+", "+who+": Resolve()", err, wanted{errs.PermissionDenied, CodeDenied, "does not give"})
			if strings.Contains(fmt.Sprintf("%+v %v", err, err), "canary") {
				t.Errorf("%s, %s: the error repeats the password: %v", name, who, err)
			}
		}
		// The host's own login, which one of the caller's goes before.
		known := listed(s.host)
		known.Login = func(host string) (Login, error) {
			if host != s.host {
				t.Errorf("the login of %s was asked for", host)
			}
			return Login{Username: "me", Password: "pass-canary"}, nil
		}
		if _, err := client(known).Resolve(t.Context(), ref, Login{}); err != nil {
			t.Errorf("%s: Resolve(own login) = %v", name, err)
		}
		_, err := client(known).Resolve(t.Context(), ref, Login{Username: "other", Password: "x"})
		wantError(t, name+": Resolve(caller's login)", err, wanted{errs.PermissionDenied, CodeDenied, "this login"})
	}
}

// A login reaches no host but the registry: not where it redirects, not a token
// server of another owner.
func TestLoginStaysAtTheRegistry(t *testing.T) {
	t.Parallel()
	other := newStation(t)
	s := newStation(t)
	ref := s.push("base:x", testImage(t, "here", runtime.GOARCH))
	login := Login{Username: "me", Password: "pass-canary"}
	var known *Client
	leaked := func() bool {
		for _, r := range other.requests("") {
			if r.Header.Get("Authorization") != "" {
				return true
			}
		}
		return false
	}
	elsewhere := "localhost:" + port(t, other.host)
	known = client(listed(s.host, other.host, elsewhere))
	for _, host := range []string{elsewhere, other.host} {
		s.answer(gate("me", "pass-canary", "http://"+host+"/token"))
		other.answer(gate("me", "pass-canary", ""))
		_, err := known.Resolve(t.Context(), ref, login)
		wantError(t, "Resolve(token server elsewhere)", err, wanted{errs.PermissionDenied, CodeForbidden, ""})
	}
	if len(other.requests("")) > 0 {
		t.Error("the token server of somebody else was asked")
	}
	basic := gate("me", "pass-canary", "")
	redirect := func(part string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if basic(w, r) {
				return true
			}
			if strings.Contains(r.URL.Path, part) {
				http.Redirect(w, r, other.server.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
			return false
		}
	}
	for _, part := range []string{"/blobs/", "/manifests/"} {
		s.answer(redirect(part))
		other.answer(func(w http.ResponseWriter, r *http.Request) bool { s.images.ServeHTTP(w, r); return true })
		store := openStore(t)
		if made, err := known.Pull(t.Context(), store, ref, login, nil); err != nil {
			t.Errorf("Pull(%s redirected) = %v", part, err)
		} else {
			wantSays(t, store, made, "here")
		}
		if len(other.requests(part)) == 0 {
			t.Errorf("nothing was redirected for %s", part)
		}
		if leaked() {
			t.Errorf("%s: the login went where the registry redirects to", part)
		}
	}
}

// What a caller or a registry names leads to no address inside.
func TestPrivateAddressesAreRefused(t *testing.T) {
	t.Parallel()
	inner, s := newStation(t), newStation(t)
	ref := s.push("base:x", testImage(t, "here", runtime.GOARCH))
	nobody := client(Registries{})
	for _, host := range []string{
		s.host, "localhost:" + port(t, s.host), "127.1.2.3:5000", "10.0.0.1", "192.168.1.1:5000", "172.16.0.1", "169.254.169.254", "100.64.0.1",
		"[::1]:5000", "[fe80::1]", "[fd00:ec2::254]", "0.0.0.0:80", "[::ffff:127.0.0.1]:5000", "[64:ff9b::7f00:1]", "168.63.129.16",
	} {
		_, err := nobody.Resolve(t.Context(), lehr.ImageRef{Registry: host, Repository: "x", Tag: "y"}, Login{})
		wantError(t, "Resolve("+host+")", err, wanted{errs.PermissionDenied, CodeForbidden, "has a private address"})
	}
	if all := s.requests("/v2/"); len(all) > 3 { // ours: the push
		for _, r := range all {
			if strings.Contains(r.URL.Path, "/x/") {
				t.Errorf("%s was asked for", r.URL)
			}
		}
	}
	// Listed, but neither private nor without encryption.
	_, err := client(Registries{Hosts: map[string]Registry{s.host: {}}}).Resolve(t.Context(), ref, Login{})
	wantError(t, "Resolve(listed, not private)", err, wanted{errs.PermissionDenied, CodeForbidden, "has a private address"})
	_, err = client(Registries{Hosts: map[string]Registry{s.host: {Private: true}}}).Resolve(t.Context(), ref, Login{})
	wantError(t, "Resolve(no plain_http)", err, wanted{errs.Unavailable, CodeUnreachable, "cannot be reached"})
	_, err = client(Registries{OnlyListed: true}).Resolve(t.Context(), s.ref("base:x"), Login{})
	wantError(t, "Resolve(only listed)", err, wanted{errs.PermissionDenied, CodeForbidden, "not one of those"})
	// The registry is listed; where it leads is not.
	inner.answer(nil)
	for _, target := range []string{inner.server.URL, "https://" + inner.host, "http://169.254.169.254", "https://10.1.2.3"} {
		s.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				http.Redirect(w, r, target+"/latest/meta-data", http.StatusFound)
				return true
			}
			return false
		})
		_, err := s.client().Resolve(t.Context(), ref, Login{})
		wantError(t, "Resolve(redirect to "+target+")", err, wanted{errs.PermissionDenied, CodeForbidden, ""})
		s.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="x"`, target+"/token"))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		if _, err := s.client().Resolve(t.Context(), ref, Login{}); err == nil {
			t.Errorf("Resolve(token from %s) = nil, want an error", target)
		}
	}
	if len(inner.requests("")) > 0 {
		t.Errorf("a host inside was asked: %v", inner.requests(""))
	}
}

func TestSameOwner(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"index.docker.io", "auth.docker.io", true},
		{"registry.gitlab.com", "gitlab.com", true},
		{"registry.gitlab.com:5050", "gitlab.com", true},
		{"ghcr.io", "ghcr.io", true},
		{"a.co.uk", "b.co.uk", false},
		{"me.github.io", "you.github.io", false},
		{"docker.io", "docker.io.evil.example", false},
		{"127.0.0.1:1", "127.0.0.1:2", false},
		{"localhost:1", "localhost:2", false},
		{"[::1]:1", "[::1]:2", false},
	} {
		if got := sameOwner(tt.a, tt.b); got != tt.want {
			t.Errorf("sameOwner(%s, %s) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestProxyAddressesAreThisMachinesOwn(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"http://proxy": "proxy:80", "https://proxy": "proxy:443", "http://proxy:3128": "proxy:3128", "socks5://[::1]": "[::1]:1080",
	} {
		u, err := url.Parse(in)
		if err != nil || withPort(u) != want {
			t.Errorf("withPort(%s) = %s, %v, want %s", in, withPort(u), err, want)
		}
	}
}
