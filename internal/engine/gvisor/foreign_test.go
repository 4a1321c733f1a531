package gvisor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// foreign names what sentries have in common beyond what every one may have:
// a socket, pipe or unnamed file of one that another one, or this process,
// holds too is a way from one sandbox to the other.
func (w *world) foreign(context.Context) ([]string, error) {
	holders := map[string][]int{}
	pids, err := sentries()
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		if err := note(holders, pid, w.dir); err != nil {
			return nil, err
		}
	}
	var found []string
	for what, who := range holders {
		if tree := roots(who); len(tree) > 1 {
			found = append(found, fmt.Sprintf("%s is held by %v", what, tree))
		}
	}
	return append(found, w.engineHeld(holders)...), nil
}

// note adds what pid holds and what must not be shared.
func note(holders map[string][]int, pid int, dir string) error {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		if err != nil {
			continue
		}
		private := strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "pipe:") ||
			strings.HasPrefix(target, "net:") || strings.HasPrefix(target, filepath.Join(dir, "slots"))
		if private {
			holders[target] = append(holders[target], pid)
		}
	}
	return nil
}

// roots replaces a sandbox's processes by the control group they are in.
func roots(pids []int) map[string]bool {
	groups := map[string]bool{}
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			continue // it has ended
		}
		group := fmt.Sprintf("process %d outside any group", pid)
		for line := range strings.Lines(string(data)) {
			if _, name, ok := strings.Cut(line, "/"+testGroup+"/"); ok {
				group = strings.TrimSpace(name)
			}
		}
		groups[group] = true
	}
	return groups
}

// engineHeld names what this process shares with a sentry.
func (w *world) engineHeld(holders map[string][]int) []string {
	own := map[string][]int{}
	if err := note(own, os.Getpid(), w.dir); err != nil {
		return []string{err.Error()}
	}
	var found []string
	for what := range own {
		if who := holders[what]; len(who) > 0 {
			found = append(found, fmt.Sprintf("%s is held by the engine and by %v", what, who))
		}
	}
	return found
}
