package pack

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Dir writes the folder at dir as a tar. The same folder gives the same bytes:
// entries are sorted, owners are numbers, times of access and change and
// extended attributes are left out. Hard links stay links. Sockets are skipped
// and file capabilities lost, with a warning each. A file that changes while it
// is read is an error of kind Conflict.
func Dir(ctx context.Context, dir string, w io.Writer, warn func(string)) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return pathError(err, dir)
	}
	defer func() { _ = root.Close() }()
	buffered := bufio.NewWriterSize(w, 1<<20)
	p := &packer{
		ctx: ctx, root: root, dir: dir, warn: warn, tar: tar.NewWriter(buffered),
		names: make(map[inode]string), buf: make([]byte, 1<<20),
	}
	if err := p.add("."); err != nil {
		return err
	}
	if err := p.tar.Close(); err != nil {
		return fmt.Errorf("end the archive: %w", err)
	}
	return buffered.Flush()
}

// inode names a file whatever its name.
type inode struct{ dev, ino uint64 }

// packer writes one folder.
type packer struct {
	ctx   context.Context
	root  *os.Root
	dir   string
	warn  func(string)
	tar   *tar.Writer
	names map[inode]string // the first name of each file that has several
	buf   []byte
}

// add writes the entry name and what is below it.
func (p *packer) add(name string) error {
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(p.dir, name), &st); err != nil {
		return pathError(err, filepath.Join(p.dir, name))
	}
	h, err := p.header(name, &st)
	if h == nil || err != nil {
		return err
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return errs.New(errs.Invalid, "%s cannot be packed: %w", filepath.Join(p.dir, name), err)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return p.content(name, h.Size, &st)
	case tar.TypeDir:
		return p.children(name)
	}
	return nil
}

// header describes the entry; nil for one that is skipped.
func (p *packer) header(name string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, known := p.names[id]; known {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return h, nil
		}
		p.names[id] = name
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		p.warnOfCapability(name)
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case unix.S_IFLNK:
		target, err := p.root.Readlink(name)
		if err != nil {
			return nil, pathError(err, filepath.Join(p.dir, name))
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		p.warn(fmt.Sprintf("%s is a socket and was left out", filepath.Join(p.dir, name)))
		return nil, nil
	}
	return h, nil
}

// warnOfCapability says so when a file loses rights that its mode does not show.
func (p *packer) warnOfCapability(name string) {
	if n, err := unix.Lgetxattr(filepath.Join(p.dir, name), "security.capability", nil); err == nil && n > 0 {
		p.warn(fmt.Sprintf("%s has file capabilities, which images cannot hold", filepath.Join(p.dir, name)))
	}
}

// content copies the bytes of a regular file that was seen as st.
func (p *packer) content(name string, size int64, st *unix.Stat_t) error {
	full := filepath.Join(p.dir, name)
	f, err := p.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return pathError(err, full)
	}
	defer func() { _ = f.Close() }()
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return pathError(err, full)
	}
	n, err := io.CopyBuffer(writerOnly{p.tar}, io.LimitReader(ctxReader{p.ctx, f}, size), p.buf)
	if cause := context.Cause(p.ctx); cause != nil {
		return cause
	}
	if err == nil && (n < size || now.Ino != st.Ino || now.Dev != st.Dev || now.Size != st.Size) {
		return errs.New(errs.Conflict, "%s changed while it was read", full)
	}
	return err
}

// writerOnly hides ReadFrom, which would bring its own small buffer.
type writerOnly struct{ io.Writer }

// ctxReader ends reading with ctx.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// children writes what is in a folder, in byte order of the names.
func (p *packer) children(name string) error {
	f, err := p.root.Open(name)
	if err != nil {
		return pathError(err, filepath.Join(p.dir, name))
	}
	names, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return pathError(err, filepath.Join(p.dir, name))
	}
	slices.Sort(names)
	for _, child := range names {
		if err := p.add(path.Join(name, child)); err != nil {
			return err
		}
	}
	return nil
}

// layout writes the OCI image layout at dir: its index and its blobs, nothing
// else that may lie there.
func layout(ctx context.Context, dir string, w io.Writer, warn func(string)) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return pathError(err, dir)
	}
	defer func() { _ = root.Close() }()
	p := &packer{ctx: ctx, root: root, dir: dir, warn: warn, tar: tar.NewWriter(w), names: make(map[inode]string), buf: make([]byte, 1<<20)}
	blobs, err := fs.Glob(root.FS(), "blobs/sha256/*")
	if err != nil {
		return pathError(err, dir)
	}
	for _, name := range append([]string{"index.json"}, blobs...) {
		if err := p.addBlob(name); err != nil {
			return err
		}
	}
	if err := p.tar.Close(); err != nil {
		return fmt.Errorf("end the archive: %w", err)
	}
	return nil
}

// addBlob writes one file of a layout, through a symbolic link too, as some
// tools share blobs that way.
func (p *packer) addBlob(name string) error {
	full := filepath.Join(p.dir, name)
	var st unix.Stat_t
	if err := unix.Stat(full, &st); err != nil {
		return pathError(err, full)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errs.New(errs.Invalid, "%s is not a regular file", full)
	}
	f, err := os.Open(full)
	if err != nil {
		return pathError(err, full)
	}
	defer func() { _ = f.Close() }()
	if err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: st.Size, Mode: 0o644}); err != nil {
		return fmt.Errorf("pack %s: %w", full, err)
	}
	n, err := io.CopyBuffer(writerOnly{p.tar}, io.LimitReader(ctxReader{p.ctx, f}, st.Size), p.buf)
	if err == nil && n < st.Size {
		return errs.New(errs.Conflict, "%s changed while it was read", full)
	}
	return err
}
