package files

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

// Bounds of one listing, and so of its memory.
const (
	maxEntries = 50_000
	maxListing = 12 << 20 // bytes of paths and metadata
)

// Entry describes one path. Of a symbolic link, Mode is that of what it leads
// to, while Permissions and Size are its own.
type Entry struct {
	Name        string
	Path        string
	Mode        fs.FileMode
	Permissions string // as "-rw-r--r--"
	Size        int64  // bytes
	UID, GID    uint32
	ModTime     time.Time
	IsLink      bool
	Target      string // where a link leads in the end; its own path when Dangling
	Dangling    bool   // the link leads nowhere the user can see
	Metadata    Metadata
}

// size is about what the entry takes in an answer, in bytes.
func (e Entry) size() int {
	n := 2*len(e.Name) + len(e.Path) + len(e.Target)
	for key, value := range e.Metadata {
		n += len(key) + len(value)
	}
	return n
}

// Stat describes path.
func Stat(u account.User, path string) (e Entry, err error) {
	err = u.Do(func() (err error) {
		e, err = describe(path)
		return err
	})
	return e, pathError(err, path)
}

func describe(path string) (Entry, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{
		Name: info.Name(), Path: path, Mode: info.Mode(), Permissions: info.Mode().String(),
		Size: info.Size(), ModTime: info.ModTime(),
	}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		e.UID, e.GID = sys.Uid, sys.Gid
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		e.IsLink = true
		e.follow()
	}
	if e.Mode.IsRegular() || e.Mode.IsDir() {
		e.Metadata = readMetadata(path)
	}
	return e, nil
}

// follow fills in what a link leads to.
func (e *Entry) follow() {
	e.Mode, e.Target, e.Dangling = 0, e.Path, true
	target, err := filepath.EvalSymlinks(e.Path)
	if err != nil {
		return
	}
	info, err := os.Stat(target)
	if err != nil {
		return
	}
	e.Mode, e.Target, e.Dangling = info.Mode(), target, false
}

// List describes what is in the directory path, down to depth levels (0 counts
// as 1), each directory before its contents. A link to a directory is listed as
// the directory when it is path itself, and not entered below. Entries that
// vanish, and directories below path that may not be read, are left out.
// Errors: Invalid when path is no directory; Exhausted beyond 50,000 entries or
// 12 MiB of paths and metadata.
func List(u account.User, path string, depth uint32) ([]Entry, error) {
	l := &listing{}
	err := u.Do(func() error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return errs.New(errs.Invalid, "path is not a directory: %s", path).WithField("path")
		}
		return l.dir(path, max(depth, 1))
	})
	if err != nil {
		return nil, pathError(err, path)
	}
	return l.entries, nil
}

// listing is a list of entries on its way.
type listing struct {
	entries []Entry
	size    int
}

func (l *listing) dir(dir string, depth uint32) error {
	names, err := l.read(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		e, err := describe(filepath.Join(dir, name.Name()))
		if err != nil {
			continue
		}
		if err := l.add(e); err != nil {
			return err
		}
		if !name.IsDir() || depth == 1 {
			continue
		}
		if err := l.dir(e.Path, depth-1); errs.IsKind(err, errs.Exhausted) {
			return err
		}
	}
	return nil
}

// read returns the names in dir, sorted, as long as they can be listed at all.
func (l *listing) read(dir string) ([]fs.DirEntry, error) {
	// Without O_DIRECTORY a FIFO that took the directory's place would hold us.
	file, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	names, err := file.ReadDir(maxEntries - len(l.entries) + 1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(l.entries)+len(names) > maxEntries {
		return nil, tooMuch("more than %d entries", maxEntries)
	}
	slices.SortFunc(names, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return names, nil
}

func (l *listing) add(e Entry) error {
	l.size += e.size()
	if l.size > maxListing {
		return tooMuch("more than %d bytes of paths and metadata", maxListing)
	}
	l.entries = append(l.entries, e)
	return nil
}

func tooMuch(format string, limit int) error {
	return errs.New(errs.Exhausted, format, limit).
		WithRemedy("list with a smaller depth, or run find in the sandbox")
}
