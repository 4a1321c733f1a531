package gvisor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// leaks names what exists of this world: files, control groups, processes,
// mounts and namespaces that mention it, and this process's descriptors.
func (w *world) leaks(context.Context) ([]string, error) {
	var found []string
	slots, err := filepath.Glob(filepath.Join(w.dir, "slots", "*"))
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		found = append(found, "folder "+s)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + testGroup + "/*", "/sys/fs/cgroup/" + testGroup + "/*"} {
		groups, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, g := range groups {
			if st, err := os.Stat(g); err == nil && st.IsDir() {
				found = append(found, "cgroup "+g)
			}
		}
	}
	processes, err := sentries()
	if err != nil {
		return nil, err
	}
	for _, pid := range processes {
		found = append(found, fmt.Sprintf("process %d", pid))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, w.dir) {
			found = append(found, "mount "+line)
		}
	}
	fds, err := descriptors(os.Getpid())
	if err != nil {
		return nil, err
	}
	return append(found, fds...), nil
}

// sentries returns every process in the control groups of these tests.
func sentries() ([]int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range all {
		if _, err := os.Stat(file); err != nil {
			continue // it has ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		group, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		if strings.Contains(string(group), "/"+testGroup+"/") {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// descriptors names what a process holds open, without numbers that say nothing.
func descriptors(pid int) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || strings.Contains(target, "/fd") {
			continue // closed meanwhile, or the listing itself
		}
		kind, _, _ := strings.Cut(target, "[")
		if kind == "socket:" || kind == "pipe:" {
			target = kind
		}
		found = append(found, "descriptor "+target)
	}
	return found, nil
}
