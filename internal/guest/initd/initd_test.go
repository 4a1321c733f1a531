package initd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
)

func TestSecret(t *testing.T) {
	t.Parallel()
	sum := func(s string) string {
		d := sha256.Sum256([]byte(s))
		return hex.EncodeToString(d[:])
	}
	spec := filepath.Join(t.TempDir(), "spec")
	s := OpenSecret("OP", sum("old"), spec)
	check := func(state string, want map[string]bool) {
		t.Helper()
		for secret, ok := range want {
			if got := s.Matches(secret); got != ok {
				t.Errorf("%s: Matches(%q) = %t, want %t", state, secret, got, ok)
			}
		}
	}
	check("without the file", map[string]bool{"old": true, "new": false, "": false})
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(spec, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	s = OpenSecret("OP", sum("old"), spec)
	defer s.Close()
	write("XOP=" + sum("x") + "\x00OP=" + sum("new") + "\x00OP=" + sum("later") + "\x00")
	check("with the file", map[string]bool{"old": false, "new": true, "later": false, "x": false})
	for _, content := range []string{"", "OP=", "OP=12\x00", "OP=" + sum("") + "\x00", strings.Repeat("\x00", 100)} {
		write(content)
		check("with "+content, map[string]bool{"old": false, "": false})
	}
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte("A=1\x00OP=2\x00"), "OP")
	f.Fuzz(func(t *testing.T, env []byte, name string) {
		if v := lookup(env, name); v != "" && !strings.Contains(string(env), name+"="+v) {
			t.Errorf("lookup(%q, %q) = %q, which is not there", env, name, v)
		}
	})
}

func TestIDs(t *testing.T) {
	t.Parallel()
	machine, boot := regexp.MustCompile(`^[0-9a-f]{32}$`), regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	for _, id := range []string{"", "a", "b"} {
		if got := NewMachineID(id); !machine.MatchString(got) {
			t.Errorf("NewMachineID(%q) = %q, want 32 hexadecimal digits", id, got)
		}
		if got := NewBootID(id); !boot.MatchString(got) {
			t.Errorf("NewBootID(%q) = %q, want a version 4 UUID", id, got)
		}
	}
	for _, newID := range []func(string) string{NewMachineID, NewBootID} {
		a, again, b := newID("a"), newID("a"), newID("b")
		if a != again || a == b {
			t.Errorf("ids of a, a and b are %s, %s, %s; want the first two equal only", a, again, b)
		}
		if one, two := newID(""), newID(""); one == two {
			t.Errorf("two ids without a name are both %s", one)
		}
	}
}

// A child is signalled only while it is known; its status comes once.
func TestReaper(t *testing.T) {
	t.Parallel()
	r := NewReaper()
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { defer close(stopped); r.Run(ctx) }()
	defer func() { cancel(); <-stopped }()
	start := func(argv ...string) (int, <-chan syscall.WaitStatus) {
		t.Helper()
		pid, ended, err := r.Start(func() (int, error) {
			return syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Setsid: true}})
		})
		if err != nil {
			t.Fatal(err)
		}
		return pid, ended
	}
	pid, ended := start("/bin/sleep", "1000")
	if err := r.Signal(pid, syscall.SIGTERM, true); err != nil {
		t.Errorf("Signal = %v", err)
	}
	if status := <-ended; status.Signal() != syscall.SIGTERM {
		t.Errorf("status = %v, want SIGTERM", status)
	}
	if err := r.Signal(pid, 0, false); err != syscall.ESRCH {
		t.Errorf("Signal after the end = %v, want ESRCH", err)
	}
	const many = 50
	var all []<-chan syscall.WaitStatus
	for range many {
		_, ended := start("/bin/true")
		all = append(all, ended)
	}
	for _, ended := range all {
		if status := <-ended; !status.Exited() || status.ExitStatus() != 0 {
			t.Errorf("status = %v, want 0", status)
		}
	}
}

func TestEndProcessesOnlyAsProcessOne(t *testing.T) {
	t.Parallel()
	if os.Getpid() == 1 {
		t.Skip("SKIP-ENV: this test is process 1")
	}
	if err := NewHost().EndProcesses(t.Context()); !errs.IsKind(err, errs.Conflict) {
		t.Errorf("EndProcesses = %v, want conflict", err)
	}
}

func TestPlaceholder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, target := range map[string]string{"relative": "run/a", "absolute": filepath.Join(dir, "run/b"), "twice": "relative2", "relative2": "run/c"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"relative": "run/a", "absolute": "run/b", "twice": "run/c", "plain": "plain", "new/dir/x": "new/dir/x"} {
		if err := placeholder(filepath.Join(dir, name)); err != nil {
			t.Errorf("placeholder(%s) = %v", name, err)
		}
		if !isRegular(filepath.Join(dir, want)) {
			t.Errorf("placeholder(%s) made no file %s", name, want)
		}
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	if err := placeholder(filepath.Join(dir, "loop")); err == nil {
		t.Error("placeholder(loop) succeeded, want failure")
	}
}
