package hostnet

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// childVariable says that the process runs in a network namespace of its own.
const childVariable = "LEHR_HOSTNET_TEST_CHILD"

// inChild reports whether tests may treat the process's network as a host of
// their own.
var inChild = os.Getenv(childVariable) != ""

// TestMain runs the tests in a child process whose network namespace is fresh:
// that namespace is the host of these tests, so that they neither see nor touch
// the machine's network.
func TestMain(m *testing.M) {
	if inChild || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Env = append(os.Environ(), childVariable+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := child.Run()
	if child.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "tests that need a namespace are skipped:", err)
		os.Exit(m.Run())
	}
	os.Exit(child.ProcessState.ExitCode())
}

// needHost skips a test where there is no namespace to play the host.
func needHost(t testing.TB) {
	t.Helper()
	if !inChild {
		t.Skip("SKIP-ENV: needs root and network namespaces")
	}
}
