package process

import (
	"os"
	"testing"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]proc{
		"7 (sh) S 1 2 3 0 -1":          {parent: 1, group: 2, session: 3},
		"7 (a) b) (c) Z 4 5 6 0":       {parent: 4, group: 5, session: 6, zombie: true},
		"7 (new\nline) R 1 1 1":        {parent: 1, group: 1, session: 1},
		"7 (9 (S) S 1 2 3) S 10 11 12": {parent: 10, group: 11, session: 12},
	} {
		if got, ok := parseStat(stat); !ok || got != want {
			t.Errorf("parseStat(%q) = %+v, %t, want %+v", stat, got, ok, want)
		}
	}
	for _, stat := range []string{"", "7 (sh", "7 (sh) S 1", "7 (sh) S a b c"} {
		if got, ok := parseStat(stat); ok {
			t.Errorf("parseStat(%q) = %+v, want failure", stat, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(own))
	f.Add("7 (a) b) Z 4 5 6")
	f.Fuzz(func(t *testing.T, stat string) {
		p, ok := parseStat(stat)
		if !ok && p != (proc{}) {
			t.Errorf("parseStat(%q) = %+v without success", stat, p)
		}
	})
}

func TestBelongs(t *testing.T) {
	t.Parallel()
	table := table{
		1:  {},
		10: {parent: 1, group: 10, session: 10},
		11: {parent: 10, group: 11, session: 11},                 // own session, our child
		12: {parent: 11, group: 12, session: 12},                 // its child
		13: {parent: 1, group: 13, session: 10},                  // orphan in the session
		14: {parent: 1, group: 10, session: 14},                  // orphan in the group
		15: {parent: 1, group: 15, session: 15},                  // cut all ties
		16: {parent: 10, group: 16, session: 16, zombie: true},   // dead
		20: {parent: 21, group: 20, session: 20},                 // a cycle, as torn reads
		21: {parent: 20, group: 21, session: 21},                 // may show
		22: {parent: 999, group: 22, session: 22, zombie: false}, // parent gone
	}
	want := map[int]bool{10: true, 11: true, 12: true, 13: true, 14: true}
	for pid := range table {
		if got := table.belongs(pid, 10); got != want[pid] {
			t.Errorf("belongs(%d, 10) = %t, want %t", pid, got, want[pid])
		}
	}
}
