package image

import (
	"errors"
	"fmt"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image/erofs"
)

// CodeTooLarge is the error code of an image that exceeds its Limits.
const CodeTooLarge = "image_too_large"

// Limits bound what is read into one image, base and every layer together. Zero
// means the value of DefaultLimits.
type Limits struct {
	MaxBytes  int64 // of file contents, holes counted as if written
	MaxInodes int64 // of files, directories and other entries
}

// DefaultLimits apply to what a caller leaves unset.
var DefaultLimits = Limits{MaxBytes: 20 << 30, MaxInodes: 1 << 20}

// Bytes allowed per inode, over all, for names and targets, and for the headers
// of an archive.
const (
	nameBytesPerInode   = 256
	headerBytesPerInode = 4 << 10
	minHeaderBytes      = 16 << 20
)

// WithDefaults returns l with DefaultLimits where l is unset.
func (l Limits) WithDefaults() Limits {
	if l.MaxBytes <= 0 {
		l.MaxBytes = DefaultLimits.MaxBytes
	}
	if l.MaxInodes <= 0 {
		l.MaxInodes = DefaultLimits.MaxInodes
	}
	return l
}

// streamBytes bounds one unpacked archive, headers included, so that a small
// upload cannot keep a decompressor busy for ever.
func (l Limits) streamBytes() int64 {
	return l.MaxBytes + max(l.MaxInodes*headerBytesPerInode, minHeaderBytes)
}

// budget counts what was read against limits.
type budget struct {
	limits               Limits
	bytes, inodes, names int64
}

// take counts one name, with the target of the link it may be.
func (b *budget) take(name, target string) error {
	b.inodes++
	b.names += int64(len(name) + len(target))
	if b.inodes > b.limits.MaxInodes {
		return tooLarge("more than %d files and directories", b.limits.MaxInodes)
	}
	if b.names > b.limits.MaxInodes*nameBytesPerInode {
		return tooLarge("more than %d bytes of names", b.limits.MaxInodes*nameBytesPerInode)
	}
	return nil
}

// takeBytes counts size bytes of content, before anything of that size exists.
func (b *budget) takeBytes(size int64) error {
	if size > b.limits.MaxBytes-b.bytes {
		return tooLarge("more than %d bytes of content", b.limits.MaxBytes)
	}
	b.bytes += size
	return nil
}

// takeTree counts everything below n.
func (b *budget) takeTree(n *erofs.Node, seen map[*erofs.Node]bool) error {
	for name, child := range n.Children {
		if seen[child] {
			continue
		}
		seen[child] = true
		if err := errors.Join(b.take(name, child.Target), b.takeBytes(child.Content.Size)); err != nil {
			return err
		}
		if err := b.takeTree(child, seen); err != nil {
			return err
		}
	}
	return nil
}

func tooLarge(format string, args ...any) error {
	return errs.New(errs.Invalid, "the image holds %s", fmt.Sprintf(format, args...)).WithCode(CodeTooLarge).
		WithRemedy("Make the image smaller, or raise the limit on imported images")
}
