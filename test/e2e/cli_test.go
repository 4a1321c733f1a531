package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/term"

	"github.com/lehr-dev/lehr/test/world"
)

// TestCommandLine is what a person does at a terminal: shells, copies,
// completion, and a lehr that is killed.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	orphan := killedRun(t, w)
	t.Run("shell", func(t *testing.T) { testShell(t, w.In(t)) })
	t.Run("shell ends", func(t *testing.T) { testShellEnds(t, w.In(t)) })
	t.Run("copy", func(t *testing.T) { testCopy(t, w.In(t)) })
	t.Run("copy out of a hostile sandbox", func(t *testing.T) { testHostileCopy(t, w.In(t)) })
	t.Run("completion", func(t *testing.T) { testCompletion(t, w.In(t)) })
	t.Run("killed run", func(t *testing.T) {
		if b := awaitEnd(t, w.In(t), orphan); b.State != "killed" || reason(b) != "ttl" {
			t.Errorf("the sandbox of a killed run = %s (%s), want killed (ttl)", b.State, reason(b))
		}
	})
}

// killedRun kills `lehr run` with SIGKILL and returns its sandbox.
func killedRun(t *testing.T, w *world.World) string {
	t.Helper()
	cmd := w.Command("run", "minimal", "--metadata", "run=killed", "--", "sh", "-c", "echo begun; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(w.OK("sandbox", "ls", "-q", "--metadata", "run=killed"))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if b := get(t, w, id); b.ExpiresAt == nil {
		t.Error("the sandbox of a run never ends by itself")
	}
	return id
}

// sitting is a person at a terminal in front of lehr.
type sitting struct {
	t      *testing.T
	cmd    *exec.Cmd
	ours   *os.File
	before *term.State
	read   sync.WaitGroup

	mu    sync.Mutex
	shown bytes.Buffer
	more  chan struct{} // closed and replaced when something is shown
}

// sit starts a command line on a terminal of its own.
func sit(t *testing.T, w *world.World, args ...string) *sitting {
	t.Helper()
	s := &sitting{t: t, cmd: w.Command(args...), more: make(chan struct{})}
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Skipf("SKIP-ENV: no pseudo-terminal: %v", err)
	}
	if err := pty.Setsize(ours, &pty.Winsize{Cols: 91, Rows: 34}); err != nil {
		t.Fatal(err)
	}
	if s.before, err = term.GetState(int(ours.Fd())); err != nil {
		t.Fatal(err)
	}
	s.ours = ours
	s.cmd.Env = append(s.cmd.Env, "TERM=xterm")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = theirs, theirs, theirs
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.read.Go(func() { _, _ = io.Copy(s, ours) })
	// Kept open, so that the terminal can be looked at once lehr has ended.
	t.Cleanup(func() { _ = theirs.Close(); s.read.Wait(); _ = ours.Close() })
	return s
}

func (s *sitting) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.more)
	s.more = make(chan struct{})
	return s.shown.Write(b)
}

func (s *sitting) text() string { s.mu.Lock(); defer s.mu.Unlock(); return s.shown.String() }

// shows waits for a text.
func (s *sitting) shows(text string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	for {
		s.mu.Lock()
		more, found := s.more, strings.Contains(s.shown.String(), text)
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			_ = s.cmd.Process.Kill()
			s.t.Fatalf("the terminal never shows %q: %q", text, s.text())
		}
	}
}

func (s *sitting) types(text string) {
	s.t.Helper()
	if _, err := s.ours.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// ends waits for the end and wants an exit code and the terminal as it was.
func (s *sitting) ends(code int) {
	s.t.Helper()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || s.cmd.ProcessState.ExitCode() != code {
		s.t.Errorf("lehr ended with %v, want exit code %d: %q", err, code, s.text())
	}
	if after, err := term.GetState(int(s.ours.Fd())); err != nil || !reflect.DeepEqual(after, s.before) {
		s.t.Errorf("the terminal is left as %v, %v, want %v", after, err, s.before)
	}
}

func testShell(t *testing.T, w *world.World) {
	id := create(t, w, "minimal", "-e", "FROM_CREATE=yes").ID
	s := sit(t, w, "sandbox", "shell", id, "--cwd", "/usr", "-e", "PS1=ready> ", "--", "/bin/sh")
	s.shows("ready> ")
	s.types("stty size; pwd; echo \"$FROM_CREATE/$TERM/$(tty)\"\r")
	for _, want := range []string{"34 91", "/usr", "yes/xterm/", "ready> "} {
		s.shows(want)
	}
	s.types("echo be''gun; sleep 1000\r")
	s.shows("begun")
	s.types("\x03") // to the sandbox's sleep
	s.types("echo ali''ve\r")
	s.shows("alive")
	s.types("set +m; trap 'stty size; exit 7' WINCH; echo wai''ting; while :; do sleep 0.1; done\r")
	s.shows("waiting")
	if err := pty.Setsize(s.ours, &pty.Winsize{Cols: 120, Rows: 50}); err != nil {
		t.Fatal(err)
	}
	s.shows("50 120")
	s.ends(7)
	if strings.Contains(s.text(), "lehr:") {
		t.Errorf("lehr has something to say: %q", s.text())
	}

	// A login shell, as a user; much output comes whole.
	s = sit(t, w, "sandbox", "shell", id[:len(id)-1], "--user", "nobody", "--cwd", "/tmp")
	s.types("id -un; seq 1 20000; exit\r")
	s.shows("nobody")
	s.shows("\n20000\r\n")
	s.ends(0)
	if n := strings.Count(s.text(), "\n"); n < 20000 {
		t.Errorf("%d lines were shown, want all 20,000", n)
	}
	if r := w.Run("sandbox", "shell", id); r.Code != 2 || !strings.Contains(r.Stderr, "lehr sandbox exec") {
		t.Errorf("a shell off a terminal = %d %q, want 2 and what to use instead", r.Code, r.Stderr)
	}
	// Whatever was started in it is gone with it.
	if out := w.OK("sandbox", "exec", id, "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"); strings.Contains(out, "/bin/sh") || strings.Contains(out, "bash -l") {
		t.Errorf("processes of ended shells are left: %q", out)
	}
}

// However a shell ends, the terminal is as it was and the reason is said.
func testShellEnds(t *testing.T, w *world.World) {
	tests := []struct {
		name string
		end  func(s *sitting, id string)
		code int
		says string
	}{
		{"sandbox killed", func(_ *sitting, id string) { w.OK("sandbox", "kill", id) }, 125, "the connection to the sandbox was lost"},
		{"lehr told to stop", func(s *sitting, _ string) { _ = s.cmd.Process.Signal(syscall.SIGTERM) }, 130, "cancelled"},
		{"shell killed", func(s *sitting, _ string) { s.types("kill -9 $$\r") }, 137, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id := create(t, w.In(t), "minimal").ID
			s := sit(t, w, "sandbox", "shell", id, "-e", "PS1=ready> ", "--", "/bin/sh")
			s.shows("ready> ")
			tt.end(s, id)
			s.shows(tt.says)
			s.ends(tt.code)
		})
	}
}

// tree makes a folder with what a copy has to keep.
func tree(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "deep/er"), 0o755))
	must(os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	for i := range 50 {
		must(os.WriteFile(filepath.Join(dir, fmt.Sprintf("deep/er/file %d", i)), []byte(strings.Repeat("x", i*1000)), 0o644))
	}
	must(os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\necho ran\n"), 0o600))
	must(os.Chmod(filepath.Join(dir, "run.sh"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "big"), bytes.Repeat([]byte("0123456789abcdef"), 1<<20), 0o640))
	must(os.Symlink("../run.sh", filepath.Join(dir, "deep/link")))
	must(os.Symlink("deep/er", filepath.Join(dir, "to-folder")))
	must(os.Symlink("nowhere", filepath.Join(dir, "dangling")))
}

// described is a tree as text.
func described(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		target, _ := os.Readlink(name)
		var content []byte
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(name); err != nil {
				return err
			}
		}
		fmt.Fprintf(&all, "%v %q %q %d %x\n", info.Mode(), rel, target, len(content), content[:min(len(content), 16)])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func testCopy(t *testing.T, w *world.World) {
	id := create(t, w, "minimal").ID
	src, back := filepath.Join(t.TempDir(), "src"), t.TempDir()
	tree(t, src)
	want := described(t, src)
	w.OK("sandbox", "cp", src, id+":/work")
	w.OK("sandbox", "exec", id, "--", "mkdir", "/into")
	for range 2 { // into a folder, then onto itself
		w.OK("sandbox", "cp", src, id+":/into")
	}
	if got := w.OK("sandbox", "exec", id, "--", "/work/deep/link"); got != "ran\n" {
		t.Errorf("the copied program says %q", got)
	}
	w.OK("sandbox", "cp", id+":/work", filepath.Join(back, "work"))
	w.OK("sandbox", "cp", id+":/into/src", back)
	for _, name := range []string{"work", "src"} {
		if diff := cmp.Diff(want, described(t, filepath.Join(back, name))); diff != "" {
			t.Errorf("%s came back otherwise (-want +got):\n%s", name, diff)
		}
	}
	if got := w.OK("sandbox", "exec", id, "--", "sh", "-c", "find / -xdev -name '.lehr-cp-*'; cat /work/big | md5sum"); strings.Contains(got, "lehr-cp") {
		t.Errorf("temporary names are left: %q", got)
	}
	w.OKInput("typed\x00", "sandbox", "cp", "-", id+":/tmp/typed")
	if got := w.OK("sandbox", "cp", id[:len(id)-1]+":/tmp/typed", "-"); got != "typed\x00" {
		t.Errorf("through standard input and output = %q", got)
	}
	w.OK("sandbox", "cp", "--user", "nobody", filepath.Join(src, "run.sh"), id+":/tmp/theirs")
	if got := w.OK("sandbox", "exec", id, "--", "stat", "-c", "%U %a", "/tmp/theirs"); got != "nobody 755\n" {
		t.Errorf("copied as nobody = %q", got)
	}
	if r := w.Run("sandbox", "cp", "--user", "nobody", src, id+":/work-of-nobody"); r.Code != 1 {
		t.Errorf("nobody writes into / = %d %q, want 1", r.Code, r.Stderr)
	}
	small := create(t, w, "minimal", "--disk", "600").ID
	if r := w.RunInput(strings.Repeat("x", 700<<20), "sandbox", "cp", "-", small+":/big"); r.Code != 1 || !strings.Contains(r.Stderr, "[disk_full]") {
		t.Errorf("700 MiB into a disk of 600 = %d %q, want disk_full", r.Code, r.Stderr)
	}
	if got := w.OK("sandbox", "exec", small, "--", "ls", "-A", "/"); strings.Contains(got, "big") || strings.Contains(got, "lehr-cp") {
		t.Errorf("what did not fit is left: %q", got)
	}
}

func testHostileCopy(t *testing.T, w *world.World) {
	id := create(t, w, "minimal").ID
	w.OK("sandbox", "exec", id, "--", "sh", "-c", `mkdir -p /evil/dir && cd /evil && echo evil > dir/passwd && mkfifo fifo
		ln -s /etc out && ln -s ../../../../../../etc up && ln -s dir/../../etc through && ln -s . self && ln -s loop loop
		touch a A "$(printf 'x\033]0;title\007')" && ln -s dir good`)
	around := t.TempDir()
	dst := filepath.Join(around, "copy")
	r := w.Run("sandbox", "cp", id+":/evil", dst)
	if r.Code != 1 || !strings.Contains(r.Stderr, "left out") || strings.ContainsAny(r.Stderr, "\x1b\x07") {
		t.Errorf("a hostile tree = %d %q, want what is left out named, cleanly", r.Code, r.Stderr)
	}
	for _, name := range []string{"out", "up", "through", "fifo"} {
		if _, err := os.Lstat(filepath.Join(dst, name)); err == nil {
			t.Errorf("%s was copied", name)
		}
	}
	for _, name := range []string{"good/passwd", "a", "A", "self/a"} {
		if _, err := os.Stat(filepath.Join(dst, name)); err != nil {
			t.Errorf("%s is missing: %v", name, err)
		}
	}
	// The folder turns into a link that leads out, below a copy that is there.
	w.OK("sandbox", "exec", id, "--", "sh", "-c", "cd /evil && rm -r dir fifo out up through && ln -s /etc dir")
	if r := w.Run("sandbox", "cp", id+":/evil/.", dst); r.Code != 1 {
		t.Errorf("a link in place of a folder = %d %q, want it left out", r.Code, r.Stderr)
	}
	if info, err := os.Lstat(filepath.Join(dst, "dir")); err != nil || !info.IsDir() {
		t.Errorf("the copied folder is %v, %v now", info, err)
	}
	// An endless file and a huge folder end in time.
	w.OK("sandbox", "exec", id, "--", "sh", "-c", "mkdir /huge && cd /huge && seq 1 60000 | xargs touch")
	if r := w.Run("sandbox", "cp", id+":/huge", around); r.Code != 1 {
		t.Errorf("a folder of 60,000 = %d %q, want a refusal", r.Code, r.Stderr)
	}
	if r := w.Run("sandbox", "cp", id+":/dev/zero", around); r.Code != 1 {
		t.Errorf("a device = %d %q, want a refusal", r.Code, r.Stderr)
	}
	if list, err := os.ReadDir(around); err != nil || len(list) != 1 {
		t.Errorf("around the copy there is %v, %v, want the copy alone", list, err)
	}
}

// testCompletion completes live ids and names in a real bash.
func testCompletion(t *testing.T, w *world.World) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("SKIP-ENV: there is no bash")
	}
	const helpers = "/usr/share/bash-completion/bash_completion"
	if _, err := os.Stat(helpers); err != nil {
		t.Skip("SKIP-ENV: bash-completion is not installed")
	}
	id := create(t, w, "minimal").ID
	lehr := w.Command("version").Path
	complete := func(line string) []string {
		t.Helper()
		script := `source ` + helpers + `; export PATH="$(dirname "$1"):$PATH"; source <("$1" completion bash)
			COMP_LINE="$2"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMP_KEY=9; read -r -a COMP_WORDS <<< "$2"
			[[ "$2" == *" " ]] && COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); __start_lehr; printf '%s\n' "${COMPREPLY[@]}"`
		cmd := exec.Command(bash, "-c", script, "bash", lehr, line)
		cmd.Env = w.Command().Env
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("completing %q: %v\n%s", line, err, stderr.String())
		}
		return strings.Fields(string(out))
	}
	for line, want := range map[string]string{
		"lehr sandbox ex":                   "exec",
		"lehr sandbox exec " + id[:6]:       id,
		"lehr run mini":                     "minimal",
		"lehr sandbox ls --sta":             "--state",
		"lehr sandbox ls --state paus":      "paused",
		"lehr templates get min":            "minimal",
		"lehr sandbox kill sb0000000000000": "",
	} {
		got := complete(line)
		found := false
		for _, word := range got {
			found = found || word == want
		}
		if want == "" && len(got) > 0 || want != "" && !found {
			t.Errorf("%q completes to %v, want %q", line, got, want)
		}
	}
}
