package files

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

// maxEntries bounds one listing, and so its memory.
const maxEntries = 50_000

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
// Errors: Invalid when path is no directory; Exhausted beyond 50,000 entries.
func List(u account.User, path string, depth uint32) (list []Entry, err error) {
	err = u.Do(func() error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return errs.New(errs.Invalid, "path is not a directory: %s", path).WithField("path")
		}
		list, err = appendDir(nil, path, max(depth, 1))
		return err
	})
	return list, pathError(err, path)
}

func appendDir(list []Entry, dir string, depth uint32) ([]Entry, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return list, err
	}
	for _, name := range names {
		e, err := describe(filepath.Join(dir, name.Name()))
		if err != nil {
			continue
		}
		if len(list) == maxEntries {
			return nil, errs.New(errs.Exhausted, "more than %d entries", maxEntries).
				WithRemedy("list with a smaller depth, or run find in the sandbox")
		}
		list = append(list, e)
		if !name.IsDir() || depth == 1 {
			continue
		}
		deeper, err := appendDir(list, e.Path, depth-1)
		if errs.IsKind(err, errs.Exhausted) {
			return nil, err
		}
		if err == nil {
			list = deeper
		}
	}
	return list, nil
}
