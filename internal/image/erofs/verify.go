package erofs

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// Verify reads the image in r with a reader that is not ours and reports the
// first difference from m: a name, a number of links, an owner, a mode, a time,
// a target, a device number, a size, or the first block of a content.
func (m *Image) Verify(ctx context.Context, r io.ReaderAt) error {
	root, l, err := load(ctx, r)
	if err != nil {
		return err
	}
	if len(l.nodes) != len(m.p.inodes) {
		return fmt.Errorf("the image has %d inodes, want %d", len(l.nodes), len(m.p.inodes))
	}
	c := &comparer{want: m.p, got: l, twin: make(map[*Node]*Node, len(l.nodes))}
	return c.same("/", m.p.inodes[0].node, root)
}

// comparer walks two trees at once.
type comparer struct {
	want *plan
	got  *loader
	twin map[*Node]*Node // of each node of ours the one that was read
	a, b [blockSize]byte
}

func (c *comparer) same(path string, want, got *Node) error {
	if twin, ok := c.twin[want]; ok {
		if twin != got {
			return fmt.Errorf("%s: a hard link was torn", path)
		}
		return nil
	}
	c.twin[want] = got
	if w, g := want.attributes(), got.attributes(); w != g {
		return fmt.Errorf("%s: read %+v, want %+v", path, g, w)
	}
	if links := c.got.stats[got].Nlink; uint32(links) != c.want.byNode[want].nlink {
		return fmt.Errorf("%s: read %d links, want %d", path, links, c.want.byNode[want].nlink)
	}
	if want.IsDir() {
		return c.sameChildren(path, want, got)
	}
	return c.sameContent(path, want, got)
}

func (c *comparer) sameChildren(path string, want, got *Node) error {
	if len(want.Children) != len(got.Children) {
		return fmt.Errorf("%s: read %d entries, want %d", path, len(got.Children), len(want.Children))
	}
	for name, child := range want.Children {
		twin, ok := got.Children[name]
		if !ok {
			return fmt.Errorf("%s%s: missing", path, name)
		}
		if err := c.same(path+name+"/", child, twin); err != nil {
			return err
		}
	}
	return nil
}

// attributes is what of a node is written into its inode or beside it.
type attributes struct {
	Mode, UID, GID uint32
	Sec            int64
	Nsec, Rdev     uint32
	Target         string
}

func (n *Node) attributes() attributes {
	a := attributes{Mode: n.Mode, UID: n.UID, GID: n.GID, Sec: n.Sec, Nsec: n.Nsec}
	if n.IsDevice() {
		a.Rdev = n.Rdev
	}
	if n.IsSymlink() {
		a.Target = n.Target
	}
	return a
}

// sameContent compares the size and the first block; the image's digest covers
// the rest of what was written.
func (c *comparer) sameContent(path string, want, got *Node) error {
	if want.Content.Size != got.Content.Size {
		return fmt.Errorf("%s: read a size of %d, want %d", path, got.Content.Size, want.Content.Size)
	}
	n := min(want.Content.Size, blockSize)
	if n == 0 {
		return nil
	}
	if err := readFull(want.Content, c.a[:n]); err != nil {
		return err
	}
	if err := readFull(got.Content, c.b[:n]); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !bytes.Equal(c.a[:n], c.b[:n]) {
		return fmt.Errorf("%s: the content differs", path)
	}
	return nil
}

func readFull(c Content, p []byte) error {
	n, err := c.Src.ReadAt(p, c.Off)
	if n == len(p) {
		return nil
	}
	return fmt.Errorf("read file content: %w", err)
}
