package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/test/world"
)

func decode(t *testing.T, r world.Result, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
		t.Fatalf("stdout is not one JSON object: %v\nstdout: %s\nstderr: %s", err, r.Stdout, r.Stderr)
	}
}

func testMinimal(t *testing.T, w *world.World) {
	wantIn(t, "os-release of minimal", w.OK("run", "minimal", "--", "cat", "/etc/os-release"), "ID=debian")
}

func testBaseTemplate(t *testing.T, w *world.World) {
	b := mustBuild(t, w, `
ENV GREETING="hello  world"
WORKDIR /srv/app
RUN echo "$GREETING" > file && ln file hard && ln -s file soft
USER builder
RUN id -un > /var/tmp/who
CMD ["cat", "file"]
`, "-t", "plain")
	if b.Artifact.Type != "base" || b.Artifact.SnapshotDigest != nil || b.Artifact.SizeBytes <= 0 {
		t.Errorf("artifact = %+v, want a base without snapshot", *b.Artifact)
	}
	if len(b.Steps) != b.TotalSteps || b.TotalSteps != 6 {
		t.Errorf("steps = %d of %d, want 6 of 6", len(b.Steps), b.TotalSteps)
	}
	for i, s := range b.Steps {
		if s.Step != i+1 || s.Phase != "recipe" || s.Status != "success" || !s.OK || s.Cached {
			t.Errorf("step %d = %+v, want a successful, uncached recipe step", i+1, s)
		}
	}
	if got := w.OK("run", "plain"); got != "hello  world\n" {
		t.Errorf("run without a command = %q, want CMD's output", got)
	}
	got := w.OK("run", "plain", "--", "sh", "-c", `id -un; pwd; stat -c %h file; readlink soft; cat /var/tmp/who`)
	if want := "builder\n/srv/app\n2\nfile\nbuilder\n"; got != want {
		t.Errorf("in a sandbox of the template = %q, want %q", got, want)
	}
}

const counter = `
RUN apt-get install -y --no-install-recommends python3-minimal
WORKDIR /srv
RUN <<EOF
cat > counter.py <<'PY'
import os, socket, time
nonce, started, count = os.urandom(8).hex(), time.time(), 0
s = socket.create_server(("", 8000))
while True:
    c, _ = s.accept()
    count += 1
    c.sendall(f"{nonce} {started} {count} {os.getpid()}".encode())
    c.close()
PY
cat > ask.py <<'PY'
import socket
print(socket.create_connection(("127.0.0.1", 8000), 5).recv(1000).decode())
PY
EOF
USER counter
START exec python3 counter.py
RUN echo after > after-start || true
HEALTHCHECK --interval=200ms --timeout=5s --start-period=20s --retries=5 python3 ask.py
`

func testSnapshotTemplate(t *testing.T, w *world.World) {
	b, r := build(t, w, counter, "-t", "counter")
	if b.Status != "success" || b.Artifact == nil || b.Artifact.Type != "snapshot" || b.Artifact.SnapshotDigest == nil {
		t.Fatalf("build = %+v, exit code %d, want a snapshot\n%s", b, r.Code, r.Stderr)
	}
	phases := []string{}
	for _, s := range b.Steps {
		if n := len(phases); n == 0 || phases[n-1] != s.Phase {
			phases = append(phases, s.Phase)
		}
	}
	if got := strings.Join(phases, " "); got != "pre-build recipe post-build recipe" {
		t.Errorf("phases = %q, want pre-build, recipe, post-build, then START in recipe", got)
	}
	before := float64(time.Now().UnixNano()) / 1e9
	var nonce string
	for i := range 3 {
		id := create(t, w, "counter").ID
		first := strings.Fields(w.OK("sandbox", "exec", id, "--", "python3", "/srv/ask.py"))
		second := strings.Fields(w.OK("sandbox", "exec", id, "--", "python3", "/srv/ask.py"))
		if len(first) != 4 || len(second) != 4 {
			t.Fatalf("the server answers %q and %q", first, second)
		}
		if nonce == "" {
			nonce = first[0]
		}
		if first[0] != nonce {
			t.Errorf("nonce of clone %d = %s, want %s: it lives in the memory of the build only", i, first[0], nonce)
		}
		var started float64
		var one, two int
		fmt.Sscan(first[1], &started)
		fmt.Sscan(first[2], &one)
		fmt.Sscan(second[2], &two)
		if started >= before || two != one+1 || first[3] != second[3] {
			t.Errorf("clone %d: started %v, counts %d then %d, pids %s and %s; want a start before %f, its own counting, one process",
				i, started, one, two, first[3], second[3], before)
		}
	}
	a := create(t, w, "counter").ID
	c := create(t, w, "counter").ID
	for _, what := range []string{"cat /proc/sys/kernel/random/uuid", "hostname", "head -c 16 /dev/urandom | od -An -tx1"} {
		x, y := w.OK("sandbox", "exec", a, "--", "sh", "-c", what), w.OK("sandbox", "exec", c, "--", "sh", "-c", what)
		if x == y {
			t.Errorf("%s is %q in both clones, want a difference", what, x)
		}
	}
}

func testFailures(t *testing.T, w *world.World) {
	tests := []struct {
		name, recipe, code, message string
		args                        []string
	}{
		{"exit code", "RUN echo oops >&2; exit 7", "step_failed", "recipe step 1 failed: oops", nil},
		{"later step", "ENV A=1\nRUN true\nRUN exit 3", "step_failed", "recipe step 3 failed", nil},
		{"time limit", "RUN --timeout=300ms sleep 60", "step_timeout", "recipe step 1 failed", nil},
		{"start of a missing binary", "START /no/such/binary\nHEALTHCHECK true", "start_failed", "recipe step 1 failed", nil},
		{"start that dies", "START sleep 0.2; echo dying >&2; exit 9\nHEALTHCHECK --interval=100ms --timeout=1s false", "start_failed", "dying", nil},
		{"healthcheck", "START sleep 1000\nHEALTHCHECK --interval=50ms --timeout=5s --retries=2 echo sick; exit 1", "healthcheck_failed", "sick", nil},
		{"out of memory", "RUN tail /dev/zero", "oom", "recipe step 1 failed", []string{"--memory", "256"}},
		{"disk full", "RUN head -c 400M /dev/zero > /big", "disk_full", "recipe step 1 failed", []string{"--disk", "128"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := w.In(t)
			b, r := build(t, w, tt.recipe, append(tt.args, "-t", "broken", "--skip-pre-post")...)
			if b.Status != "failed" || b.Error == nil || r.Code != 1 {
				t.Fatalf("build = %q, exit code %d, want failed and 1\n%s", b.Status, r.Code, r.Stderr)
			}
			if b.Error.Code != tt.code || b.Error.Fault != "user" || b.Attempt != 1 {
				t.Errorf("error = %+v after %d attempts, want code %s, fault user, one attempt", *b.Error, b.Attempt, tt.code)
			}
			wantIn(t, "message", b.Error.Message, tt.message)
		})
	}
	if r := w.Run("templates", "get", "broken"); r.Code != 1 {
		t.Errorf("templates get broken = exit code %d, want 1: no version was published", r.Code)
	}
}

func testRefusals(t *testing.T, w *world.World) {
	tests := []struct{ name, recipe, want string }{
		{"COPY", "RUN true\nCOPY a b", "COPY"},
		{"ADD", "ADD a b", "ADD"},
		{"multi-stage", "FROM minimal AS a\nRUN true\nFROM minimal", "FROM"},
		{"mount", "RUN --mount=type=cache,target=/x true", "--mount"},
		{"private registry", "FROM 10.0.0.1/x/y:1\nRUN true", "10.0.0.1:443 has a private address"},
		{"unknown instruction", "RUN true\nFETCH x", "FETCH"},
		{"zero interval", "RUN true\nHEALTHCHECK --interval=0s true", "interval"},
		{"unknown base", "FROM nosuchbase\nRUN true", "nosuchbase"},
		{"empty", "", "recipe"},
	}
	var before []built
	w.JSON(&before, "builds", "ls", "--limit", "0")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := w.In(t)
			r := w.RunInput(tt.recipe, "build", "-t", "refused", "-f", "-")
			if r.Code != 1 || r.Stdout != "" {
				t.Errorf("exit code = %d, stdout %q, want 1 and nothing", r.Code, r.Stdout)
			}
			wantIn(t, "stderr", r.Stderr, tt.want)
			wantIn(t, "stderr", r.Stderr, "try:")
		})
	}
	var after []built
	w.JSON(&after, "builds", "ls", "--limit", "0")
	if len(after) != len(before) {
		t.Errorf("builds = %d after refused requests, want %d as before", len(after), len(before))
	}
}

func testCancel(t *testing.T, w *world.World) {
	var b built
	w.JSONInput("RUN echo begun; sleep 1000", &b, "build", "-t", "cancelled", "-f", "-", "--skip-pre-post", "--detach")
	awaitLine(t, w, b.ID, "begun")
	var c built
	w.JSON(&c, "builds", "cancel", b.ID)
	if c.Status != "cancelled" {
		t.Fatalf("status after cancel = %q, want cancelled at once", c.Status)
	}
	logs := w.OK("builds", "logs", "-f", b.ID) // ends when everything is clean
	wantIn(t, "log of the cancelled build", logs, "begun")
	if r := w.Run("builds", "cancel", b.ID); r.Code != 1 || !strings.Contains(r.Stderr, "cancelled") {
		t.Errorf("second cancel = %d %q, want a conflict that names the state", r.Code, r.Stderr)
	}
	if left := strings.Join(w.Processes(), "\n"); c.SandboxID != nil && strings.Contains(left, *c.SandboxID) {
		t.Errorf("a process of the cancelled build's sandbox is left:\n%s", left)
	}
}

// awaitLine follows a build's log until a line appears.
func awaitLine(t *testing.T, w *world.World, id, text string) {
	t.Helper()
	cmd := w.Command("builds", "logs", "-f", id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // its exit code is that of an interrupt
	defer func() { _ = cmd.Process.Signal(os.Interrupt) }()
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if strings.Contains(sc.Text(), text) {
			return
		}
	}
	t.Fatalf("the log of %s ended without %q\n%s", id, text, w.Log())
}

// testLiveLog proves that a follower holds a line before its step has ended:
// the step waits for a file that only the test, having read the line, makes
// unnecessary by cancelling; the step itself never ends.
func testLiveLog(t *testing.T, w *world.World) {
	var b built
	w.JSONInput("RUN echo first; sleep 1000; echo second", &b, "build", "-t", "live", "-f", "-", "--skip-pre-post", "--detach")
	awaitLine(t, w, b.ID, "first")
	var now built
	w.JSON(&now, "builds", "get", b.ID)
	if len(now.Steps) != 1 || now.Steps[0].Status != "running" || now.Steps[0].Exit != nil {
		t.Errorf("steps = %+v, want one that still runs", now.Steps)
	}
	w.OK("builds", "cancel", b.ID)
	var lines []line
	w.JSON(&lines, "builds", "logs", b.ID)
	for i, l := range lines {
		if l.Seq != int64(i+1) || l.Attempt != 1 {
			t.Errorf("line %d = %+v, want seq %d of attempt 1", i, l, i+1)
		}
	}
}

func testDetach(t *testing.T, w *world.World) {
	var b built
	w.JSONInput("RUN true", &b, "build", "-t", "detached:v1", "-f", "-", "--skip-pre-post", "--detach")
	if b.Status != "pending" || b.TotalSteps != 1 {
		t.Errorf("detached build = %q with %d steps, want pending with 1", b.Status, b.TotalSteps)
	}
	w.OK("builds", "logs", "-f", b.ID)
	w.JSON(&b, "builds", "get", b.ID)
	if b.Status != "success" {
		t.Errorf("status = %q, want success", b.Status)
	}
	w.OK("run", "detached:v1", "--", "true")
	if r := w.Run("run", "detached", "--", "true"); r.Code != 125 {
		t.Errorf("run of a tag that does not exist = exit code %d, want 125", r.Code)
	}
}
