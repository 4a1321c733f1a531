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
	"strings"
	"syscall"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

// Resolve makes path absolute: "~" and "~/…" are the home directory, a relative
// path begins at it, an empty one is fallback or, where that is empty, the
// home. Errors: Invalid for a path no system call can take.
func Resolve(path, fallback, home string) (string, error) {
	if strings.ContainsRune(path, 0) {
		return "", errs.New(errs.Invalid, "the path contains a NUL byte").WithField("path")
	}
	if path == "" {
		path = fallback
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
	if err != nil {
		_ = file.Close()
		return nil, nil, pathError(err, path)
	}
	return file, info, nil
}

// Write creates or replaces the file at path, and its missing parents, with
// what r delivers. The content of an existing file is replaced in place, so
// that its owner, mode and links stay. A failure leaves what was written until
// then. Errors: as Open; Exhausted with code "disk_full"; r's own.
func Write(u account.User, path string, r io.Reader) error {
	file, err := create(u, path)
	if err != nil {
		return pathError(err, path)
	}
	_, err = io.Copy(file, r)
	if closing := file.Close(); err == nil {
		err = closing
	}
	return pathError(err, path)
}

func create(u account.User, path string) (file *os.File, err error) {
	err = u.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		// Not truncated before it is known to be a regular file.
		file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NONBLOCK, 0o644)
		return err
	})
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errs.New(errs.Invalid, "path '%s' is not a regular file", path).WithField("path")
	}
	if err == nil {
		err = file.Truncate(0)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
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
