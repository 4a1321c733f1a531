// Package jail puts the processes of a sandbox into a control group of their
// own and tells afterwards which of its limits was reached. It speaks both
// cgroup versions: a unified hierarchy where /sys/fs/cgroup is one, else the v1
// controllers cpu, cpuacct, memory and pids.
package jail

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// mountPoint is where every distribution mounts control groups.
const mountPoint = "/sys/fs/cgroup"

// controllers that a group needs; the names are those of the kernel.
const (
	cpuController    = "cpu"
	cpuAccount       = "cpuacct" // v1 only: counts processor time
	memoryController = "memory"
	pidsController   = "pids"
)

// Limits bound one group.
type Limits struct {
	CPUs        int   // processors' worth of time; 0: no limit
	MemoryBytes int64 // memory and page cache that cannot be reclaimed
	Pids        int64 // host tasks
}

// Hierarchy is the place on this machine under which groups are made. It is
// immutable and safe for concurrent use.
type Hierarchy struct {
	parent  string
	unified string            // mount point; empty on v1
	v1      map[string]string // controller → mount point; nil when unified
}

// Detect finds the control groups of this machine. Groups are made under
// parent, one path element, below the root of the hierarchy. Errors: Invalid,
// Unavailable when a needed controller is missing.
func Detect(parent string) (*Hierarchy, error) {
	if parent == "" || strings.ContainsAny(parent, "/\x00") || parent == "." || parent == ".." {
		return nil, errs.New(errs.Invalid, "control group %q is not one path element", parent)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(mountPoint, &st); err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "jail.Detect", "no control groups at "+mountPoint)
	}
	h := &Hierarchy{parent: parent}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		h.unified = mountPoint
		return h, h.enable()
	}
	var err error
	h.v1, err = legacyMounts()
	return h, err
}

// Unified reports whether this is a version 2 hierarchy.
func (h *Hierarchy) Unified() bool { return h.unified != "" }

// enable turns the needed controllers on for children of the root and of parent.
func (h *Hierarchy) enable() error {
	needed := []string{cpuController, memoryController, pidsController}
	have, err := os.ReadFile(filepath.Join(h.unified, "cgroup.controllers"))
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "jail.Detect", "cannot read the controllers of the control groups")
	}
	for _, name := range needed {
		if !slices.Contains(strings.Fields(string(have)), name) {
			return errs.New(errs.Unavailable, "control groups lack the controller %q", name).
				WithRemedy("delegate the controllers cpu, memory and pids to this machine's root group")
		}
	}
	group := filepath.Join(h.unified, h.parent)
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return errs.Wrap(err, errs.Unavailable, "jail.Detect", "cannot make the control group "+group)
	}
	for _, dir := range []string{h.unified, group} {
		if err := write(dir, "cgroup.subtree_control", "+cpu +memory +pids"); err != nil {
			return errs.Wrap(err, errs.Unavailable, "jail.Detect", "cannot delegate controllers in "+dir).
				WithRemedy("move the processes of the root group into a child group first")
		}
	}
	return nil
}

// legacyMounts returns where the needed v1 controllers are mounted.
func legacyMounts() (map[string]string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "jail.Detect", "cannot read the mounts")
	}
	defer func() { _ = f.Close() }()
	found := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[2] != "cgroup" {
			continue
		}
		for _, option := range strings.Split(fields[3], ",") {
			switch option {
			case cpuController, cpuAccount, memoryController, pidsController:
				found[option] = fields[1]
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "jail.Detect", "cannot read the mounts")
	}
	for _, name := range []string{cpuController, cpuAccount, memoryController, pidsController} {
		if found[name] == "" {
			return nil, errs.New(errs.Unavailable, "the control group controller %q is not mounted", name)
		}
	}
	return found, nil
}

// write sets a control file; it never creates one.
func write(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
