package process

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// killRounds bounds how often the process table is read again for processes
// that were started while it was read.
const killRounds = 8

// killTree kills the child root and everything that belongs to it: its process
// group, its session and its descendants, whatever sessions they made for
// themselves. A process that has cut all three ties (a double fork into a new
// session) is the sandbox's, not the command's. The root dies last, because
// while it has not been reaped its number names nothing else; until then its
// group is stopped, lest a shell go on with its next command.
func killTree(root int, c children) {
	_ = c.Signal(root, syscall.SIGSTOP, true)
	for range killRounds {
		table := readTable()
		killed := 0
		for pid := range table {
			if pid != root && table.belongs(pid, root) && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
		if killed == 0 {
			break
		}
	}
	// Errors mean that there is nothing left to kill.
	_ = c.Signal(root, syscall.SIGKILL, true)
	_ = c.Signal(root, syscall.SIGKILL, false)
}

// proc is what the process table says of one process.
type proc struct {
	parent, group, session int
	zombie                 bool
}

type table map[int]proc

func readTable() table {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	t := table{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		if p, ok := parseStat(string(data)); ok {
			t[pid] = p
		}
	}
	return t
}

// parseStat reads state, parent, group and session, which follow the last
// closing parenthesis: the name before it may contain anything.
func parseStat(stat string) (proc, bool) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return proc{}, false
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 4 {
		return proc{}, false
	}
	var n [3]int
	for i := range n {
		v, err := strconv.Atoi(fields[i+1])
		if err != nil {
			return proc{}, false
		}
		n[i] = v
	}
	return proc{parent: n[0], group: n[1], session: n[2], zombie: fields[0] == "Z"}, true
}

// belongs reports whether the living process pid is root's.
func (t table) belongs(pid, root int) bool {
	p := t[pid]
	if p.zombie {
		return false
	}
	if p.group == root || p.session == root {
		return true
	}
	// A table read while it changes may contain a cycle; its size bounds the walk.
	for range t {
		if p.parent == root {
			return true
		}
		next, ok := t[p.parent]
		if !ok {
			return false
		}
		p = next
	}
	return false
}
