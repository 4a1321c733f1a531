package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lehr-dev/lehr/test/world"
)

// boxServer builds the server that runs in the sandboxes of these tests.
func boxServer(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boxserver")
	cmd := exec.Command("go", "build", "-o", path, "./boxserver")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the server: %v\n%s", err, out)
	}
	return path
}

// serving makes a sandbox with the server on port 8080.
func serving(t *testing.T, w *world.World, server, template string) string {
	t.Helper()
	id := create(t, w, template).ID
	w.OK("sandbox", "cp", server, id+":/usr/local/bin/boxserver")
	w.OK("sandbox", "exec", id, "--", "sh", "-c", "chmod +x /usr/local/bin/boxserver; setsid /usr/local/bin/boxserver :8080 > /dev/null 2>&1 < /dev/null &")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		res, err := http.DefaultClient.Do(toBox(t, w, id, "GET /", nil).WithContext(ctx))
		if err != nil {
			t.Fatalf("the server does not come up: %v", err)
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return id
		}
	}
}

// toBox is a request for the server of a sandbox, by host name; what is method
// and path.
func toBox(t *testing.T, w *world.World, id, what string, body io.Reader) *http.Request {
	t.Helper()
	method, path, _ := strings.Cut(what, " ")
	r, err := http.NewRequestWithContext(t.Context(), method, w.URL()+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "8080-" + id + ".localhost"
	return r
}

func ask(t *testing.T, r *http.Request) (status int, text string) {
	t.Helper()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return res.StatusCode, string(b)
}

// wantGone checks the answer that clients take for the end of a sandbox.
func wantGone(t *testing.T, r *http.Request, id string) {
	t.Helper()
	status, text := ask(t, r)
	var body struct {
		SandboxID string `json:"sandboxId"`
		Message   string `json:"message"`
		Code      int    `json:"code"`
	}
	if err := json.Unmarshal([]byte(text), &body); err != nil || status != 502 || body.Code != 502 || body.SandboxID != id || body.Message != "The sandbox was not found" {
		t.Errorf("a gone sandbox answers %d %s, want 502 and E2B's body", status, text)
	}
}

// TestGateway reaches servers in real sandboxes through a real lehr up.
func TestGateway(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	server := boxServer(t)
	one, two := serving(t, w, server, "minimal"), serving(t, w, server, "minimal")

	t.Run("each answers its own", func(t *testing.T) {
		for range 3 {
			for _, id := range []string{one, two} {
				if status, got := ask(t, toBox(t, w, id, "GET /v1/builds", nil)); status != 200 || got != id+" /v1/builds" {
					t.Errorf("%s answers %d %q", id, status, got)
				}
			}
		}
	})
	t.Run("headers", func(t *testing.T) {
		for _, prefix := range []string{"E2b", "Lehr"} {
			r := toBox(t, w, one, "GET /v1/builds", nil)
			r.Host = ""
			r.Header.Set(prefix+"-Sandbox-Id", two)
			r.Header.Set(prefix+"-Sandbox-Port", "8080")
			if status, got := ask(t, r); status != 200 || got != two+" /v1/builds" {
				t.Errorf("by %s headers: %d %q", prefix, status, got)
			}
		}
		r := toBox(t, w, one, "GET /headers", nil)
		r.Header.Set("X-Api-Key", w.Key())
		r.Header.Set("Authorization", "Bearer "+w.Key())
		if _, got := ask(t, r); strings.Contains(got, strings.TrimPrefix(w.Key(), "lehr_")) {
			t.Errorf("the sandbox sees the API key: %s", got)
		}
	})
	t.Run("refusals", func(t *testing.T) { gatewayRefusals(t, w.In(t), one) })
	t.Run("websocket", func(t *testing.T) { gatewayWebSocket(t, w, one) })
	t.Run("events", func(t *testing.T) {
		res, lines := openEvents(t, w, one)
		defer res.Body.Close()
		for i := range 5 {
			if got := nextEvent(t, lines); got != i {
				t.Fatalf("event %d is %d", i, got)
			}
		}
	})
	t.Run("guest daemon", func(t *testing.T) { gatewayGuest(t, w.In(t), one) })
	t.Run("url", func(t *testing.T) { gatewayURL(t, w.In(t), server, one) })
	t.Run("large bodies", func(t *testing.T) { gatewayLarge(t, w, one) })
	t.Run("kill during a stream", func(t *testing.T) {
		w := w.In(t)
		doomed := serving(t, w, server, "minimal")
		res, lines := openEvents(t, w, doomed)
		defer res.Body.Close()
		nextEvent(t, lines)
		w.OK("sandbox", "kill", doomed)
		for lines.Scan() { // what was on its way
		}
		if lines.Err() == nil {
			t.Error("the stream of a killed sandbox ends cleanly, want it broken")
		}
		wantGone(t, toBox(t, w, doomed, "GET /", nil), doomed)
	})
	t.Run("agent killed", func(t *testing.T) { gatewayAgentKilled(t, w.In(t), one, two) })
}

func gatewayRefusals(t *testing.T, w *world.World, id string) {
	none := "sb" + strings.Repeat("0", 26)
	wantGone(t, toBox(t, w, none, "GET /", nil), none)
	wantGone(t, toBox(t, w, "nonsense", "GET /", nil), "nonsense")
	killed := create(t, w, "minimal").ID
	w.OK("sandbox", "kill", killed)
	wantGone(t, toBox(t, w, killed, "POST /", strings.NewReader("x")), killed)
	for host, want := range map[string]int{"evil.example": 403, "8080-" + id + ".evil.example": 403, "www.localhost": 403} {
		r := toBox(t, w, id, "GET /v1/builds", nil)
		r.Host = host
		if status, text := ask(t, r); status != want || !strings.Contains(text, "host_refused") {
			t.Errorf("Host %s is answered with %d %s, want %d", host, status, text, want)
		}
	}
	r := toBox(t, w, id, "GET /", nil)
	r.Host = "81-" + id + ".localhost"
	if status, text := ask(t, r); status != 502 || !strings.Contains(text, `"port":81`) {
		t.Errorf("a closed port is answered with %d %s, want 502 and the port", status, text)
	}
}

func gatewayWebSocket(t *testing.T, w *world.World, id string) {
	c, _, err := websocket.Dial(t.Context(), w.URL()+"/ws", &websocket.DialOptions{Host: "8080-" + id + ".localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow() //nolint:errcheck // the test is over
	c.SetReadLimit(16 << 20)
	for _, size := range []int{0, 1, 1000, 1 << 20} {
		msg := bytes.Repeat([]byte("x"), size)
		if err := c.Write(t.Context(), websocket.MessageBinary, msg); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(t.Context()); err != nil || !bytes.Equal(got, msg) {
			t.Errorf("echo of %d bytes = %d bytes, %v", size, len(got), err)
		}
	}
}

func openEvents(t *testing.T, w *world.World, id string) (*http.Response, *bufio.Scanner) {
	t.Helper()
	res, err := http.DefaultClient.Do(toBox(t, w, id, "GET /events", nil))
	if err != nil {
		t.Fatal(err)
	}
	return res, bufio.NewScanner(res.Body)
}

func nextEvent(t *testing.T, lines *bufio.Scanner) int {
	t.Helper()
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no event any more: %v", lines.Err())
	return 0
}

// gatewayGuest calls the guest daemon as users do, and as they must not.
func gatewayGuest(t *testing.T, w *world.World, id string) {
	call := func(path, token string) (int, string) {
		r := toBox(t, w, id, "POST "+path, strings.NewReader("{}"))
		r.Host = "49983-" + id + ".localhost"
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Access-Token", token)
		return ask(t, r)
	}
	token := accessToken(t, w, id)
	if status, text := call("/process.Process/List", token); status != 200 || !strings.Contains(text, "{") {
		t.Errorf("List with the access token = %d %s, want 200", status, text)
	}
	if status, _ := call("/process.Process/List", "wrong"); status != 401 {
		t.Errorf("List with a wrong token = %d, want 401", status)
	}
	for _, path := range []string{"/init", "/sync", "/end-processes", "//init", "/files/%2e%2e/init", "/INIT"} {
		if status, text := call(path, token); status != 404 {
			t.Errorf("%s = %d %s, want 404", path, status, text)
		}
	}
	if out := w.OK("--output", "json", "sandbox", "ls"); strings.Contains(out, token) {
		t.Error("a list has access tokens in it")
	}
}

func accessToken(t *testing.T, w *world.World, id string) string {
	t.Helper()
	var box struct {
		AccessToken string `json:"access_token"`
		Domain      string `json:"domain"`
	}
	w.JSON(&box, "sandbox", "get", id)
	if !regexp.MustCompile("^[0-9a-f]{64}$").MatchString(box.AccessToken) || !strings.HasPrefix(box.Domain, "localhost:") {
		t.Fatalf("get = %+v, want a token and a domain", box)
	}
	return box.AccessToken
}

func gatewayURL(t *testing.T, w *world.World, server, id string) {
	port := w.URL()[strings.LastIndex(w.URL(), ":"):]
	if got, want := w.OK("sandbox", "url", id, "8080"), "http://8080-"+id+".localhost"+port+"\n"; got != want {
		t.Errorf("sandbox url = %q, want %q", got, want)
	}
	if r := w.Run("sandbox", "url", id); r.Code != 1 || !strings.Contains(r.Stderr, "exposes no port") {
		t.Errorf("sandbox url without a port = %d %q, want the reason", r.Code, r.Stderr)
	}
	for _, port := range []string{"0", "65536", "-1", "http"} {
		if r := w.Run("sandbox", "url", id, port); r.Code != 2 || r.Stdout != "" {
			t.Errorf("sandbox url of port %s = %d %q, want a usage error", port, r.Code, r.Stdout)
		}
	}
	w.OKInput("EXPOSE 9090\nEXPOSE 53/udp 8080/tcp\n", "build", "-t", "exposing", "-f", "-", "--skip-pre-post")
	box := serving(t, w, server, "exposing")
	var out struct {
		URL string `json:"url"`
	}
	w.JSON(&out, "sandbox", "url", box)
	if want := "http://8080-" + box + ".localhost" + port; out.URL != want {
		t.Errorf("sandbox url of the template's port = %q, want %q", out.URL, want)
	}
	w.OK("sandbox", "kill", box)
	if r := w.Run("sandbox", "url", box, "80"); r.Code == 0 || !strings.Contains(r.Stderr, "killed") {
		t.Errorf("sandbox url of a killed sandbox = %d %q, want its state", r.Code, r.Stderr)
	}
}

// gatewayLarge moves 2 GB each way; lehr up and its agent do not grow with it.
func gatewayLarge(t *testing.T, w *world.World, id string) {
	const size = 2 << 30
	const growth = 64 << 10 // KB
	pids := []int{w.PID(), w.Agents()[0].PID}
	var before []int
	for _, pid := range pids {
		before = append(before, peakKB(t, pid))
	}
	want := sha256.New()
	if _, err := io.CopyN(want, mathrand.NewChaCha8([32]byte{}), size); err != nil {
		t.Fatal(err)
	}
	r := toBox(t, w, id, "POST /up", io.LimitReader(mathrand.NewChaCha8([32]byte{}), size))
	r.ContentLength = size
	begin := time.Now()
	if status, got := ask(t, r); status != 200 || got != fmt.Sprintf("%d %x <nil>", int64(size), want.Sum(nil)) {
		t.Errorf("up = %d %s, want %d bytes and sum %x", status, got, int64(size), want.Sum(nil))
	}
	t.Logf("2 GB up: %.0f MB/s", size/time.Since(begin).Seconds()/1e6)
	begin = time.Now()
	res, err := http.DefaultClient.Do(toBox(t, w, id, fmt.Sprintf("GET /down?n=%d", int64(size)), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got := sha256.New()
	if n, err := io.Copy(got, res.Body); err != nil || n != size || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("down = %d bytes, %v, sum %x, want %x", n, err, got.Sum(nil), want.Sum(nil))
	}
	t.Logf("2 GB down: %.0f MB/s", size/time.Since(begin).Seconds()/1e6)
	for i, pid := range pids {
		after := peakKB(t, pid)
		t.Logf("peak memory of process %d: %d KB, before %d KB; clock ticks of CPU time in its life: %s", pid, after, before[i], ticks(t, pid))
		if after-before[i] > growth {
			t.Errorf("process %d grew from %d to %d KB under a body of 2 GB", pid, before[i], after)
		}
	}
}

// ticks are the user and system time of a process, in hundredths of a second.
func ticks(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return fields[11] + " + " + fields[12]
}

// peakKB is the most memory that a process has ever had.
func peakKB(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no peak in %s", b)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// gatewayAgentKilled kills the agent under traffic: streams break, and the
// sandboxes answer again under the next one, with the token they had.
func gatewayAgentKilled(t *testing.T, w *world.World, one, two string) {
	token := accessToken(t, w, one)
	res, lines := openEvents(t, w, one)
	defer res.Body.Close()
	nextEvent(t, lines)
	w.KillAgent9()
	for lines.Scan() { // what was on its way
	}
	if lines.Err() == nil {
		t.Error("the stream of a killed agent ends cleanly, want it broken")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, id := range []string{one, two} {
		for {
			res, err := http.DefaultClient.Do(toBox(t, w, id, "GET /", nil).WithContext(ctx))
			if err != nil {
				t.Fatalf("sandbox %s does not answer again: %v", id, err)
			}
			b, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil && res.StatusCode == 200 && string(b) == id+" /" {
				break
			}
			if res.StatusCode == 502 && bytes.Contains(b, []byte("not found")) {
				t.Fatalf("a running sandbox is said to be gone while its agent is away: %s", b)
			}
		}
	}
	gatewayGuest(t, w, one)
	if got := accessToken(t, w, one); got != token {
		t.Errorf("the access token is %s after the agent's restart, was %s", got, token)
	}
}
