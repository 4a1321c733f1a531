package debian

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/image"
)

// helperStore is where the process that TestChildrenDieWithUs kills keeps its
// store.
const helperStore = "LEHR_TEST_DEBIAN_STORE"

// TestChildrenDieWithUs kills a process in the middle of Make and waits until
// everything that it had started is gone.
func TestChildrenDieWithUs(t *testing.T) {
	t.Parallel()
	if err := Check(); err != nil {
		t.Skipf("SKIP-ENV: %v", err)
	}
	store := t.TempDir()
	helper := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperMakes$", "-test.v")
	helper.Env = append(os.Environ(), helperStore+"="+store)
	out, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "apt-get update") { // apt runs by now
	}
	children := descendants(t, helper.Process.Pid)
	if len(children) < 2 {
		t.Errorf("the helper has the descendants %v, want mmdebstrap and what it runs", children)
	}
	watched := make([]int, 0, len(children))
	for _, pid := range children {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			watched = append(watched, fd)
		}
	}
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait()
	for _, fd := range watched {
		awaitEnd(t, fd)
	}
	s, err := image.OpenStore(store)
	if err != nil {
		t.Fatalf("OpenStore(after the crash) = %v", err)
	}
	defer func() { _ = s.Close() }()
	if left, err := os.ReadDir(filepath.Join(store, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestHelperMakes is the process that is killed.
func TestHelperMakes(t *testing.T) {
	dir := os.Getenv(helperStore)
	if dir == "" {
		t.Skip("runs only as a child of TestChildrenDieWithUs")
	}
	s, err := image.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Make(t.Context(), s, Options{SkipRegistry: true, Mirror: "http://127.0.0.1:1/debian", Progress: func(line string) { fmt.Println(line) }})
	t.Errorf("Make() = %v before the kill", err)
}

// descendants returns the processes below pid.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // ended meanwhile
		}
		for word := range strings.FieldsSeq(string(b)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			all = append(append(all, child), descendants(t, child)...)
		}
	}
	return all
}

// awaitEnd waits until the process of the descriptor has ended.
func awaitEnd(t *testing.T, fd int) {
	t.Helper()
	defer func() { _ = unix.Close(fd) }()
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 30_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			t.Errorf("a process outlived the one that started it: %v", err)
		}
		return
	}
}
