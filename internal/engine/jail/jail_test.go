package jail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
)

var testLimits = Limits{CPUs: 1, MemoryBytes: 64 << 20, Pids: 16}

// newGroup makes a group that is removed after the test.
func newGroup(t *testing.T, l Limits) *Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP-ENV: control groups need root")
	}
	h, err := Detect(fmt.Sprintf("lehr-jail-%d-%s", os.Getpid(), strings.ToLower(t.Name())))
	if errs.IsKind(err, errs.Unavailable) {
		t.Skip("SKIP-ENV: " + err.Error())
	}
	if err != nil {
		t.Fatalf("Detect() = %v", err)
	}
	g, err := h.Create("group", l)
	if err != nil {
		t.Fatalf("Create() = %v", err)
	}
	t.Cleanup(func() {
		if err := g.Remove(context.Background()); err != nil {
			t.Errorf("Remove() = %v", err)
		}
		for _, dir := range g.dirs() {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
			_ = os.Remove(filepath.Dir(dir))
		}
	})
	return g
}

// startIn starts a command that is born in g.
func startIn(t *testing.T, g *Group, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		leave, err := g.Enter(cmd.SysProcAttr)
		if err != nil {
			done <- err
			return
		}
		err = cmd.Start()
		if left := leave(); left != nil {
			done <- errors.Join(err, left)
			return // the thread ends with the goroutine
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("starting %q in the group: %v", args, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestDetectRefusesPaths(t *testing.T) {
	t.Parallel()
	for _, parent := range []string{"", ".", "..", "a/b", "/a", "a\x00b"} {
		if _, err := Detect(parent); !errs.IsKind(err, errs.Invalid) {
			t.Errorf("Detect(%q) = %v, want kind invalid", parent, err)
		}
	}
}

func TestProcessIsBornInTheGroup(t *testing.T) {
	t.Parallel()
	g := newGroup(t, testLimits)
	cmd := startIn(t, g, "sleep", "1000")
	pids, err := g.Processes()
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("Processes() = %v, %v, want %d", pids, err, cmd.Process.Pid)
	}
	own, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil || strings.Contains(string(own), g.name) {
		t.Errorf("this thread is in %q, %v", own, err)
	}
	if err := g.Kill(); err != nil {
		t.Errorf("Kill() = %v", err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
}

func TestOOMIsCounted(t *testing.T) {
	t.Parallel()
	g := newGroup(t, testLimits)
	if hits, err := g.Hits(); err != nil || hits != (Hits{}) {
		t.Errorf("Hits() before = %+v, %v", hits, err)
	}
	cmd := startIn(t, g, "dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1")
	if err := cmd.Wait(); err == nil {
		t.Error("256 MB in a group of 64 MB did not fail")
	}
	if hits, err := g.Hits(); err != nil || hits.OOMKills == 0 {
		t.Errorf("Hits() = %+v, %v, want an out-of-memory kill", hits, err)
	}
}

func TestPidsAreCounted(t *testing.T) {
	t.Parallel()
	g := newGroup(t, testLimits)
	cmd := startIn(t, g, "sh", "-c", "for i in $(seq 40); do sleep 1000 & done; wait")
	if err := cmd.Wait(); err == nil {
		t.Error("40 processes in a group of 16 did not fail")
	}
	if hits, err := g.Hits(); err != nil || hits.PidsMax == 0 {
		t.Errorf("Hits() = %+v, %v, want refused forks", hits, err)
	}
}

func TestSetMemory(t *testing.T) {
	t.Parallel()
	g := newGroup(t, testLimits)
	for _, want := range []int64{256 << 20, 32 << 20, 64 << 20} {
		if err := g.SetMemory(want); err != nil {
			t.Fatalf("SetMemory(%d) = %v", want, err)
		}
		if got, err := g.MemoryLimit(); err != nil || got != want {
			t.Errorf("MemoryLimit() = %d, %v, want %d", got, err, want)
		}
	}
}

func TestSetCPUs(t *testing.T) {
	t.Parallel()
	g := newGroup(t, testLimits)
	for _, cpus := range []int{0, 3, 1} {
		if err := g.SetCPUs(cpus); err != nil {
			t.Errorf("SetCPUs(%d) = %v", cpus, err)
		}
	}
	if err := g.h.Group("lehr-never-made").SetCPUs(1); !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("SetCPUs(no group) = %v, want kind unavailable", err)
	}
}

func TestCPUTime(t *testing.T) {
	t.Parallel()
	g := newGroup(t, testLimits)
	startIn(t, g, "sh", "-c", "while :; do :; done")
	deadline := time.Now().Add(time.Minute)
	for {
		spent, err := g.CPUTime()
		if err != nil {
			t.Fatalf("CPUTime() = %v", err)
		}
		if spent > 10*time.Millisecond {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("CPUTime() does not rise")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestGroupThatIsNotThere(t *testing.T) {
	t.Parallel()
	g := newGroup(t, testLimits).h.Group("lehr-never-made")
	if err := g.Remove(t.Context()); err != nil {
		t.Errorf("Remove() = %v", err)
	}
	if hits, err := g.Hits(); err != nil || hits != (Hits{}) {
		t.Errorf("Hits() = %+v, %v", hits, err)
	}
	if pids, err := g.Processes(); err != nil || len(pids) != 0 {
		t.Errorf("Processes() = %v, %v", pids, err)
	}
	if _, err := g.Enter(&syscall.SysProcAttr{}); !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Enter() = %v, want kind unavailable", err)
	}
}
