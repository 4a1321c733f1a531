package gateway

import (
	"encoding/base64"
	"net"
	"net/http"
	"net/http/httputil"
	"regexp"
	"strings"

	"github.com/lehr-dev/lehr/internal/httpkit"
)

// Headers that are not every sandbox's business.
const (
	headerOperator = "X-Lehr-Operator"
	headerToken    = "X-Access-Token"
)

// apiKey is how a key of ours looks, wherever it stands in a header.
var apiKey = regexp.MustCompile(`(lehr|e2b)_[0-9a-f]{40}`)

// cleanRequest takes out of a request what a sandbox must not see: how it was
// found, the operator's secret, an API key that a client sends to every address
// of ours, and the access token anywhere but at the guest daemon. Headers of
// these names with other values are the application's.
func (g *Gateway) cleanRequest(h http.Header, t target) {
	for _, names := range routing {
		h.Del(names.id)
		h.Del(names.port)
	}
	h.Del(headerOperator)
	dropIf(h, "X-Api-Key", apiKey.MatchString)
	dropIf(h, "Authorization", holdsKey)
	if t.port != guestPort && g.o.AccessToken != nil {
		token := g.o.AccessToken(t.id)
		dropIf(h, headerToken, func(v string) bool { return v == token })
	}
}

// holdsKey reports whether credentials are or hold a key of ours.
func holdsKey(credentials string) bool {
	if scheme, coded, ok := strings.Cut(credentials, " "); ok && strings.EqualFold(scheme, "Basic") {
		if plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(coded)); err == nil {
			return apiKey.Match(plain)
		}
	}
	return apiKey.MatchString(credentials)
}

// dropIf removes the values of a header that match.
func dropIf(h http.Header, name string, match func(string) bool) {
	var kept []string
	for _, v := range h.Values(name) {
		if !match(v) {
			kept = append(kept, v)
		}
	}
	h.Del(name)
	if kept != nil {
		h[name] = kept
	}
}

// forwarded says in X-Forwarded-* whom a request comes from. What a client says
// there itself counts only where it is a proxy on this machine.
func forwarded(r *httputil.ProxyRequest) {
	host, _, err := net.SplitHostPort(r.In.RemoteAddr)
	ip := net.ParseIP(host)
	trusted := err == nil && ip != nil && ip.IsLoopback()
	if trusted {
		r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
	}
	r.SetXForwarded()
	if !trusted {
		return
	}
	if proto := r.In.Header.Get("X-Forwarded-Proto"); proto == "http" || proto == "https" {
		r.Out.Header.Set("X-Forwarded-Proto", proto)
	}
	if name := r.In.Header.Get("X-Forwarded-Host"); name != "" {
		r.Out.Header.Set("X-Forwarded-Host", name)
	}
}

// cleanResponse takes out of an answer what would reach beyond the sandbox's
// own host name in a browser. An answer at the API's own address must not run
// as a page of that address; browsers cannot ask for one, but they cannot be
// made to show it either.
func cleanResponse(h http.Header, host string, t target) {
	if cookies := h["Set-Cookie"]; cookies != nil {
		kept := make([]string, 0, len(cookies))
		for _, c := range cookies {
			kept = append(kept, ownCookie(c, httpkit.Hostname(host)))
		}
		h["Set-Cookie"] = kept
	}
	h.Del("Clear-Site-Data") // clears the cookies of siblings, too
	if t.byHeader {
		h.Add("Content-Security-Policy", "sandbox")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
	}
}

// ownCookie returns a Set-Cookie value without a Domain attribute that covers
// more than the host itself.
func ownCookie(cookie, host string) string {
	parts := strings.Split(cookie, ";")
	kept := parts[:1]
	for _, p := range parts[1:] {
		name, value, _ := strings.Cut(p, "=")
		domain := strings.ToLower(strings.Trim(value, " \t."))
		if strings.EqualFold(strings.TrimSpace(name), "Domain") && domain != host {
			continue
		}
		kept = append(kept, p)
	}
	return strings.Join(kept, ";")
}
