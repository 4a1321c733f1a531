// Package files works on the sandbox's files on behalf of its users. Every path
// is opened, made or removed with the user's own rights, so that neither a
// symbolic link nor ".." leads anywhere the user could not go by itself; what is
// made belongs to the user.
package files

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

// Resolve makes path absolute: "~" and "~/…" are the home directory, a relative
// path begins at it, an empty one is fallback or, where that is empty, the
// home. Errors: Invalid for a path no system call can take.
func Resolve(path, fallback, home string) (string, error) {
	if path == "" {
		path = fallback
	}
	if strings.ContainsRune(path, 0) {
		return "", errs.New(errs.Invalid, "the path contains a NUL byte").WithField("path")
	}
	switch {
	case path == "" || path == "~":
		return home, nil
	case strings.HasPrefix(path, "~/"):
		return filepath.Join(home, path[2:]), nil
	case path[0] == '~':
		return "", errs.New(errs.Invalid, "another user's home cannot be named with '~'").WithField("path")
	case filepath.IsAbs(path):
		return filepath.Clean(path), nil
	}
	return filepath.Join(home, path), nil
}

// Open opens the regular file at path for reading. Errors: NotFound;
// PermissionDenied; Invalid for anything but a regular file.
func Open(u account.User, path string) (*os.File, fs.FileInfo, error) {
	var file *os.File
	err := u.Do(func() (err error) {
		// A FIFO without a writer must not block us.
		file, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, nil, pathError(err, path)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errs.New(errs.Invalid, "path '%s' is not a regular file", path).WithField("path")
	}
	if err == nil && info.Size() == 0 && isOurs(file) {
		err = errs.New(errs.PermissionDenied, "path '%s' leads into the guest daemon itself", path).WithField("path")
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, pathError(err, path)
	}
	return file, info, nil
}

// isOurs reports whether file is one of those in which the kernel shows this
// process: its memory and environment are nobody's business, and what /proc/self
// means to a caller is not what it means here.
func isOurs(file *os.File) bool {
	var info unix.Statfs_t
	fd := int(file.Fd())
	if unix.Fstatfs(fd, &info) != nil || info.Type != unix.PROC_SUPER_MAGIC {
		return false
	}
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return err != nil || strings.HasPrefix(path, "/proc/"+strconv.Itoa(os.Getpid())+"/") || strings.HasPrefix(path, "/proc/self/") ||
		strings.HasPrefix(path, "/proc/thread-self/")
}

// Write creates or replaces the file at path, and its missing parents, with
// what r delivers, and makes m all its metadata. The content of an existing file
// is replaced in place, so that its owner, mode and links stay. A failure leaves
// what was written until then; metadata that cannot be kept is found out before
// anything changes. Errors: as Open; Exhausted with code "disk_full"; those of
// Metadata; r's own.
func Write(u account.User, path string, m Metadata, r io.Reader) error {
	if err := m.Validate(); err != nil {
		return err
	}
	file, err := create(u, path, m)
	if err != nil {
		return pathError(err, path)
	}
	err = fill(file, r)
	if closing := file.Close(); err == nil {
		err = closing
	}
	return pathError(err, path)
}

// How much is read and written at once. System calls are what costs in a
// sandbox, so what turns out to be large gets a large buffer.
const (
	smallFile = 1 << 20
	copySize  = 256 << 10
)

// fill copies r to file. The file's own ReadFrom is hidden, because it would
// copy in small pieces.
func fill(file *os.File, r io.Reader) error {
	to, from := struct{ io.Writer }{file}, struct{ io.Reader }{r}
	_, err := io.CopyN(to, from, smallFile)
	if err == nil {
		_, err = io.CopyBuffer(to, from, make([]byte, copySize))
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// create opens path for writing, empty and with metadata m.
func create(u account.User, path string, m Metadata) (*os.File, error) {
	file, isNew, err := openForWriting(u, path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errs.New(errs.Invalid, "path '%s' is not a regular file", path).WithField("path")
	}
	if err == nil {
		err = m.replace(file, path)
	}
	if err == nil {
		err = file.Truncate(0)
	}
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if isNew {
		_ = u.Do(func() error { return os.Remove(path) })
	}
	return nil, err
}

// openForWriting opens path, which it does not truncate before it is known to
// be a regular file, and reports whether it was not there before.
func openForWriting(u account.User, path string) (file *os.File, isNew bool, err error) {
	const flags = os.O_WRONLY | syscall.O_NONBLOCK
	err = u.Do(func() error {
		file, err = os.OpenFile(path, flags, 0)
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if file, err = os.OpenFile(path, flags|os.O_CREATE|os.O_EXCL, 0o644); err == nil {
			isNew = true
			return nil
		}
		// A link that leads nowhere is there, and yet makes a file.
		file, err = os.OpenFile(path, flags|os.O_CREATE, 0o644)
		return err
	})
	return file, isNew, err
}

// MakeDir makes a directory and its missing parents. Errors: Exists when it is
// there already; Invalid when something else is.
func MakeDir(u account.User, path string) error {
	return pathError(u.Do(func() error {
		info, err := os.Stat(path)
		switch {
		case err == nil && info.IsDir():
			return errs.New(errs.Exists, "directory already exists: %s", path)
		case err == nil:
			return errs.New(errs.Invalid, "path already exists but it is not a directory: %s", path).WithField("path")
		}
		return os.MkdirAll(path, 0o755)
	}), path)
}

// Move renames source to destination, replacing a file there, and makes the
// destination's missing parents.
func Move(u account.User, source, destination string) error {
	return pathError(u.Do(func() error {
		if _, err := os.Lstat(source); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(destination), 0o755); err != nil {
			return err
		}
		return os.Rename(source, destination)
	}), source)
}

// Remove removes path and all below it. What is not there is no error.
func Remove(u account.User, path string) error {
	if path == "/" {
		return errs.New(errs.Invalid, "the root directory cannot be removed").WithField("path")
	}
	return pathError(u.Do(func() error { return os.RemoveAll(path) }), path)
}

// pathError gives the failures of the file system their kinds.
func pathError(err error, path string) error {
	var known *errs.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case syscall.ENOENT:
		return errs.New(errs.NotFound, "path not found: %s", path).WithField("path")
	case syscall.EACCES, syscall.EPERM, syscall.EROFS:
		return errs.New(errs.PermissionDenied, "%s: %w", path, errno).WithField("path")
	case syscall.EEXIST, syscall.ENOTEMPTY:
		return errs.New(errs.Exists, "%s: %w", path, errno).WithField("path")
	case syscall.ENOSPC, syscall.EDQUOT:
		return errs.New(errs.Exhausted, "not enough disk space for %s", path).WithCode("disk_full")
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM:
		return errs.New(errs.Exhausted, "%s: %w", path, errno)
	case syscall.ENOTDIR, syscall.EISDIR, syscall.EINVAL, syscall.ENAMETOOLONG, syscall.ELOOP,
		syscall.EXDEV, syscall.ENXIO, syscall.EBUSY, syscall.ETXTBSY, syscall.EFBIG:
		return errs.New(errs.Invalid, "%s: %w", path, errno).WithField("path")
	}
	return errs.Wrap(err, errs.Internal, "files", "the file operation failed")
}
