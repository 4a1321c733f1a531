package gateway

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestRouting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(say("box"))
	both := func(prefix, id, port string) http.Header {
		return http.Header{prefix + "-Sandbox-Id": {id}, prefix + "-Sandbox-Port": {port}}
	}
	name := "8080-" + string(id) + "." + domain
	for what, c := range map[string]struct {
		host    string
		headers http.Header
		want    string // begin of the body
		status  int
	}{
		"host":                    {name, nil, "box /v1/x", 200},
		"host with port":          {name + ":80", nil, "box /v1/x", 200},
		"host in capitals":        {strings.ToUpper(name), nil, "box /v1/x", 200},
		"host with a dot":         {name + ".", nil, "box /v1/x", 200},
		"headers at localhost":    {"localhost:5347", both("E2b", string(id), "8080"), "box /v1/x", 200},
		"our headers":             {"127.0.0.1:5347", both("Lehr", string(id), "8080"), "box /v1/x", 200},
		"headers at IPv6":         {"[::1]:5347", both("Lehr", string(id), "8080"), "box /v1/x", 200},
		"headers at our name":     {"lehr.example", both("Lehr", string(id), "8080"), "box /v1/x", 200},
		"headers at sandbox.":     {"sandbox." + domain, both("E2b", string(id), "8080"), "box /v1/x", 200},
		"headers elsewhere":       {"evil.example", both("E2b", string(id), "8080"), `{"error":{"code":"host_refused"`, 403},
		"headers at the domain":   {domain, both("E2b", string(id), "8080"), `{"error":{"code":"host_refused"`, 403},
		"other headers, our host": {name, both("E2b", string(lehr.NewSandboxID()), "1"), "box /v1/x", 200},
		"api":                     {"localhost:5347", nil, "api /v1/x", 200},
		"api at our name":         {"LEHR.example", nil, "api /v1/x", 200},
		"rebinding":               {"evil.example", nil, `{"error":{"code":"host_refused"`, 403},
		"the domain itself":       {domain, nil, `{"error":{"code":"host_refused"`, 403},
		"another name under it":   {"www." + domain, nil, `{"error":{"code":"host_refused"`, 403},
		"a deeper name":           {"a." + name, nil, `{"error":{"code":"host_refused"`, 403},
		"a name that ends alike":  {"8080-" + string(id) + ".not" + domain, nil, `{"error":{"code":"host_refused"`, 403},
		"no port at all":          {"x-" + string(id) + "." + domain, nil, `{"error":{"code":"host_refused"`, 403},
		"unknown":                 {"8080-" + string(lehr.NewSandboxID()) + "." + domain, nil, `{"sandboxId":"sb`, 502},
		"malformed":               {"8080-nonsense." + domain, nil, `{"sandboxId":"nonsense","message":"The sandbox was not found","code":502`, 502},
		"empty":                   {"8080-." + domain, nil, `{"message":"The sandbox was not found","code":502`, 502},
		"port 0":                  {"0-" + string(id) + "." + domain, nil, `{"sandboxId":"sb`, 400},
		"port 65536":              {"65536-" + string(id) + "." + domain, nil, `{"sandboxId":"sb`, 400},
		"id only":                 {"localhost", http.Header{"E2b-Sandbox-Id": {string(id)}}, `{"message":"want one E2b-Sandbox-Id`, 400},
		"port only":               {"localhost", http.Header{"Lehr-Sandbox-Port": {"80"}}, `{"message":"want one Lehr-Sandbox-Id`, 400},
		"two ids":                 {"localhost", http.Header{"E2b-Sandbox-Id": {string(id), string(id)}, "E2b-Sandbox-Port": {"80"}}, `{"message":"want one`, 400},
		"malformed header":        {"localhost", both("E2b", "../../v1", "8080"), `{"sandboxId":"../../v1","message":"The sandbox was not found","code":502`, 502},
		"signed port":             {"localhost", both("E2b", string(id), "+80"), `{"sandboxId":"sb`, 400},
		"huge id":                 {"localhost", both("E2b", strings.Repeat("a", 100_000), "80"), `{"sandboxId":"` + strings.Repeat("a", maxShown) + `"`, 502},
		"capitals in the header":  {"localhost", both("E2b", strings.ToUpper(string(id)), "8080"), `{"sandboxId":"SB`, 502},
	} {
		r := w.request("GET", "/v1/x", id, nil)
		r.Host = c.host
		for k, v := range c.headers {
			r.Header[k] = v
		}
		res := w.do(r)
		if got := text(t, res); res.StatusCode != c.status || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %d %.200q, want %d %q", what, res.StatusCode, got, c.status, c.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"ended":       {ended("x"), 502, "sandbox_not_found"},
		"paused":      {errs.New(errs.Conflict, "p").WithCode("sandbox_paused"), 502, "sandbox_paused"},
		"creating":    {errs.New(errs.Conflict, "p").WithCode("sandbox_not_running"), 502, "sandbox_not_running"},
		"unreachable": {errs.New(errs.Unavailable, "p").WithCode("agent_unreachable"), 503, "agent_unreachable"},
		"busy":        {errs.New(errs.Exhausted, "p").WithCode("connections_exhausted"), 429, "connections_exhausted"},
		"fault":       {errs.New(errs.Internal, "secret"), 500, "internal"},
	} {
		id := w.serve(say("box"))
		w.end(id, c.err)
		res := w.do(w.request("GET", "/", id, nil))
		if b := wantRefusal(t, name, res, c.status, c.code); b.SandboxID != string(id) || b.Port != 0 || has(b.Message, "secret") {
			t.Errorf("%s: %+v, want the sandbox and no port and no cause", name, b)
		}
		if retry := res.Header.Get("Retry-After"); (retry != "") != (c.status == 429 || c.status == 503) {
			t.Errorf("%s: Retry-After = %q", name, retry)
		}
	}
	id := w.serve(say("box"))
	r := w.request("GET", "/", id, nil)
	r.Host = hostOf(id, 81)
	if b := wantRefusal(t, "a closed port", w.do(r), 502, "port_closed"); b.Port != 81 || b.SandboxID != string(id) {
		t.Errorf("a closed port: %+v, want the port", b)
	}
	// The very words that E2B's clients look for.
	res := w.do(w.request("GET", "/", "sb00000000000000000000000000", nil))
	want := `{"sandboxId":"sb00000000000000000000000000","message":"The sandbox was not found","code":502,"error_code":"sandbox_not_found"}` + "\n"
	if got := text(t, res); res.StatusCode != 502 || got != want || res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("an unknown sandbox is answered with %d %s, want %s", res.StatusCode, got, want)
	}
}

func TestRequestsArriveWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := make(chan *http.Request, 1)
	bodies := make(chan string, 1)
	id := w.serve(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies <- string(b)
		got <- r
	})
	key := "lehr_" + strings.Repeat("0", 40)
	r := w.request("PROPFIND", "//a/../b%2Fc/?q=1;2&x=%zz&y", id, strings.NewReader("body"))
	r.Header = http.Header{
		"X-Own": {"1", "2"}, "Cookie": {"a=b"}, "Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("user:"))},
		"X-Access-Token": {"other", "token-" + string(id)}, "X-Api-Key": {key, "the application's"},
		"X-Lehr-Operator": {"secret"}, "Connection": {"X-Hop"}, "X-Hop": {"hop"}, "Keep-Alive": {"1"},
		"E2b-Sandbox-Id": {"x"}, "E2b-Sandbox-Port": {"1"}, "Lehr-Sandbox-Id": {"x"}, "Lehr-Sandbox-Port": {"1"},
		"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}, "User-Agent": {"tester"}, "Te": {"trailers"},
	}
	r.Trailer = http.Header{"X-Sum": {"1234"}}
	r.ContentLength = -1
	w.do(r)
	in := <-got
	if b := <-bodies; b != "body" {
		t.Errorf("the body is %q", b)
	}
	if in.Method != "PROPFIND" || in.RequestURI != "//a/../b%2Fc/?q=1;2&x=%zz&y" || in.Host != hostOf(id, 8080) {
		t.Errorf("%s %s of %s arrives, want it as it was sent", in.Method, in.RequestURI, in.Host)
	}
	want := http.Header{
		"X-Own": {"1", "2"}, "Cookie": {"a=b"}, "Authorization": r.Header["Authorization"], "X-Access-Token": {"other"},
		"X-Api-Key": {"the application's"}, "User-Agent": {"tester"}, "Te": {"trailers"},
		"X-Forwarded-For": {"192.0.2.1, 127.0.0.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {hostOf(id, 8080)},
		"Accept-Encoding": {"gzip"}, // the test client's
	}
	if diff := cmp.Diff(want, in.Header); diff != "" {
		t.Errorf("headers that arrive (-want +got):\n%s", diff)
	}
	if in.Trailer.Get("X-Sum") != "1234" {
		t.Errorf("trailers that arrive = %v, want X-Sum", in.Trailer)
	}
}

func TestKeysStayOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, strings.Join(r.Header["Authorization"], "|")+"|"+strings.Join(r.Header["X-Api-Key"], "|"))
	})
	secret := strings.Repeat("0123456789abcdef", 3)[:40]
	for name, c := range map[string]struct{ header, value, want string }{
		"key":        {"X-Api-Key", "lehr_" + secret, "|"},
		"E2B's form": {"X-Api-Key", "e2b_" + secret, "|"},
		"bearer":     {"Authorization", "Bearer lehr_" + secret, "|"},
		"basic":      {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("x:lehr_"+secret)), "|"},
		"other":      {"Authorization", "Bearer lehr_short", "Bearer lehr_short|"},
		"other key":  {"X-Api-Key", "sk-" + secret, "|sk-" + secret},
	} {
		r := w.request("GET", "/", id, nil)
		r.Header.Set(c.header, c.value)
		if got := text(t, w.do(r)); got != c.want {
			t.Errorf("%s: the sandbox sees %q, want %q", name, got, c.want)
		}
	}
}

func TestForwardedByStrangers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := make(chan http.Header, 1)
	id := w.serve(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header })
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr, r.Host = "198.51.100.7:1234", hostOf(id, 8080)
	r.Header = http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"bank.example"}, "Forwarded": {"for=x"}}
	w.server.Config.Handler.ServeHTTP(httptest.NewRecorder(), r)
	h := <-got
	if h.Get("X-Forwarded-For") != "198.51.100.7" || h.Get("X-Forwarded-Proto") != "http" || h.Get("X-Forwarded-Host") != hostOf(id, 8080) || h.Get("Forwarded") != "" {
		t.Errorf("a stranger's word arrives: %v", h)
	}
}

func TestAnswersComeWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header()["Set-Cookie"] = []string{
			"own=1; Path=/; HttpOnly", "up=1; Domain=boxes.example; Secure", "up2=1; domain = .Boxes.Example",
			"self=1; Domain=" + strings.TrimSuffix(r.Host, ":5347") + "; Path=/", "odd; Domain", "top=1;Domain=example",
		}
		rw.Header().Set("Clear-Site-Data", `"cookies"`)
		rw.Header().Set("X-Own", "1")
		rw.Header().Set("Connection", "X-Hop")
		rw.Header().Set("X-Hop", "1")
		rw.Header().Set("Trailer", "X-Sum")
		rw.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(rw, "short and stout")
		rw.Header().Set("X-Sum", "1234")
		rw.Header().Set(http.TrailerPrefix+"X-Late", "5")
	})
	res := w.do(w.request("GET", "/", id, nil))
	if got := text(t, res); got != "short and stout" || res.StatusCode != http.StatusTeapot {
		t.Errorf("answer = %d %q", res.StatusCode, got)
	}
	if res.Trailer.Get("X-Sum") != "1234" || res.Trailer.Get("X-Late") != "5" {
		t.Errorf("trailers = %v", res.Trailer)
	}
	want := []string{
		"own=1; Path=/; HttpOnly", "up=1; Secure", "up2=1", "self=1; Domain=8080-" + string(id) + ".boxes.example; Path=/", "odd", "top=1",
	}
	if diff := cmp.Diff(want, res.Header["Set-Cookie"]); diff != "" {
		t.Errorf("cookies (-want +got):\n%s", diff)
	}
	if res.Header.Get("X-Own") != "1" || res.Header.Get("X-Hop") != "" || res.Header.Get("Clear-Site-Data") != "" || res.Header.Get("Content-Security-Policy") != "" {
		t.Errorf("headers = %v", res.Header)
	}
	r := w.request("GET", "/", id, nil)
	r.Host = "localhost:5347"
	r.Header.Set("Lehr-Sandbox-Id", string(id))
	r.Header.Set("Lehr-Sandbox-Port", "8080")
	res = w.do(r)
	if got := res.Header.Get("Content-Security-Policy"); got != "sandbox" {
		t.Errorf("Content-Security-Policy at the API's own address = %q, want sandbox", got)
	}
}

// No spelling of the operator's routes passes; every route of users does.
func TestGuestRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.serve(say("box"))
	w.listen(id, guestPort, say("guest"))
	raw := func(p string) *http.Response { // no client that tidies the path
		conn, err := net.Dial("tcp", w.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", p, hostOf(id, guestPort))
		b, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil {
			t.Fatalf("%s is answered with %q, %v", p, b, err)
		}
		return res
	}
	for _, p := range []string{
		"/init", "/sync", "/end-processes", "/INIT", "/Init", "/init/", "//init", "/./init", "/x/../init", "/files/../init", "/files/%2e%2e/init",
		"http://" + hostOf(id, guestPort) + "/init", "http://" + hostOf(id, guestPort) + "//init", "/%69nit", "/%2finit", "/init?x", "/init%00", "/init;x", "/files//../init", "/health/../init", "/process.Process/../../init", "/freeze", "/", "/files/%2e%2e/sync",
		"/debug/pprof", "/files%2f..%2finit",
	} {
		wantRefusal(t, p, raw(p), 404, "not_found")
	}
	for _, p := range []string{"/health", "/files?path=/a&signature=v1_x%2Fy", "/files/compose", "/envs", "/metrics", "/process.Process/Start", "/filesystem.Filesystem/Stat"} {
		if got := text(t, raw(p)); !strings.HasPrefix(got, "guest /") {
			t.Errorf("%s is answered with %q, want it passed", p, got)
		}
	}
	r := w.request("GET", "/init", id, nil) // any other port is the user's own
	if got := text(t, w.do(r)); got != "box /init" {
		t.Errorf("/init of a user's server = %q", got)
	}
}

// What guestRoute lets through is what a router sees: it is never cleaned into
// another path.
func FuzzGuestRoute(f *testing.F) {
	for _, p := range []string{"/files/../init", "/files/%2e%2e/init", "//init", "/process.Process/%2e%2e/init"} {
		f.Add(p)
	}
	mux := http.NewServeMux()
	reached := false
	mux.HandleFunc("/init", func(http.ResponseWriter, *http.Request) { reached = true })
	f.Fuzz(func(t *testing.T, target string) {
		if !strings.HasPrefix(target, "/") || strings.ContainsAny(target, " \r\n\t") {
			return
		}
		r, err := http.NewRequest(http.MethodPost, "http://h"+target, nil)
		if err != nil || !guestRoute(r) {
			return
		}
		reached = false
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, r)
		if reached || rec.Code/100 == 3 || path.Clean(r.URL.Path) != r.URL.Path {
			t.Errorf("guestRoute(%q) leads to %q, status %d", target, r.URL.Path, rec.Code)
		}
	})
}

func FuzzFind(f *testing.F) {
	g := New(Options{Domain: domain, Log: slog.New(slog.DiscardHandler)})
	f.Add("8080-sb00000000000000000000000000."+domain, "", "")
	f.Add("localhost", "sb", "80")
	f.Fuzz(func(t *testing.T, host, id, port string) {
		r := &http.Request{Host: host, Header: http.Header{"E2b-Sandbox-Id": {id}, "E2b-Sandbox-Port": {port}}}
		got, ours, refused := g.find(r)
		if ours && refused == nil {
			if _, err := lehr.ParseSandboxID(string(got.id)); err != nil || got.port == 0 {
				t.Errorf("find(%q, %q, %q) = %+v", host, id, port, got)
			}
		}
	})
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, other := w.serve(say("box")), w.serve(say("other"))
	for range maxRequests {
		if !w.gateway.enter(id) {
			t.Fatal("enter() = false below the limit")
		}
	}
	wantRefusal(t, "one too many", w.do(w.request("GET", "/", id, nil)), 429, "requests_exhausted")
	if got := text(t, w.do(w.request("GET", "/", other, nil))); got != "other /" {
		t.Errorf("another sandbox answers %q", got)
	}
	w.gateway.leave(id)
	if got := text(t, w.do(w.request("GET", "/", id, nil))); got != "box /" {
		t.Errorf("with a place free it answers %q", got)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.serve(say("one")), w.serve(say("two"))
	for range 5 {
		for id, want := range map[lehr.SandboxID]string{one: "one /", two: "two /"} {
			if got := text(t, w.do(w.request("GET", "/", id, nil))); got != want {
				t.Fatalf("sandbox %s answers %q, want %q", id, got, want)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.boxes[one].dials != 1 || w.boxes[two].dials != 1 {
		t.Errorf("%d and %d connections for requests one after the other, want one each", w.boxes[one].dials, w.boxes[two].dials)
	}
}

// A sandbox that has ended is not found from the next request on, also over
// kept connections.
func TestEndedSandboxIsGoneAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, method := range []string{"GET", "POST"} {
		id := w.serve(say("box"))
		for range 3 {
			_ = text(t, w.do(w.request(method, "/", id, strings.NewReader("x"))))
		}
		w.end(id, ended(id))
		wantRefusal(t, method+" to an ended sandbox", w.do(w.request(method, "/", id, strings.NewReader("x"))), 502, "sandbox_not_found")
	}
}
