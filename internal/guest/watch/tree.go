package watch

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// What the kernel is asked to tell of a directory.
const (
	interest = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_DELETE | unix.IN_DELETE_SELF |
		unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
)

// tree maps what the kernel tells of watched directories to events. It is used
// by one goroutine at a time, with the user's rights.
type tree struct {
	fd   int
	opt  Options
	dirs map[int32]string // watch number → path relative to the root
	wds  map[string]int32 // the other way round

	// told are the paths whose coming was told because they were found in a
	// directory that had just come itself. The kernel may tell of them as well.
	told map[string]struct{}
}

func newTree(fd int, opt Options) *tree {
	return &tree{fd: fd, opt: opt, dirs: map[int32]string{}, wds: map[string]int32{}, told: map[string]struct{}{}}
}

// add watches the directory name and, in a recursive watch, all below it. What
// it finds there goes to found, each directory before its contents. What
// vanishes meanwhile, and what below the root the user may not read, is left
// out.
func (t *tree) add(name string, found *[]string) error {
	if err := t.watch(name); err != nil {
		if name != "." && passing(err) {
			return nil
		}
		return err
	}
	if !t.opt.Recursive {
		return nil
	}
	for _, e := range t.read(name) {
		path := filepath.Join(name, e.Name())
		if len(*found) <= maxEvents {
			*found = append(*found, path)
		}
		if !e.IsDir() {
			continue
		}
		if err := t.add(path, found); err != nil {
			return err
		}
	}
	return nil
}

// passing reports whether err is about one directory and not about watching.
func passing(err error) bool {
	switch err {
	case unix.ENOENT, unix.EACCES, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG:
		return true
	}
	return false
}

// maxRead bounds what is kept of one directory: more files are told as an
// overflow, more directories are refused.
const maxRead = maxEvents + maxDirectories

// read returns what is in the directory name, as far as it is of interest: of a
// hostile one with millions of entries the files beyond maxRead are left out.
func (t *tree) read(name string) (list []os.DirEntry) {
	fd, err := t.open(name)
	if err != nil {
		return nil
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	directories := 0
	for directories <= maxDirectories {
		entries, err := dir.ReadDir(1024)
		for _, e := range entries {
			if e.IsDir() {
				directories++
			} else if len(list) > maxRead {
				continue
			}
			list = append(list, e)
		}
		if err != nil || len(entries) == 0 {
			break
		}
	}
	return list
}

func (t *tree) watch(name string) error {
	if len(t.dirs) >= maxDirectories {
		return errs.New(errs.Exhausted, "more than %d directories below %s", maxDirectories, t.opt.Path).
			WithRemedy("watch a smaller tree, or directories one by one")
	}
	wd, err := t.addWatch(name)
	if err != nil {
		return err
	}
	// The same directory under a new name: it was moved before this was told.
	if old, known := t.dirs[wd]; known {
		delete(t.wds, old)
	}
	t.dirs[wd], t.wds[name] = name, wd
	return nil
}

// addWatch asks for what happens in the directory name. gVisor does not check
// whether the caller may read it, so it is opened, and what was opened is
// watched, whatever has taken its place meanwhile.
func (t *tree) addWatch(name string) (int32, error) {
	dir, err := t.open(name)
	if err != nil {
		return 0, err
	}
	defer unix.Close(dir)
	wd, err := unix.InotifyAddWatch(t.fd, "/proc/self/fd/"+strconv.Itoa(dir), interest)
	return int32(wd), err
}

// open opens the directory name. Links below the root are no part of the tree.
func (t *tree) open(name string) (fd int, err error) {
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if name != "." {
		flags |= unix.O_NOFOLLOW
	}
	for {
		if fd, err = unix.Open(t.path(name), flags, 0); err != unix.EINTR {
			return fd, err
		}
	}
}

func (t *tree) path(name string) string { return filepath.Join(t.opt.Path, name) }

// forget stops watching the directory name and all below it.
func (t *tree) forget(name string) {
	for path := range t.wds {
		if path == name || name == "." || strings.HasPrefix(path, name+"/") {
			t.drop(path)
		}
	}
}

// drop stops watching the directory name alone.
func (t *tree) drop(name string) {
	wd, known := t.wds[name]
	if !known {
		return
	}
	// Of a directory that is gone there is no watch any more.
	_, _ = unix.InotifyRmWatch(t.fd, uint32(wd))
	delete(t.wds, name)
	delete(t.dirs, wd)
}

// record is one inotify event.
type record struct {
	wd   int32
	mask uint32
	name string // "" when it is about the directory itself
}

// cut takes the first record off buf. It reports false when there is no whole
// one.
func cut(buf []byte) (r record, rest []byte, ok bool) {
	if len(buf) < unix.SizeofInotifyEvent {
		return record{}, nil, false
	}
	r.wd = int32(binary.NativeEndian.Uint32(buf))
	r.mask = binary.NativeEndian.Uint32(buf[4:])
	size := binary.NativeEndian.Uint32(buf[12:])
	buf = buf[unix.SizeofInotifyEvent:]
	if uint64(size) > uint64(len(buf)) {
		return record{}, nil, false
	}
	name, _, _ := bytes.Cut(buf[:size], []byte{0})
	r.name = string(name)
	return r, buf[size:], true
}

// digest turns what the kernel told into events and watches the directories
// that have come. Errors: Exhausted with code "watch_overflow" when the kernel
// has dropped events; any other ends the watcher.
func (t *tree) digest(buf []byte) (events []Event, err error) {
	for {
		r, rest, ok := cut(buf)
		if !ok {
			break
		}
		buf = rest
		if r.mask&unix.IN_Q_OVERFLOW != 0 {
			return events, errs.New(errs.Exhausted, "the sandbox's kernel has dropped events").
				WithCode(codeOverflow).WithRemedy("list the directory anew")
		}
		if events, err = t.event(events, r); err != nil {
			return events, err
		}
		// One more than can be kept says as much as all of them.
		events = events[:min(len(events), maxEvents+1)]
	}
	if len(t.told) > 0 && t.drained() {
		clear(t.told)
	}
	return events, nil
}

// drained reports whether the kernel has nothing more to tell.
func (t *tree) drained() bool {
	n, err := unix.IoctlGetInt(t.fd, unix.TIOCINQ)
	return err != nil || n == 0
}

// event appends what r means.
func (t *tree) event(events []Event, r record) ([]Event, error) {
	dir, known := t.dirs[r.wd]
	if !known {
		return events, nil
	}
	if r.name == "" {
		return t.self(events, r, dir), nil
	}
	name := filepath.Join(dir, r.name)
	isDir := r.mask&unix.IN_ISDIR != 0
	switch {
	case r.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		return t.came(events, name, isDir)
	case r.mask&unix.IN_MODIFY != 0:
		return append(events, Event{name, Write}), nil
	case r.mask&unix.IN_ATTRIB != 0:
		return append(events, Event{name, Chmod}), nil
	case r.mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) == 0:
		return events, nil
	}
	delete(t.told, name)
	if r.mask&unix.IN_DELETE != 0 {
		t.drop(name) // and nothing below it, as it was empty
		return append(events, Event{name, Remove}), nil
	}
	if isDir {
		t.forget(name)
	}
	return append(events, Event{name, Rename}), nil
}

// came tells of name and of what is in it already.
func (t *tree) came(events []Event, name string, isDir bool) ([]Event, error) {
	if _, told := t.told[name]; told {
		delete(t.told, name)
		return events, nil
	}
	events = append(events, Event{name, Create})
	if !isDir || !t.opt.Recursive {
		return events, nil
	}
	var found []string
	err := t.add(name, &found)
	if len(t.told)+len(found) > maxTold {
		clear(t.told)
	}
	for _, path := range found {
		t.told[path] = struct{}{}
		events = append(events, Event{path, Create})
	}
	return events, err
}

// maxTold bounds what is remembered to have been told. Beyond it some things
// may be told twice.
const maxTold = 4 * maxEvents

// self appends what happened to a watched directory itself. Of one below the
// root its parent tells the same.
func (t *tree) self(events []Event, r record, dir string) []Event {
	switch {
	case r.mask&unix.IN_IGNORED != 0:
		delete(t.dirs, r.wd)
		if t.wds[dir] == r.wd {
			delete(t.wds, dir)
		}
	case dir != ".":
	case r.mask&unix.IN_ATTRIB != 0:
		return append(events, Event{".", Chmod})
	case r.mask&unix.IN_DELETE_SELF != 0:
		return append(events, Event{".", Remove})
	case r.mask&unix.IN_MOVE_SELF != 0:
		// Its path is another's now.
		t.forget(".")
		return append(events, Event{".", Rename})
	}
	return events
}
