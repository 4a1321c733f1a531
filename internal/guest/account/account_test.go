package account

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

const (
	passwd = `root:x:0:0:root:/root:/bin/bash
# a comment
broken:x:1
:x:5:5:no name:/:/bin/sh
al:x:1000:1000::/home/al:
number:x:abc:0::/:/bin/sh
77:x:78:78::/home/77:/bin/sh
relative:x:1001:1001::home:/bin/sh
al2:x:1000:9::/home/al2:/bin/sh
huge:x:4294967295:0::/:/bin/sh
`
	group = `root:x:0:
al:x:1000:
extra:x:2000:al,other
more:x:2001:other,al
most:x:2000:al
bad:x:y:al
`
)

func database(t *testing.T) *Database {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"passwd": passwd, "group": group} {
		write(t, filepath.Join(dir, name), content)
	}
	return NewDatabase(filepath.Join(dir, "passwd"), filepath.Join(dir, "group"))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A changed file counts at once, an unchanged one is not read again.
func TestDatabaseChanges(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "passwd")
	d := NewDatabase(path, path)
	hour := time.Now().Add(-time.Hour)
	for i, line := range []string{"al:x:1:1::/a:/bin/sh\n", "al:x:2:2::/a:/bin/sh\n", "al:x:3:3::/aa:/bin/sh\n"} {
		write(t, path, line)
		if i == 2 { // an old file of another size
			if err := os.Chtimes(path, hour, hour); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if u, err := d.Resolve("al"); err != nil || u.UID != uint32(i+1) {
				t.Errorf("Resolve(al) = %+v, %v, want user %d", u, err, i+1)
			}
		}
	}
	if d.passwd.version == (version{}) {
		t.Error("a settled file is read anew every time")
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	f := database(t)
	al := User{Name: "al", UID: 1000, GID: 1000, Groups: []uint32{1000, 2000, 2001}, Home: "/home/al", Shell: "/bin/sh"}
	with := func(u User, gid uint32) User {
		u.GID, u.Groups = gid, []uint32{gid}
		return u
	}
	for spec, want := range map[string]User{
		"root":     {Name: "root", Groups: []uint32{0}, Home: "/root", Shell: "/bin/bash"},
		"0":        {Name: "root", Groups: []uint32{0}, Home: "/root", Shell: "/bin/bash"},
		"al":       al,
		"1000":     al,
		"al:extra": with(al, 2000),
		"al:5":     with(al, 5),
		"77":       {Name: "77", UID: 78, GID: 78, Groups: []uint32{78}, Home: "/home/77", Shell: "/bin/sh"},
		"4711":     {Name: "4711", UID: 4711, Groups: []uint32{0}, Home: "/", Shell: "/bin/sh"},
		"4711:42":  {Name: "4711", UID: 4711, GID: 42, Groups: []uint32{42}, Home: "/", Shell: "/bin/sh"},
		"relative": {Name: "relative", UID: 1001, GID: 1001, Groups: []uint32{1001}, Home: "/", Shell: "/bin/sh"},
	} {
		got, err := f.Resolve(spec)
		if err != nil {
			t.Errorf("Resolve(%q): %v", spec, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Resolve(%q) (-want +got):\n%s", spec, diff)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	f := database(t)
	for _, spec := range []string{
		"", ":", ":0", "ghost", "al:", "al:ghost", "broken", "number", "huge", "4294967295", "4294967296", "-1", "+1", " 0",
		"0:4294967295", "0:0:0", "0x0",
	} {
		if u, err := f.Resolve(spec); !errs.IsKind(err, errs.Invalid) || errs.CodeOf(err) != "user_unknown" {
			t.Errorf("Resolve(%q) = %+v, %v, want user_unknown", spec, u, err)
		}
	}
}

// A user database that is no file, or none at all, blocks and breaks nothing.
func TestResolveWithoutDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, dir, "/dev/zero", filepath.Join(dir, "absent")} {
		f := NewDatabase(path, path)
		if u, err := f.Resolve("0"); err != nil || u.UID != 0 || u.Home != "/" {
			t.Errorf("Resolve(0) with %s = %+v, %v; want user 0", path, u, err)
		}
		if _, err := f.Resolve("root"); err == nil {
			t.Errorf("Resolve(root) with %s succeeded, want failure", path)
		}
	}
}

func FuzzResolve(f *testing.F) {
	for _, spec := range []string{"root", "0", "al:extra", "1:2", ":", "4294967295", "a\x00b"} {
		f.Add(spec, passwd)
	}
	f.Fuzz(func(t *testing.T, spec, database string) {
		path := filepath.Join(t.TempDir(), "db")
		write(t, path, database)
		u, err := NewDatabase(path, path).Resolve(spec)
		if err != nil {
			return
		}
		if u.UID == 1<<32-1 || u.GID == 1<<32-1 {
			t.Errorf("Resolve(%q) = %+v, an id that means no change", spec, u)
		}
		if !strings.HasPrefix(u.Home, "/") || u.Name == "" || len(u.Groups) == 0 || u.Groups[0] != u.GID {
			t.Errorf("Resolve(%q) = %+v, incomplete", spec, u)
		}
	})
}

func TestIsHomeOfOther(t *testing.T) {
	t.Parallel()
	f := database(t)
	al := User{Name: "al", Home: "/home/al"}
	for dir, want := range map[string]bool{"/root": true, "/home/al": false, "/": false, "/app": false} {
		if got := f.IsHomeOfOther(dir, al); got != want {
			t.Errorf("IsHomeOfOther(%q, al) = %t, want %t", dir, got, want)
		}
	}
}

// Do works with the user's rights and groups and leaves none of them behind,
// however many do it at once.
func TestDo(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIP-ENV: lending rights needs root")
	}
	dir, err := os.MkdirTemp("", "guest-account-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	users := []User{
		{UID: 1000, GID: 1000, Groups: []uint32{1000}},
		{UID: 1001, GID: 1001, Groups: []uint32{1001, 2000}},
		{UID: 0, GID: 0, Groups: []uint32{0}},
		{UID: 0, GID: 5, Groups: []uint32{5}},
	}
	done := make(chan error)
	const rounds = 200
	for i := range rounds {
		u := users[i%len(users)]
		path := filepath.Join(dir, "f"+string(rune('a'+i%26))+strings.Repeat("x", i/26))
		go func() {
			done <- u.Do(func() error { return os.WriteFile(path, nil, 0o600) })
		}()
	}
	for range rounds {
		if err := <-done; err != nil {
			t.Errorf("Do: %v", err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	owners := map[[2]uint32]int{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		sys := info.Sys().(*syscall.Stat_t)
		owners[[2]uint32{sys.Uid, sys.Gid}]++
	}
	want := map[[2]uint32]int{{1000, 1000}: 50, {1001, 1001}: 50, {0, 0}: 50, {0, 5}: 50}
	if diff := cmp.Diff(want, owners); diff != "" {
		t.Errorf("owners of the files (-want +got):\n%s", diff)
	}
	checkThreads(t)
}

// checkThreads reads every thread's ids from the kernel.
func checkThreads(t *testing.T) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "Uid:") && line != "Uid:\t0\t0\t0\t0\n" {
				t.Errorf("%s: %q, want root everywhere", task, line)
			}
		}
	}
}
