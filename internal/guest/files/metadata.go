package files

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Metadata is what users attach to a file: extended attributes of the name
// "user.e2b.<key>".
type Metadata map[string]string

// Sizes of metadata, in bytes.
const (
	metadataPrefix = "user.e2b."
	maxAttribute   = 255     // Linux's XATTR_NAME_MAX, prefix included
	maxMetadata    = 4 << 10 // keys and values together, of one file
)

// Validate refuses what no file can carry or no header transport. Errors:
// Invalid.
func (m Metadata) Validate() error {
	total := 0
	for key, value := range m {
		if key == "" || len(metadataPrefix)+len(key) > maxAttribute || strings.ContainsFunc(key, notToken) {
			return invalidMetadata("the key %.64q is not one to %d letters, digits and !#$%%&'*+-.^_`|~", key, maxAttribute-len(metadataPrefix))
		}
		if strings.ContainsFunc(value, notPrintable) {
			return invalidMetadata("the value of %q is not printable ASCII", key)
		}
		total += len(key) + len(value)
	}
	if total > maxMetadata {
		return invalidMetadata("%d bytes of keys and values, and %d is the most", total, maxMetadata)
	}
	return nil
}

func invalidMetadata(format string, args ...any) error {
	return errs.New(errs.Invalid, "metadata: "+format, args...).WithField("metadata")
}

// notToken reports whether r may not stand in a header's name; upper case is
// no letter here, because names of headers have no case.
func notToken(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
	return !letter && (r >= 0x7f || !strings.ContainsRune("!#$%&'*+-.^_`|~", r))
}

func notPrintable(r rune) bool { return r < ' ' || r > '~' }

// replace makes m all the metadata of file. Errors: Unsupported where the file
// system keeps none and m is not empty.
func (m Metadata) replace(file *os.File, path string) error {
	fd := int(file.Fd())
	for _, name := range attributes(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) }) {
		if _, kept := m[strings.TrimPrefix(name, metadataPrefix)]; !kept {
			if err := unix.Fremovexattr(fd, name); err != nil && !errors.Is(err, unix.ENODATA) {
				return metadataError(err, path)
			}
		}
	}
	for key, value := range m {
		if err := unix.Fsetxattr(fd, metadataPrefix+key, []byte(value), 0); err != nil {
			return metadataError(err, path)
		}
	}
	return nil
}

func metadataError(err error, path string) error {
	switch {
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS):
		return errs.New(errs.Unsupported, "the file system of %s keeps no metadata", path).WithField("metadata").
			WithRemedy("write the file without metadata, or to another directory")
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ERANGE):
		return invalidMetadata("more than the file system of %s keeps", path)
	}
	return err
}

// attributes returns the names of the metadata that list finds.
func attributes(list func([]byte) (int, error)) []string {
	size, err := list(nil)
	if err != nil || size <= 0 {
		return nil
	}
	// It may have grown meanwhile; what does not fit is left out as a whole.
	buf := make([]byte, min(size, maxList))
	size, err = list(buf)
	if err != nil {
		return nil
	}
	names := strings.Split(string(buf[:size]), "\x00")
	names = slices.DeleteFunc(names, func(name string) bool {
		return len(name) <= len(metadataPrefix) || !strings.HasPrefix(name, metadataPrefix)
	})
	slices.Sort(names)
	return names
}

// maxList is Linux's XATTR_LIST_MAX.
const maxList = 64 << 10

// readMetadata returns what path carries; users may set attributes by
// themselves, so it stops where there is more than Validate allows.
func readMetadata(path string) Metadata {
	var m Metadata
	left := maxMetadata
	for _, name := range attributes(func(buf []byte) (int, error) { return unix.Listxattr(path, buf) }) {
		value := make([]byte, left)
		n, err := unix.Getxattr(path, name, value)
		key := strings.TrimPrefix(name, metadataPrefix)
		if err != nil || n+len(key) > left {
			continue
		}
		left -= n + len(key)
		if m == nil {
			m = Metadata{}
		}
		m[key] = string(value[:n])
	}
	return m
}
