package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/test/world"
)

func testCommands(t *testing.T, w *world.World) {
	id := create(t, w, "minimal", "-e", "FROM_CREATE=1").ID
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"output and error", []string{"--", "sh", "-c", "echo out; echo err >&2"}, 0, "out\n", "err\n"},
		{"exit code", []string{"--", "sh", "-c", "exit 42"}, 42, "", ""},
		{"signal", []string{"--", "sh", "-c", "kill -9 $$"}, 137, "", ""},
		{"time limit", []string{"--timeout", "200ms", "--", "sleep", "100"}, 124, "", "lehr: the command reached its time limit of 200ms\n"},
		{"environment", []string{"-e", "A=x y", "--", "sh", "-c", `echo "$A $FROM_CREATE"`}, 0, "x y 1\n", ""},
		{"user by name", []string{"--user", "nobody", "--", "id", "-un"}, 0, "nobody\n", ""},
		{"user by number", []string{"--user", "1234:99", "--", "sh", "-c", "id -u; id -g"}, 0, "1234\n99\n", ""},
		{"directory", []string{"--cwd", "/usr/share", "--", "pwd"}, 0, "/usr/share\n", ""},
		{"no shell between", []string{"--", "echo", "$HOME;", "*"}, 0, "$HOME; *\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := w.In(t)
			r := w.Run(append([]string{"sandbox", "exec", id}, tt.args...)...)
			if r.Code != tt.code || r.Stdout != tt.stdout || r.Stderr != tt.stderr {
				t.Errorf("exec = %d, stdout %q, stderr %q, want %d, %q, %q", r.Code, r.Stdout, r.Stderr, tt.code, tt.stdout, tt.stderr)
			}
		})
	}
	if r := w.RunInput("some\ntext", "sandbox", "exec", id, "-i", "--", "cat"); r.Stdout != "some\ntext" {
		t.Errorf("exec with standard input = %q, want it back", r.Stdout)
	}
	for name, want := range map[string]int{"/no/such": 127, "/etc/passwd": 126} {
		if r := w.Run("sandbox", "exec", id, "--", name); r.Code != want {
			t.Errorf("exec of %s = exit code %d, want %d\n%s", name, r.Code, want, r.Stderr)
		}
	}
	if r := w.Run("sandbox", "exec", id, "--user", "nosuchuser", "--", "true"); r.Code != 125 || !strings.Contains(r.Stderr, "nosuchuser") {
		t.Errorf("exec as an unknown user = %d %q, want 125 and the name", r.Code, r.Stderr)
	}
	if got := w.OK("run", "minimal", "-e", "X=1", "--", "sh", "-c", "echo $X"); got != "1\n" {
		t.Errorf("run = %q, want 1", got)
	}
	if r := w.Run("run", "minimal", "--", "sh", "-c", "exit 5"); r.Code != 5 {
		t.Errorf("run = exit code %d, want the command's 5", r.Code)
	}
}

// awaitState polls until a sandbox has ended; the test's own limit ends it.
func awaitEnd(t *testing.T, w *world.World, id string) box {
	t.Helper()
	for {
		b := get(t, w, id)
		if b.State == "killed" || b.State == "failed" {
			return b
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("sandbox %s is still %s", id, b.State)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func reason(b box) string {
	if b.Reason == nil {
		return ""
	}
	return *b.Reason
}

func testLimits(t *testing.T, w *world.World) {
	t.Run("memory", func(t *testing.T) {
		w := w.In(t)
		id := create(t, w, "minimal", "--memory", "256").ID
		w.Run("sandbox", "exec", id, "--", "tail", "/dev/zero")
		if b := awaitEnd(t, w, id); b.State != "failed" || reason(b) != "oom" {
			t.Errorf("sandbox = %s (%s), want failed (oom)", b.State, reason(b))
		}
	})
	t.Run("disk", func(t *testing.T) {
		w := w.In(t)
		id := create(t, w, "minimal", "--memory", "256", "--disk", "600").ID
		r := w.Run("sandbox", "exec", id, "--", "sh", "-c", "head -c 1G /dev/zero > /big; ls -s /big >&2; rm /big; echo lives > /small; cat /small")
		wantIn(t, "stderr", r.Stderr, "No space left on device")
		if r.Stdout != "lives\n" {
			t.Errorf("after a full disk stdout = %q, want the sandbox to live", r.Stdout)
		}
		// More than memory is reachable: 400 MiB of files in 256 MiB of memory.
		if r := w.Run("sandbox", "exec", id, "--", "sh", "-c", "head -c 400M /dev/zero > /big && stat -c %s /big"); r.Stdout != "419430400\n" {
			t.Errorf("400 MiB on a disk of 600 = %d %q %q", r.Code, r.Stdout, r.Stderr)
		}
	})
	t.Run("processes", func(t *testing.T) {
		w := w.In(t)
		id := create(t, w, "minimal").ID
		r := w.Run("sandbox", "exec", id, "--timeout", "60s", "--", "sh", "-c", "i=0; while [ $i -lt 20000 ]; do sleep 1000 & i=$((i+1)); done; echo all")
		if strings.Contains(r.Stdout, "all") {
			t.Errorf("20,000 processes were started: %q", r.Stdout)
		}
		if b := get(t, w, id); b.State != "running" && reason(b) != "pids" {
			t.Errorf("sandbox = %s (%s), want it to live, or to end by name", b.State, reason(b))
		}
	})
	t.Run("guest daemon killed", func(t *testing.T) {
		w := w.In(t)
		id := create(t, w, "minimal").ID
		w.Run("sandbox", "exec", id, "--", "sh", "-c", "kill -9 1; sleep 5")
		b := get(t, w, id)
		if b.State != "running" { // a kernel may protect its first process
			if b = awaitEnd(t, w, id); reason(b) != "guest_lost" {
				t.Errorf("sandbox = %s (%s), want guest_lost", b.State, reason(b))
			}
		}
	})
	t.Run("sentry killed", func(t *testing.T) {
		w := w.In(t)
		id := create(t, w, "minimal").ID
		if err := w.Sentry(id).Kill(); err != nil {
			t.Fatal(err)
		}
		if b := awaitEnd(t, w, id); b.State != "failed" || reason(b) != "engine" {
			t.Errorf("sandbox = %s (%s), want failed (engine)", b.State, reason(b))
		}
	})
}

func testNetwork(t *testing.T, w *world.World) {
	id := create(t, w, "minimal").ID
	if r := w.Run("sandbox", "exec", id, "--", "apt-get", "update"); r.Code != 0 || strings.Contains(r.Stdout+r.Stderr, "Failed to fetch") {
		t.Errorf("apt-get update = %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	r := w.Run("sandbox", "exec", id, "--", "bash", "-c", "timeout 2 bash -c 'echo > /dev/tcp/169.254.169.254/80' && echo reached")
	if strings.Contains(r.Stdout, "reached") {
		t.Errorf("the metadata address was reached")
	}
}

func testTTL(t *testing.T, w *world.World) {
	b := create(t, w, "minimal", "--ttl", "1s")
	if b.ExpiresAt == nil {
		t.Error("expires_at is null, want a time")
	}
	if b := awaitEnd(t, w, b.ID); b.State != "killed" || reason(b) != "ttl" {
		t.Errorf("sandbox = %s (%s), want killed (ttl)", b.State, reason(b))
	}
	if r := w.Run("sandbox", "exec", b.ID, "--", "true"); r.Code != 125 {
		t.Errorf("exec in an ended sandbox = exit code %d, want 125", r.Code)
	}
	if b := create(t, w, "minimal"); b.ExpiresAt != nil || b.URL != nil {
		t.Errorf("expires_at = %v, url = %v without --ttl and a gateway, want null", b.ExpiresAt, b.URL)
	}
}

// testBases builds on a directory, a tar and an OCI layout, and on a template.
func testBases(t *testing.T, w *world.World) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is missing: tools/need.sh test installs it")
	}
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "tmp", "root"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/sh"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(root, "bin/sh"), filepath.Join(root, "bin/cat")); err != nil {
		t.Fatal(err)
	}
	bases := map[string]string{
		"dir": "dir:" + root,
		"tar": "tar:" + writeTar(t, root),
		"oci": "oci:" + writeOCI(t, root),
	}
	for kind, base := range bases {
		t.Run(kind, func(t *testing.T) {
			w := w.In(t)
			mustBuild(t, w, "RUN echo from "+kind+" > /etc/made", "-t", "from-"+kind, "--base", base)
			if got := w.OK("run", "from-"+kind, "--", "cat", "/etc/made"); got != "from "+kind+"\n" {
				t.Errorf("file of the template = %q", got)
			}
		})
	}
	mustBuild(t, w, "FROM from-dir\nRUN echo more >> /etc/made", "-t", "second")
	if got := w.OK("run", "second", "--", "cat", "/etc/made"); got != "from dir\nmore\n" {
		t.Errorf("file of a template on a template = %q", got)
	}
	bad := filepath.Join(t.TempDir(), "evil.tar")
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.WriteHeader(&tar.Header{Name: "../../evil", Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.RunInput("RUN true", "build", "-t", "evil", "-f", "-", "--base", "tar:"+bad)
	if r.Code != 1 || !strings.Contains(r.Stderr, "evil") {
		t.Errorf("a tar with ../ = %d %q, want a refusal that names the entry", r.Code, r.Stderr)
	}
}
