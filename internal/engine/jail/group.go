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
	memory := strconv.FormatInt(l.MemoryBytes, 10)
	pids := strconv.FormatInt(l.Pids, 10)
	if g.h.Unified() {
		dir := g.dir(memoryController)
		return errors.Join(
			g.limitCPUs(l.CPUs),
			write(dir, "memory.max", memory),
			write(dir, "memory.oom.group", "1"),
			optional(write(dir, "memory.swap.max", "0")),
			write(dir, "pids.max", pids),
		)
	}
	return errors.Join(
		g.limitCPUs(l.CPUs),
		write(g.dir(memoryController), "memory.limit_in_bytes", memory),
		optional(write(g.dir(memoryController), "memory.memsw.limit_in_bytes", memory)),
		write(g.dir(pidsController), "pids.max", pids),
	)
}

// limitCPUs sets the quota of processor time, none where cpus is 0.
func (g *Group) limitCPUs(cpus int) error {
	dir := g.dir(cpuController)
	quota, period := strconv.Itoa(cpus*cpuPeriod), strconv.Itoa(cpuPeriod)
	if g.h.Unified() {
		if cpus == 0 {
			quota = "max"
		}
		return write(dir, "cpu.max", quota+" "+period)
	}
	if cpus == 0 {
		quota = "-1"
	}
	return errors.Join(write(dir, "cpu.cfs_period_us", period), write(dir, "cpu.cfs_quota_us", quota))
}

// SetCPUs changes the group's limit of processor time; 0 removes it. Errors:
// Unavailable.
func (g *Group) SetCPUs(cpus int) error {
	if err := g.limitCPUs(cpus); err != nil {
		return errs.Wrap(err, errs.Unavailable, "jail.SetCPUs", "cannot set the processor limit of "+g.name)
	}
	return nil
}

// SetMemory changes the group's memory limit. A lower limit is set only when the
// group fits into it: where the kernel would kill for it instead, SetMemory asks
// it to reclaim and fails. Errors: Exhausted when the group uses more and the
// caller should try again later, Unavailable.
func (g *Group) SetMemory(bytes int64) error {
	value := strconv.FormatInt(bytes, 10)
	dir := g.dir(memoryController)
	if g.h.Unified() {
		return g.setUnifiedMemory(dir, bytes)
	}
	const limit, withSwap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	// The limit with swap may never be the smaller one, so the order depends on
	// the direction; only one of the two orders works.
	err := errors.Join(optional(write(dir, withSwap, value)), write(dir, limit, value))
	if err != nil {
		err = errors.Join(write(dir, limit, value), optional(write(dir, withSwap, value)))
	}
	if errors.Is(err, unix.EBUSY) {
		return errs.Wrap(err, errs.Exhausted, "jail.SetMemory", "the group uses more memory than that")
	}
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "jail.SetMemory", "cannot set the memory limit of "+g.name)
	}
	return nil
}

// setUnifiedMemory sets the limit of a version 2 group.
func (g *Group) setUnifiedMemory(dir string, bytes int64) error {
	data, err := os.ReadFile(filepath.Join(dir, "memory.current"))
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "jail.SetMemory", "cannot read the memory of "+g.name)
	}
	used, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "jail.SetMemory", "cannot read the memory of "+g.name)
	}
	if used > bytes {
		// Fails where it could not reclaim that much, or is not known.
		_ = write(dir, "memory.reclaim", strconv.FormatInt(used-bytes, 10))
		return errs.New(errs.Exhausted, "the group uses more memory than that")
	}
	if err := write(dir, "memory.max", strconv.FormatInt(bytes, 10)); err != nil {
		return errs.Wrap(err, errs.Unavailable, "jail.SetMemory", "cannot set the memory limit of "+g.name)
	}
	return nil
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

// MemoryLimit returns the group's memory limit in bytes. Errors: Internal.
func (g *Group) MemoryLimit() (int64, error) {
	name := "memory.limit_in_bytes"
	if g.h.Unified() {
		name = "memory.max"
	}
	data, err := os.ReadFile(filepath.Join(g.dir(memoryController), name))
	if err != nil {
		return 0, errs.Wrap(err, errs.Internal, "jail.MemoryLimit", "cannot read the memory limit of "+g.name)
	}
	limit, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, errs.Wrap(err, errs.Internal, "jail.MemoryLimit", "cannot read the memory limit of "+g.name)
	}
	return limit, nil
}
