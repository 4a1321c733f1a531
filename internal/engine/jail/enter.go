package jail

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Enter arranges that a process which is started with attr, by the calling
// goroutine, before leave is called, is born inside the group: nothing that it
// forks or allocates at once escapes. The goroutine must be locked to its
// thread; on v1 it is this thread alone that visits the group. When leave fails
// the thread is still inside and must not be unlocked, so that it ends with its
// goroutine. Errors: Unavailable.
func (g *Group) Enter(attr *syscall.SysProcAttr) (leave func() error, err error) {
	if g.h.Unified() {
		dir, err := os.Open(g.dir(cpuController))
		if err != nil {
			return nil, errs.Wrap(err, errs.Unavailable, "jail.Enter", "cannot open the control group "+g.name)
		}
		attr.UseCgroupFD = true
		attr.CgroupFD = int(dir.Fd())
		return dir.Close, nil
	}
	return g.enterThread()
}

// enterThread moves the calling thread into the v1 group.
func (g *Group) enterThread() (leave func() error, err error) {
	before, err := threadGroups()
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "jail.Enter", "cannot read the thread's control groups")
	}
	thread := strconv.Itoa(unix.Gettid())
	leave = func() error {
		var failed error
		for controller, root := range g.h.v1 {
			failed = errors.Join(failed, write(filepath.Join(root, before[controller]), "tasks", thread))
		}
		return failed
	}
	for controller := range g.h.v1 {
		if err := write(g.dir(controller), "tasks", thread); err != nil {
			return nil, errors.Join(errs.Wrap(err, errs.Unavailable, "jail.Enter", "cannot enter the control group "+g.name), leave())
		}
	}
	return leave, nil
}

// threadGroups returns the calling thread's v1 group by controller.
func threadGroups() (map[string]string, error) {
	data, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for line := range strings.Lines(string(data)) {
		// "4:memory:/path", see cgroups(7).
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, controller := range strings.Split(parts[1], ",") {
			groups[controller] = parts[2]
		}
	}
	return groups, nil
}
