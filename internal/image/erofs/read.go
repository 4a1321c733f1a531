package erofs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
)

// maxDepth bounds recursion into a damaged image.
const maxDepth = MaxPath / 2

// Open returns the image in r as a file system; symbolic links are followed
// within it. The result may be used concurrently.
func Open(r io.ReaderAt) (fs.FS, error) { return goerofs.Open(r) }

// Load reads the whole tree of the image in r. Contents refer to r, which must
// stay readable. It fails on what Write never writes: extended attributes,
// compressed or scattered files, a directory with two parents. Images of
// go-erofs load too. ctx is looked at once per directory.
func Load(ctx context.Context, r io.ReaderAt) (*Node, error) {
	root, _, err := load(ctx, r)
	return root, err
}

func load(ctx context.Context, r io.ReaderAt) (*Node, *loader, error) {
	fsys, err := goerofs.Open(newHead(r))
	if err != nil {
		return nil, nil, err
	}
	links, ok := fsys.(fs.ReadLinkFS)
	if !ok {
		return nil, nil, fmt.Errorf("the reader cannot read symbolic links")
	}
	l := &loader{ctx: ctx, fs: links, src: r, nodes: make(map[int64]*Node), stats: make(map[*Node]*goerofs.Stat)}
	info, err := links.Lstat(".")
	if err != nil {
		return nil, nil, err
	}
	root, err := l.node(".", info, 0)
	return root, l, err
}

// head answers reads of the front of an image, where Write puts the inodes, from
// memory: a walk reads the same blocks over and over.
type head struct {
	io.ReaderAt
	bytes []byte
}

const headSize = 4 << 20

func newHead(r io.ReaderAt) head {
	b := make([]byte, headSize)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		n = 0 // the same error meets the reader of that place
	}
	return head{r, b[:n]}
}

// ReadAt implements io.ReaderAt.
func (h head) ReadAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); off >= 0 && end >= off && end <= int64(len(h.bytes)) {
		return copy(p, h.bytes[off:]), nil
	}
	return h.ReaderAt.ReadAt(p, off)
}

// loader walks one image.
type loader struct {
	ctx   context.Context
	fs    fs.ReadLinkFS
	src   io.ReaderAt
	nodes map[int64]*Node // by inode number
	stats map[*Node]*goerofs.Stat
}

// node returns the node of the inode at path, one and the same for each of its
// names.
func (l *loader) node(path string, info fs.FileInfo, depth int) (*Node, error) {
	st, ok := info.Sys().(*goerofs.Stat)
	if !ok {
		return nil, fmt.Errorf("%s: no inode data", path)
	}
	if known, seen := l.nodes[st.Ino]; seen {
		if known.IsDir() {
			return nil, fmt.Errorf("%s: a directory with two parents", path)
		}
		return known, nil
	}
	if len(st.Xattrs) > 0 || depth > maxDepth {
		return nil, fmt.Errorf("%s: extended attributes, or too deep", path)
	}
	n := &Node{
		Mode: unixMode(st.Mode), UID: st.UID, GID: st.GID,
		Sec: int64(st.Mtime), Nsec: st.MtimeNs,
	}
	l.nodes[st.Ino], l.stats[n] = n, st
	switch n.Type() {
	case unix.S_IFDIR:
		return n, l.children(path, n, depth)
	case unix.S_IFLNK:
		var err error
		n.Target, err = l.fs.ReadLink(path)
		return n, err
	case unix.S_IFREG:
		return n, l.content(path, n, info)
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Rdev = st.Rdev
	}
	return n, nil
}

func (l *loader) children(path string, n *Node, depth int) error {
	if err := context.Cause(l.ctx); err != nil {
		return err
	}
	entries, err := fs.ReadDir(l.fs, path)
	if err != nil {
		return err
	}
	n.Children = make(map[string]*Node, len(entries))
	for _, entry := range entries {
		name := entry.Name()
		if err := CheckName(name); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		info, err := entry.Info()
		if err != nil {
			return fmt.Errorf("%s/%s: %w", path, name, err)
		}
		if n.Children[name], err = l.node(path+"/"+name, info, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// content finds the one range that holds the file's bytes.
func (l *loader) content(path string, n *Node, info fs.FileInfo) error {
	if n.Content.Size = info.Size(); n.Content.Size == 0 {
		return nil
	}
	ranger, ok := info.(interface{ DataRange() []goerofs.DataRange })
	if !ok {
		return fmt.Errorf("%s: no data ranges", path)
	}
	ranges := ranger.DataRange()
	if len(ranges) != 1 || ranges[0].Offset < 0 || ranges[0].Size != n.Content.Size {
		return fmt.Errorf("%s: compressed or scattered content", path)
	}
	n.Content.Src, n.Content.Off = l.src, ranges[0].Offset
	return nil
}

// unixMode translates mode to the bits of stat(2).
func unixMode(mode fs.FileMode) uint32 {
	out := uint32(mode.Perm())
	for bit, unixBit := range map[fs.FileMode]uint32{
		fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX,
	} {
		if mode&bit != 0 {
			out |= unixBit
		}
	}
	switch mode.Type() {
	case 0:
		out |= unix.S_IFREG
	case fs.ModeDir:
		out |= unix.S_IFDIR
	case fs.ModeSymlink:
		out |= unix.S_IFLNK
	case fs.ModeNamedPipe:
		out |= unix.S_IFIFO
	case fs.ModeSocket:
		out |= unix.S_IFSOCK
	case fs.ModeDevice:
		out |= unix.S_IFBLK
	case fs.ModeDevice | fs.ModeCharDevice:
		out |= unix.S_IFCHR
	}
	return out
}
