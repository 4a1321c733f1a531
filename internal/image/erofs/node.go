package erofs

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of the format and of Linux.
const (
	MaxName   = 255       // bytes of one name
	MaxTarget = 4095      // bytes of a symbolic link's target (PATH_MAX without the NUL)
	MaxPath   = 4096      // bytes of a whole path below the root
	maxMajor  = 1<<12 - 1 // of a device number
	maxMinor  = 1<<20 - 1
)

// Node is one inode. A non-directory that is reachable under several names is
// one Node with several parents: a hard link. A directory has one parent. Nodes
// are not safe for concurrent use.
type Node struct {
	Mode     uint32           // type and permission bits as in stat(2), setuid, setgid and sticky included
	UID, GID uint32           // owner
	Sec      int64            // modification time in seconds since 1970, may be negative
	Nsec     uint32           // and nanoseconds, below 1e9
	Rdev     uint32           // device number of a device, from Dev
	Target   string           // of a symbolic link
	Content  Content          // of a regular file
	Children map[string]*Node // of a directory
}

// Content is where the bytes of a regular file are. Src must stay readable
// until the image was written; it may be nil when Size is 0.
type Content struct {
	Src       io.ReaderAt
	Off, Size int64
}

// Type returns the type bits of the mode (unix.S_IFREG and so on).
func (n *Node) Type() uint32 { return n.Mode & unix.S_IFMT }

// IsDir reports whether n is a directory.
func (n *Node) IsDir() bool { return n.Type() == unix.S_IFDIR }

// IsRegular reports whether n is a regular file.
func (n *Node) IsRegular() bool { return n.Type() == unix.S_IFREG }

// IsSymlink reports whether n is a symbolic link.
func (n *Node) IsSymlink() bool { return n.Type() == unix.S_IFLNK }

// IsDevice reports whether n is a character or block device.
func (n *Node) IsDevice() bool { return n.Type() == unix.S_IFCHR || n.Type() == unix.S_IFBLK }

// Dev returns the device number in the form that Rdev takes (the kernel's
// new_encode_dev). It fails where major needs more than 12 bits or minor more
// than 20.
func Dev(major, minor int64) (uint32, error) {
	if major < 0 || major > maxMajor || minor < 0 || minor > maxMinor {
		return 0, fmt.Errorf("device number %d:%d is out of range", major, minor)
	}
	ma, mi := uint32(major), uint32(minor)
	return mi&0xff | ma<<8 | (mi&^0xff)<<12, nil
}

// DevNumber is the reverse of Dev.
func DevNumber(rdev uint32) (major, minor uint32) {
	return rdev >> 8 & maxMajor, rdev&0xff | rdev>>12&^0xff
}

// CheckName says why name cannot be one name in a directory.
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is not a file name", name)
	case len(name) > MaxName:
		return fmt.Errorf("a name of %d bytes is longer than %d", len(name), MaxName)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("name %q contains a slash or a zero byte", name)
	}
	return nil
}

// CheckTarget says why target cannot be the target of a symbolic link.
func CheckTarget(target string) error {
	switch {
	case target == "":
		return fmt.Errorf("the target of a symbolic link is empty")
	case len(target) > MaxTarget:
		return fmt.Errorf("the target of a symbolic link has %d bytes, more than %d", len(target), MaxTarget)
	case strings.IndexByte(target, 0) >= 0:
		return fmt.Errorf("the target of a symbolic link contains a zero byte")
	}
	return nil
}

// check says what of n alone cannot be written.
func (n *Node) check() error {
	if n.Nsec >= 1e9 {
		return fmt.Errorf("%d nanoseconds", n.Nsec)
	}
	switch n.Type() {
	case unix.S_IFDIR, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		return nil
	case unix.S_IFLNK:
		return CheckTarget(n.Target)
	case unix.S_IFREG:
		if n.Content.Size < 0 || n.Content.Size > 0 && n.Content.Src == nil {
			return fmt.Errorf("a file of %d bytes has no content", n.Content.Size)
		}
		return nil
	}
	return fmt.Errorf("unknown file type %#o", n.Type())
}
