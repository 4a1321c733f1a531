package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/test/world"
)

// TestAbuse lets steps and sandboxes behave badly. Each way has its outcome by
// name, and the platform is healthy afterwards with nothing left behind.
func TestAbuse(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	mustBuild(t, w, "RUN true", "-t", "abuse", "--base", "dir:"+probeRoot(t))
	t.Run("steps", func(t *testing.T) { testAbusiveSteps(t, w.In(t)) })
	t.Run("flood", func(t *testing.T) { testFlood(t, w.In(t)) })
	t.Run("output", func(t *testing.T) { testHostileOutput(t, w.In(t)) })
	t.Run("healthchecks", func(t *testing.T) { testHealthchecks(t, w.In(t)) })
	t.Run("environment", func(t *testing.T) { testOddEnvironment(t, w.In(t)) })
	t.Run("names", func(t *testing.T) { testOddNames(t, w.In(t)) })
	t.Run("sandboxes", func(t *testing.T) { testAbusiveSandboxes(t, w.In(t)) })
	t.Run("secrets", func(t *testing.T) { testSecretsStayAway(t, w.In(t)) })
	var boxes []box
	w.JSON(&boxes, "sandbox", "ls", "--limit", "0")
	if len(boxes) > 0 {
		t.Errorf("sandboxes are left: %+v", boxes)
	}
	if got := w.OK("run", "abuse", "--", "/bin/echo", "healthy"); got != "healthy\n" {
		t.Errorf("afterwards a sandbox says %q", got)
	}
}

// probeRoot is a small root file system with a shell and the probe in it.
func probeRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "tmp", "root"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is missing: tools/need.sh test installs it")
	}
	b, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "bin/sh"), b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("echo sleep cat printf kill env ls stat head id od touch grep setsid mkfifo truncate rm mkdir test") {
		if err := os.Link(filepath.Join(root, "bin/sh"), filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", filepath.Join(root, "probe"), "github.com/lehr-dev/lehr/test/escape/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	passwd := "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func testAbusiveSteps(t *testing.T, w *world.World) {
	tests := []struct {
		name, recipe string
		code         string // of the error; empty: the build succeeds
		message      string
		args         []string
	}{
		{"never ends", "RUN --timeout=500ms sleep 100000", "step_timeout", "recipe step 1", nil},
		{"ignores SIGTERM", "RUN --timeout=500ms trap '' TERM HUP INT; while :; do sleep 0.05; done", "step_timeout", "recipe step 1", nil},
		{"leaves its session and holds its pipes", "RUN --timeout=1s /probe abuse escape 100000", "step_timeout", "recipe step 1", nil},
		{"daemonises holding its pipes", "RUN sleep 100000 & echo done", "", "", nil},
		{"daemonises by a double fork", "RUN (setsid sleep 100000 &) ; echo done", "", "", nil},
		{"writes for ever in the background", "RUN (while :; do echo on and on; done &) ; echo done", "", "", nil},
		{"kills the guest daemon", "RUN kill -9 1; sleep 10", "guest_lost", "recipe step 1", nil},
		{"stops the guest daemon", "RUN kill -STOP 1; sleep 100000", "guest_lost", "recipe step 1", nil},
		{"kills everything", "RUN kill -9 -1; true", "", "", nil},
		{"eats the memory", "RUN /probe abuse memory 100000", "oom", "recipe step 1", []string{"--memory", "256"}},
		{"opens descriptors", "RUN /probe abuse descriptors 3000000", "", "", []string{"--memory", "1024"}},
		{"removes the user database", "RUN rm /etc/passwd && mkdir /etc/passwd\nRUN echo still", "", "", nil},
		{"a name that is a pipe", "RUN rm -f /etc/passwd && mkfifo /etc/passwd\nUSER 1234\nRUN echo still", "", "", nil},
		{"a file with a hole", "RUN truncate -s 100M /hole", "", "", nil},
		{"a file with a hole larger than the disk", "RUN truncate -s 100G /hole", "step_failed", "recipe step 1", nil},
		{
			"files with holes larger than the disk together", "RUN for i in 1 2 3 4 5 6 7 8 9; do truncate -s 400M /hole$i; done",
			"disk_full", "holes",
			[]string{"--disk", "400"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := w.In(t)
			b, r := build(t, w, "FROM abuse\n"+tt.recipe, append(tt.args, "-t", "abusive", "--skip-pre-post")...)
			if tt.name == "kills everything" && b.Status == "failed" && b.Error != nil && b.Error.Code == "step_failed" {
				return // whether the shell itself is spared is the kernel's affair
			}
			if tt.code == "" {
				if b.Status != "success" {
					t.Errorf("build = %s %+v, want success\n%s", b.Status, b.Error, r.Stderr)
				}
				return
			}
			if b.Status != "failed" || b.Error == nil || b.Error.Code != tt.code || b.Error.Fault != "user" || b.Attempt != 1 {
				t.Fatalf("build = %s %+v after %d attempts, want failed with %s, the user's, once\n%s", b.Status, b.Error, b.Attempt, tt.code, r.Stderr)
			}
			wantIn(t, "message", b.Error.Message, tt.message)
		})
	}
}

// memoryOf returns the resident memory of a process and its peak, in bytes.
func memoryOf(t *testing.T, pid int) (now, peak int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &now)
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &peak)
	}
	return now << 10, peak << 10
}

// testFlood writes a gigabyte. The log is cut with a mark and the build goes on;
// neither process grows by what it passes on.
func testFlood(t *testing.T, w *world.World) {
	const most = 256 << 20
	agents := w.Agents()
	if len(agents) != 1 {
		t.Fatalf("agents = %v, want one", agents)
	}
	control, _ := memoryOf(t, w.PID())
	agent, _ := memoryOf(t, agents[0].PID)
	var b built
	w.JSONInput("FROM abuse\nRUN /probe abuse flood 1073741824\nRUN echo after the flood", &b, "build", "-t", "flood", "-f", "-", "--skip-pre-post", "--detach")
	logs := w.OK("builds", "logs", "-f", b.ID)
	w.JSON(&b, "builds", "get", b.ID)
	if b.Status != "success" {
		t.Errorf("build = %s %+v, want success", b.Status, b.Error)
	}
	if len(logs) > 64<<20 || !strings.Contains(logs, "truncated") && !strings.Contains(logs, "cut") {
		t.Errorf("log of %d bytes ends in %q, want it cut with a mark", len(logs), logs[max(0, len(logs)-300):])
	}
	_, controlPeak := memoryOf(t, w.PID())
	_, agentPeak := memoryOf(t, agents[0].PID)
	t.Logf("lehr up %d to %d MB, agent %d to %d MB", control>>20, controlPeak>>20, agent>>20, agentPeak>>20)
	if controlPeak-control > most || agentPeak-agent > most {
		t.Errorf("1 GB of output: lehr up grew by %d MB, its agent by %d MB, want less than %d", (controlPeak-control)>>20, (agentPeak-agent)>>20, most>>20)
	}
}

// testHostileOutput writes what terminals and decoders choke on.
func testHostileOutput(t *testing.T, w *world.World) {
	recipe := "FROM abuse\n" +
		`RUN printf 'nul\000here\nbad\377\376utf\n\033]0;title\007\033[31mred\033[0m\033[2J\r\nover\rwritten\n\302\233csi\n'` + "\n" +
		"RUN /probe abuse line 1048576\nRUN printf 'no end'"
	b, r := build(t, w, recipe, "-t", "hostile", "--skip-pre-post")
	if b.Status != "success" {
		t.Fatalf("build = %s %+v, want success\n%s", b.Status, b.Error, r.Stderr)
	}
	var lines []line
	w.JSON(&lines, "builds", "logs", b.ID)
	var all strings.Builder
	long := 0
	for _, l := range lines {
		if strings.HasPrefix(l.Text, "xxxx") {
			long += len(l.Text)
			continue
		}
		all.WriteString(l.Text + "\n")
	}
	if long != 1<<20 {
		t.Errorf("the line of 1 MB has %d bytes in the log", long)
	}
	for _, want := range []string{"nul", "here", "bad", "utf", "red", "no end"} {
		wantIn(t, "log", all.String(), want)
	}
	for _, out := range []string{w.OK("builds", "logs", b.ID), r.Stderr} {
		for _, c := range out {
			if c < ' ' && c != '\n' && c != '\t' || c == 0x7f || c >= 0x80 && c < 0xa0 {
				t.Errorf("the command line prints the control character %q", c)
				break
			}
		}
	}
	if r := w.Run("builds", "get", b.ID); strings.ContainsAny(r.Stdout, "\x1b\x07\x00\u009b") {
		t.Errorf("builds get prints control characters: %q", r.Stdout)
	}
}

func testHealthchecks(t *testing.T, w *world.World) {
	tests := []struct{ name, recipe, code string }{
		{"hangs", "START sleep 100000\nHEALTHCHECK --interval=50ms --timeout=300ms --retries=2 sleep 100000", "healthcheck_failed"},
		{"hangs and holds its pipes", "START sleep 100000\nHEALTHCHECK --interval=50ms --timeout=500ms --retries=2 /probe abuse escape 100000", "healthcheck_failed"},
		{"floods", "START sleep 100000\nHEALTHCHECK --interval=50ms --timeout=1s --retries=2 while :; do echo flood; done", "healthcheck_failed"},
		{"flaps", "START sleep 100000\nHEALTHCHECK --interval=50ms --timeout=5s --retries=5 n=$(cat /n 2>/dev/null || echo 0); n=$((n+1)); echo $n > /n; test $n -ge 3", ""},
		{"START floods", "START (while :; do echo flood; done) & exec sleep 100000\nHEALTHCHECK --interval=50ms --timeout=5s true", ""},
		{"START dies between two probes", "START sleep 0.5; echo dying; exit 4\nHEALTHCHECK --interval=100ms --timeout=5s test -e /never", "start_failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := w.In(t)
			b, r := build(t, w, "FROM abuse\n"+tt.recipe, "-t", "checked", "--skip-pre-post", "--memory", "256")
			switch {
			case tt.code == "" && b.Status == "success":
			case tt.code != "" && b.Status == "failed" && b.Error != nil && b.Error.Code == tt.code && b.Error.Fault == "user":
			default:
				t.Errorf("build = %s %+v, want %q\n%s", b.Status, b.Error, tt.code, r.Stderr)
			}
		})
	}
}

// oddValues are legal values of the environment.
func oddValues() map[string]string {
	return map[string]string{
		"LINES":   "one\ntwo\n\nthree\n",
		"QUOTES":  `"double" 'single' \back\ ` + "`tick` $HOME ${X} $(id)",
		"EQUALS":  "a=b=c=",
		"EMPTY":   "",
		"SPACES":  "  two  \t tab ",
		"CONTROL": "\x01\x1b[31m\x7f",
		"UNICODE": "日本語 🔥 é",
		"LARGE":   strings.Repeat("0123456789", 10<<10),
	}
}

// testOddEnvironment wants every value back, byte for byte.
func testOddEnvironment(t *testing.T, w *world.World) {
	want := oddValues()
	body, err := json.Marshal(map[string]any{"template": "abuse", "env": want})
	if err != nil {
		t.Fatal(err)
	}
	status, answer := call(t, w, "POST /v1/sandboxes", string(body))
	var b box
	if err := json.Unmarshal([]byte(answer), &b); err != nil || status != 201 {
		t.Fatalf("create with odd values = %d %s", status, answer)
	}
	t.Cleanup(func() { w.Run("sandbox", "kill", b.ID) })
	got := map[string]string{}
	for pair := range strings.SplitSeq(w.OK("sandbox", "exec", b.ID, "--", "/bin/cat", "/proc/self/environ"), "\x00") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			got[name] = value
		}
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s = %.80q of %d bytes, want %.80q of %d", name, got[name], len(got[name]), value, len(value))
		}
	}
	for name, value := range want {
		if out := w.OK("sandbox", "exec", b.ID, "-e", "X="+value, "--", "/bin/sh", "-c", `printf %s "$X"`); out != value {
			t.Errorf("-e of %s = %.80q, want it back", name, out)
		}
	}
}

// testOddNames wants files of legal names and arguments of any bytes kept.
func testOddNames(t *testing.T, w *world.World) {
	id := create(t, w, "abuse").ID
	for _, name := range []string{"new\nline", "sp ace", "-dash", "quo'te\"s", "日本語", "%2e%2e", "a\\b", "tab\t", strings.Repeat("n", 255), "\x01\x1b", "#?&=+"} {
		path := "/tmp/" + name
		w.OK("sandbox", "exec", id, "--", "/bin/sh", "-c", `printf %s "$1" > "$1"`, "sh", path)
		if got := w.OK("sandbox", "exec", id, "--", "/bin/cat", path); got != path {
			t.Errorf("the file %q holds %q, want its name", name, got)
		}
		status, body := callFile(t, w, "GET "+id, path, "")
		if status != 200 || body != path {
			t.Errorf("GET of the file %q = %d %.100q, want its name", name, status, body)
		}
		if status, body := callFile(t, w, "PUT "+id, path, "new"); status/100 != 2 {
			t.Errorf("PUT of the file %q = %d %.200s", name, status, body)
		}
		if got := w.OK("sandbox", "exec", id, "--", "/bin/cat", path); got != "new" {
			t.Errorf("the file %q holds %q after PUT, want new", name, got)
		}
	}
	for _, arg := range []string{"", " ", "\n", "*", "$(id)", "--", "\x01", strings.Repeat("a", 100<<10)} {
		if got := w.OK("sandbox", "exec", id, "--", "/bin/sh", "-c", `printf %s "$1"`, "sh", arg); got != arg {
			t.Errorf("the argument %.50q arrives as %.50q", arg, got)
		}
	}
	// What the wire cannot carry is refused by name.
	if r := w.Run("sandbox", "exec", id, "--", "/bin/echo", "\xff\xfe"); r.Code != 125 || !strings.Contains(r.Stderr, "not_utf8") {
		t.Errorf("an argument that is not UTF-8 = %d %q, want a refusal by name", r.Code, r.Stderr)
	}
}

func testAbusiveSandboxes(t *testing.T, w *world.World) {
	t.Run("a neighbour burns", func(t *testing.T) {
		w := w.In(t)
		id, neighbour := create(t, w, "abuse").ID, create(t, w, "abuse").ID
		burning := w.Command("sandbox", "exec", id, "--", "/probe", "abuse", "burn", "64")
		if err := burning.Start(); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if got := w.OK("sandbox", "exec", neighbour, "--", "/bin/echo", "fine"); got != "fine\n" {
				t.Errorf("the neighbour says %q", got)
			}
		}
		if err := burning.Wait(); err != nil {
			t.Errorf("64 threads: %v", err)
		}
	})
	t.Run("a million files", func(t *testing.T) {
		w := w.In(t)
		id := create(t, w, "abuse", "--memory", "512").ID
		r := w.Run("sandbox", "exec", id, "--timeout", "90s", "--", "/probe", "abuse", "files", "1000000")
		b := get(t, w, id)
		switch {
		case r.Code == 0 && b.State == "running": // they fit
		case r.Code == 124 && b.State == "running": // the limit ended it
		case strings.Contains(r.Stderr, "no space left") && b.State == "running":
		case reason(b) == "oom":
		default:
			t.Errorf("a million files = %d %q %q, sandbox %s (%s); want them made, or a limit by name", r.Code, r.Stdout, r.Stderr, b.State, reason(b))
		}
		t.Logf("a million files = %d %q %q, sandbox %s (%s)", r.Code, r.Stdout, r.Stderr, b.State, reason(b))
	})
	t.Run("descriptors without end", func(t *testing.T) {
		w := w.In(t)
		id := create(t, w, "abuse", "--memory", "512").ID
		r := w.Run("sandbox", "exec", id, "--timeout", "90s", "--", "/probe", "abuse", "descriptors", "100000000")
		if b := get(t, w, id); !strings.Contains(r.Stdout, "refused after") && reason(b) != "oom" {
			t.Errorf("descriptors = %d %q %q, sandbox %s (%s); want a refusal", r.Code, r.Stdout, r.Stderr, b.State, reason(b))
		}
	})
	t.Run("the caller goes", func(t *testing.T) {
		w := w.In(t)
		id := create(t, w, "abuse").ID
		for range 20 {
			cmd := w.Command("sandbox", "exec", id, "--", "/bin/sh", "-c", "while :; do echo x; done")
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			_, _ = out.Read(make([]byte, 1))
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		w.OK("sandbox", "exec", id, "--timeout", "60s", "--", "/bin/sh", "-c", `while set -- /proc/[0-9]*; [ $# -gt 2 ]; do :; done`) // the daemon and this shell
	})
}
