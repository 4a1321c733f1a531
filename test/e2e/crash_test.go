package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/test/world"
)

// TestKill9 kills lehr up three times under six builds: each build ends in
// exactly one version, no log has a gap, and a sandbox that writes a number
// every 10 ms does not notice.
func TestKill9(t *testing.T) {
	t.Parallel()
	w := world.Start(t, world.WithWorkers(3))
	id := create(t, w, "minimal").ID
	w.OK("sandbox", "exec", id, "--", "sh", "-c", `setsid sh -c 'echo $$ > /pid; i=0; while :; do i=$((i+1)); echo $i >> /numbers; sleep 0.01; done' > /dev/null 2>&1 &`)
	pid := w.OK("sandbox", "exec", id, "--", "sh", "-c", "while [ ! -s /pid ]; do sleep 0.01; done; cat /pid")

	var builds []built
	for i := range 6 {
		recipe := fmt.Sprintf("RUN echo begin %d; sleep 1\nRUN sleep 1; echo made %d > /made\n", i, i)
		if i%3 == 0 {
			recipe += "START sleep 1000\nHEALTHCHECK --interval=100ms --timeout=5s true\n"
		}
		var b built
		w.JSONInput(recipe, &b, "build", "-t", fmt.Sprintf("crash%d", i), "-f", "-", "--skip-pre-post", "--detach")
		builds = append(builds, b)
	}
	for round := range 3 {
		awaitRunning(t, w)
		time.Sleep(time.Duration(round*400) * time.Millisecond) // another moment of a build each time
		w.Kill9()
		w.Up()
	}
	for i, b := range builds {
		w.OK("builds", "logs", "-f", b.ID)
		var end built
		w.JSON(&end, "builds", "get", b.ID)
		if end.Status != "success" || end.Artifact == nil {
			t.Errorf("build %d = %+v, want success", i, end)
			continue
		}
		var list []struct {
			Version string `json:"version"`
		}
		w.JSON(&list, "templates", "ls", "--name", fmt.Sprintf("crash%d", i))
		if len(list) != 1 || list[0].Version != end.Artifact.Version {
			t.Errorf("versions of crash%d = %+v, want exactly %s", i, list, end.Artifact.Version)
		}
		if got := w.OK("run", fmt.Sprintf("crash%d", i), "--", "cat", "/made"); got != fmt.Sprintf("made %d\n", i) {
			t.Errorf("content of crash%d = %q", i, got)
		}
		checkSeqs(t, w, b.ID)
	}
	checkVersionRows(t, w, 6)
	checkNumbers(t, w, id, pid)
}

func awaitRunning(t *testing.T, w *world.World) {
	t.Helper()
	for {
		var running []built
		w.JSON(&running, "builds", "ls", "--status", "running")
		if len(running) > 0 {
			return
		}
		var pending []built
		w.JSON(&pending, "builds", "ls", "--status", "pending")
		if len(pending) == 0 {
			return // all have ended already
		}
		select {
		case <-t.Context().Done():
			t.Fatal("no build is running")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func checkSeqs(t *testing.T, w *world.World, id string) {
	t.Helper()
	var lines []line
	w.JSON(&lines, "builds", "logs", id)
	attempt := 0
	for i, l := range lines {
		if l.Seq != int64(i+1) || l.Attempt < attempt {
			t.Errorf("line %d of %s has seq %d of attempt %d after attempt %d, want no gap, no double and no way back", i+1, id, l.Seq, l.Attempt, attempt)
			return
		}
		attempt = l.Attempt
	}
}

// checkNumbers looks at what the sandbox wrote through the kills.
func checkNumbers(t *testing.T, w *world.World, id, pid string) {
	t.Helper()
	if now := w.OK("sandbox", "exec", id, "--", "cat", "/pid"); now != pid {
		t.Errorf("pid of the writer = %s, before the kills %s", now, pid)
	}
	numbers := strings.Fields(w.OK("sandbox", "exec", id, "--", "cat", "/numbers"))
	for i, n := range numbers {
		if n != strconv.Itoa(i+1) {
			t.Fatalf("number %d is %s: the writer has a gap", i+1, n)
		}
	}
	before := len(numbers)
	w.OK("sandbox", "exec", id, "--", "sh", "-c", fmt.Sprintf("while [ $(wc -l < /numbers) -le %d ]; do sleep 0.01; done", before))
}

// TestAgentKill9 kills only the agent: lehr up starts it again and it takes its
// sandboxes back.
func TestAgentKill9(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	id := create(t, w, "minimal").ID
	w.OK("sandbox", "exec", id, "--", "sh", "-c", "echo kept > /file")
	w.KillAgent9()
	for {
		r := w.Run("sandbox", "exec", id, "--", "cat", "/file")
		if r.Code == 0 {
			if r.Stdout != "kept\n" {
				t.Errorf("the file holds %q, want kept", r.Stdout)
			}
			break
		}
		if b := get(t, w, id); b.State != "running" {
			t.Fatalf("sandbox = %s (%s) after the agent's death, want running", b.State, reason(b))
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the sandbox is not reachable again: %s", r.Stderr)
		case <-time.After(50 * time.Millisecond):
		}
	}
	w.OK("sandbox", "kill", id)
	if b := get(t, w, id); b.State != "killed" || reason(b) != "user" {
		t.Errorf("sandbox = %s (%s), want killed (user)", b.State, reason(b))
	}
}

// TestStopKeepsSandboxes stops lehr up gracefully and starts it again: builds
// are given back and go on, sandboxes never stop.
func TestStopKeepsSandboxes(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	id := create(t, w, "minimal").ID
	w.OK("sandbox", "exec", id, "--", "sh", "-c", "setsid sleep 100000 > /dev/null 2>&1 & echo $! > /pid")
	var b built
	w.JSONInput("RUN echo begun; sleep 3", &b, "build", "-t", "givenback", "-f", "-", "--skip-pre-post", "--detach")
	awaitLine(t, w, b.ID, "begun")
	w.Stop()
	if agents := w.Agents(); len(agents) != 0 {
		t.Errorf("agents after a stop = %v, want none", agents)
	}
	w.Up()
	w.OK("builds", "logs", "-f", b.ID)
	w.JSON(&b, "builds", "get", b.ID)
	if b.Status != "success" || b.Attempt != 2 {
		t.Errorf("build = %s after %d attempts, want success after 2", b.Status, b.Attempt)
	}
	w.OK("sandbox", "exec", id, "--", "sh", "-c", "kill -0 $(cat /pid)")
}
