package gvisor_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/engine"
)

// TestSentryIsConfined proves the second wall, behind the sentry's own: the
// process is nobody, without capabilities, under a system call filter, in
// namespaces and an empty root of its own, and holds no way to anything of the
// host but its images, its writable layer and the null device.
func TestSentryIsConfined(t *testing.T) {
	f := newFixture(t)
	w := &world{f: f, dir: t.TempDir()}
	w.reopen(t)
	defer func() { _ = w.e.Close() }()
	slot, err := w.e.Prepare(t.Context(), engine.PrepareSpec{Kind: engine.KindBoot, Resources: smallShape})
	if err != nil {
		t.Fatal(err)
	}
	pid := w.e.SentryPID(slot)
	status := readFile(t, fmt.Sprintf("/proc/%d/status", pid))
	for _, want := range []string{
		"Name:\tlehr-sentry\n", "Uid:\t65534\t65534\t65534\t65534\n", "Gid:\t65534\t65534\t65534\t65534\n", "Groups:\t \n",
		"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
		"CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("status of the sentry lacks %q:\n%s", want, status)
		}
	}
	for _, ns := range []string{"ipc", "mnt", "net", "pid", "user", "uts"} {
		ours, _ := os.Readlink("/proc/self/ns/" + ns)
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil || ours == theirs {
			t.Errorf("namespace %s of the sentry = %s, %v; it is this process's", ns, theirs, err)
		}
	}
	mounts := strings.Count(readFile(t, fmt.Sprintf("/proc/%d/mountinfo", pid)), "\n")
	if mounts != 1 {
		t.Errorf("the sentry sees %d mounts, want its empty root only", mounts)
	}
	environ := readFile(t, fmt.Sprintf("/proc/%d/environ", pid))
	if strings.Contains(environ, "PATH=") {
		t.Errorf("environment of the sentry = %q, want none of this process's", environ)
	}
	wantNoForeignFiles(t, w, pid)
}

// wantNoForeignFiles checks by name what a sentry holds open.
func wantNoForeignFiles(t *testing.T, w *world, pid int) {
	t.Helper()
	held, err := descriptors(pid)
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"/dev/null", "anon_inode:", "socket:", "pipe:", "/memfd:", w.dir + "/", w.f.sentry,
		"/" + testGroup + "/", // the Go runtime watches its own control group
		"/sys/fs/cgroup/",
	}
	for _, d := range held {
		name := strings.TrimPrefix(d, "descriptor ")
		ok := false
		for _, prefix := range allowed {
			ok = ok || strings.HasPrefix(name, prefix)
		}
		if !ok {
			t.Errorf("the sentry holds %s", name)
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
