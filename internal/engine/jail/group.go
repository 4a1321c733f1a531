package jail

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// cpuPeriod is the length over which CPU time is counted, in microseconds;
// the kernel's default.
const cpuPeriod = 100_000

// Group is one control group. Its methods are safe for concurrent use.
type Group struct {
	h    *Hierarchy
	name string
}

// Group returns the group of that name, whether it exists or not.
func (h *Hierarchy) Group(name string) *Group { return &Group{h: h, name: name} }

// Create makes the group of that name with the given limits. When it fails
// nothing is left. Errors: Unavailable.
func (h *Hierarchy) Create(name string, l Limits) (*Group, error) {
	g := h.Group(name)
	for _, dir := range g.dirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, errors.Join(errs.Wrap(err, errs.Unavailable, "jail.Create", "cannot make the control group "+dir), g.rmdir())
		}
	}
	if err := g.limit(l); err != nil {
		return nil, errors.Join(errs.Wrap(err, errs.Unavailable, "jail.Create", "cannot set the limits of "+name), g.rmdir())
	}
	return g, nil
}

// dir returns the group's directory in the hierarchy of a controller.
func (g *Group) dir(controller string) string {
	root := g.h.unified
	if root == "" {
		root = g.h.v1[controller]
	}
	return filepath.Join(root, g.h.parent, g.name)
}

// dirs returns every directory of the group, once.
func (g *Group) dirs() []string {
	dirs := []string{g.dir(cpuController), g.dir(cpuAccount), g.dir(memoryController), g.dir(pidsController)}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

func (g *Group) limit(l Limits) error {
	quota := strconv.Itoa(l.CPUs * cpuPeriod)
	period := strconv.Itoa(cpuPeriod)
	memory := strconv.FormatInt(l.MemoryBytes, 10)
	pids := strconv.FormatInt(l.Pids, 10)
	if g.h.Unified() {
		dir := g.dir(memoryController)
		return errors.Join(
			write(dir, "cpu.max", quota+" "+period),
			write(dir, "memory.max", memory),
			write(dir, "memory.oom.group", "1"),
			optional(write(dir, "memory.swap.max", "0")),
			write(dir, "pids.max", pids),
		)
	}
	return errors.Join(
		write(g.dir(cpuController), "cpu.cfs_period_us", period),
		write(g.dir(cpuController), "cpu.cfs_quota_us", quota),
		write(g.dir(memoryController), "memory.limit_in_bytes", memory),
		optional(write(g.dir(memoryController), "memory.memsw.limit_in_bytes", memory)),
		write(g.dir(pidsController), "pids.max", pids),
	)
}

// optional forgives a control file that this kernel was built without.
func optional(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Hits counts how often limits of a group were reached.
type Hits struct {
	OOMKills int64 // processes killed for memory
	PidsMax  int64 // forks refused
}

// Hits reads the counters. They are gone with the group, so read them before
// Remove. A group that does not exist has none. Errors: Internal.
func (g *Group) Hits() (Hits, error) {
	memoryFile := "memory.oom_control"
	if g.h.Unified() {
		memoryFile = "memory.events"
	}
	oom, err := counter(g.dir(memoryController), memoryFile, "oom_kill")
	if err != nil {
		return Hits{}, errs.Wrap(err, errs.Internal, "jail.Hits", "cannot read the memory events of "+g.name)
	}
	pids, err := counter(g.dir(pidsController), "pids.events", "max")
	if err != nil {
		return Hits{}, errs.Wrap(err, errs.Internal, "jail.Hits", "cannot read the process events of "+g.name)
	}
	return Hits{OOMKills: oom, PidsMax: pids}, nil
}

// counter reads the line "key N" of a control file.
func counter(dir, name, key string) (int64, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), key+" "); ok {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, lines.Err()
}

// Kill sends SIGKILL to every process in the group. Processes that end
// meanwhile, and a group that does not exist, are fine. Errors: Internal.
func (g *Group) Kill() error {
	pids, err := g.Processes()
	if err != nil {
		return err
	}
	var failed error
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = errors.Join(failed, errs.Wrap(err, errs.Internal, "jail.Kill", "cannot kill a process of "+g.name))
		}
	}
	return failed
}

// Processes lists the processes in the group, as seen by this process. Errors:
// Internal.
func (g *Group) Processes() ([]int, error) {
	data, err := os.ReadFile(filepath.Join(g.dir(pidsController), "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, "jail.Processes", "cannot list the processes of "+g.name)
	}
	var pids []int
	for field := range strings.FieldsSeq(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, errs.Wrap(err, errs.Internal, "jail.Processes", "cannot read the processes of "+g.name)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Remove kills what is left in the group and removes it; it returns once that
// is done or ctx ends. Removing a group that does not exist is no error.
// Errors: Unavailable when ctx ends first.
func (g *Group) Remove(ctx context.Context) error {
	const again = 2 * time.Millisecond // a killed process leaves its group a moment later
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		if err := g.Kill(); err != nil {
			return err
		}
		err := g.rmdir()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errs.Wrap(errors.Join(err, context.Cause(ctx)), errs.Unavailable, "jail.Remove", "cannot remove the control group "+g.name)
		case <-tick.C:
		}
	}
}

func (g *Group) rmdir() error {
	var failed error
	for _, dir := range g.dirs() {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// CPUTime returns the processor time that the group was charged so far. Errors:
// Internal.
func (g *Group) CPUTime() (time.Duration, error) {
	if g.h.Unified() {
		us, err := counter(g.dir(cpuController), "cpu.stat", "usage_usec")
		if err != nil {
			return 0, errs.Wrap(err, errs.Internal, "jail.CPUTime", "cannot read the processor time of "+g.name)
		}
		return time.Duration(us) * time.Microsecond, nil
	}
	data, err := os.ReadFile(filepath.Join(g.dir(cpuAccount), "cpuacct.usage"))
	if err != nil {
		return 0, errs.Wrap(err, errs.Internal, "jail.CPUTime", "cannot read the processor time of "+g.name)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, errs.Wrap(err, errs.Internal, "jail.CPUTime", "cannot read the processor time of "+g.name)
	}
	return time.Duration(ns), nil
}
