package pause

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
)

// program skips where there is none.
func program(t *testing.T) []byte {
	t.Helper()
	p, err := Program()
	if errs.IsKind(err, errs.Unsupported) {
		t.Skip("SKIP-ENV: no pause program for " + runtime.GOARCH)
	}
	if err != nil {
		t.Fatalf("Program() = %v", err)
	}
	return p
}

func TestProgramIsAnELFExecutable(t *testing.T) {
	t.Parallel()
	p := program(t)
	f, err := elf.NewFile(bytes.NewReader(p))
	if err != nil {
		t.Fatalf("elf.NewFile(Program()) = %v", err)
	}
	if len(f.Progs) != 1 || f.Progs[0].Filesz != uint64(len(p)) {
		t.Errorf("Program() has segments %+v, want one that maps all %d bytes", f.Progs, len(p))
	}
}

func TestProgramWritesPausesAndIgnoresChildren(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "limit")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(writeProgram(t), filepath.Join(dir, "made"), file, "1234")
	if err := startUnbusy(cmd); err != nil {
		t.Fatalf("starting the pause program: %v", err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	waitPausing(t, cmd.Process.Pid)
	if got, err := os.ReadFile(file); string(got) != "1234" {
		t.Errorf("the file holds %q, %v, want 1234", got, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "made")); err != nil || !st.IsDir() {
		t.Errorf("the folder is %v, %v, want one", st, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Errorf("killing the pause program: %v", err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the pause program ended by itself")
	}
}

func TestProgramFailsWhenItCannotWrite(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{t.TempDir(), filepath.Join(t.TempDir(), "missing"), "1"}, {"two", "only"}} {
		cmd := exec.Command(writeProgram(t), args...)
		if err := startUnbusy(cmd); err != nil {
			t.Fatalf("starting the pause program: %v", err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("pause %q = %v, want exit status 1", args, err)
		}
	}
}

func TestProgramSetsTheHostName(t *testing.T) {
	t.Parallel()
	path := writeProgram(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := syscall.Unshare(syscall.CLONE_NEWUTS); err != nil {
		t.Skip("SKIP-ENV: no host name of one's own: " + err.Error())
	}
	cmd := exec.Command(path, "a-name")
	if err := startUnbusy(cmd); err != nil {
		t.Fatalf("starting the pause program: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("pause a-name = %v", err)
	}
	if name, err := os.ReadFile("/proc/sys/kernel/hostname"); string(name) != "a-name\n" {
		t.Errorf("the host name is %q, %v, want a-name", name, err)
	}
}

// writeProgram writes the program into a file and returns its path.
func writeProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(path, program(t), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// startUnbusy starts cmd, again where another test's fork held the file open
// for writing for a moment.
func startUnbusy(cmd *exec.Cmd) error {
	for range 100 {
		err := cmd.Start()
		if !errors.Is(err, syscall.ETXTBSY) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return syscall.ETXTBSY
}

// waitPausing returns once pid sits in pause() and ignores SIGCHLD.
func waitPausing(t *testing.T, pid int) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		call, _ := os.ReadFile(filepath.Join(dir, "syscall"))
		status, _ := os.ReadFile(filepath.Join(dir, "status"))
		if strings.HasPrefix(string(call), "34 ") && ignoresSIGCHLD(string(status)) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the pause program did not reach pause() with SIGCHLD ignored")
}

func ignoresSIGCHLD(status string) bool {
	for line := range strings.Lines(status) {
		if mask, ok := strings.CutPrefix(line, "SigIgn:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && bits&(1<<(uint(syscall.SIGCHLD)-1)) != 0
		}
	}
	return false
}
