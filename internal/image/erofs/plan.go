package erofs

import (
	"fmt"
	"slices"
)

// The geometry of the images we write.
const (
	blockBits   = 12
	blockSize   = 1 << blockBits
	superOffset = 1024
	inodeSize   = 64
	slotSize    = 32 // an inode's number is its offset divided by this
	direntSize  = 12

	// metaStart is where the inodes begin. Inode numbers count from the start
	// of the image, so none is 0, which readdir would skip.
	metaStart = blockSize
)

// inode is a node with its place in the image.
type inode struct {
	node   *Node
	parent *inode // of a directory
	nlink  uint32
	offset int64 // of the inode itself
	size   int64 // of its data
	inline int   // bytes of the data's end that lie beside the inode
	block  int64 // first block of the other data, 0 when there is none

	names  []string // of a directory, sorted, with "." and ".."
	blocks []int    // names[:blocks[i]] are in the blocks up to i
	kids   []*inode // parallel to names
}

// nid returns the inode's number.
func (i *inode) nid() uint64 { return uint64(i.offset / slotSize) }

// outOfLine returns how many bytes of data lie in blocks.
func (i *inode) outOfLine() int64 { return i.size - int64(i.inline) }

// plan is the layout of an image: superblock, inodes with what lies beside
// them, blocks of directories and long links, blocks of files.
type plan struct {
	inodes []*inode // in order of their offset, the root first
	byNode map[*Node]*inode
	meta   int64 // end of the inodes, aligned
	end    int64 // size of the image
}

// newPlan lays the tree out, depth first with names in byte order.
func newPlan(root *Node) (*plan, error) {
	if !root.IsDir() {
		return nil, fmt.Errorf("the root is not a directory")
	}
	p := &plan{byNode: make(map[*Node]*inode)}
	top, err := p.add(root, nil, "")
	if err != nil {
		return nil, err
	}
	top.parent = top
	p.placeInodes()
	p.placeData()
	return p, nil
}

// add plans n and what is below it, without offsets.
func (p *plan) add(n *Node, parent *inode, path string) (*inode, error) {
	if known, ok := p.byNode[n]; ok {
		if n.IsDir() {
			return nil, fmt.Errorf("%s: a directory with two parents", path)
		}
		known.nlink++
		return known, nil
	}
	if err := n.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(path) > MaxPath {
		return nil, fmt.Errorf("%.80s…: a path of %d bytes is longer than %d", path, len(path), MaxPath)
	}
	i := &inode{node: n, parent: parent, nlink: 1}
	p.byNode[n] = i
	p.inodes = append(p.inodes, i)
	switch {
	case n.IsDir():
		return i, p.addDir(i, path)
	case n.IsSymlink():
		i.size = int64(len(n.Target))
	case n.IsRegular():
		i.size = n.Content.Size
	}
	return i, nil
}

// addDir plans the entries of directory i.
func (p *plan) addDir(i *inode, path string) error {
	i.nlink = 2
	i.names = make([]string, 0, len(i.node.Children)+2)
	i.names = append(i.names, ".", "..")
	for name := range i.node.Children {
		if err := CheckName(name); err != nil {
			return fmt.Errorf("%s/: %w", path, err)
		}
		i.names = append(i.names, name)
	}
	slices.Sort(i.names)
	i.packDirents()
	i.kids = make([]*inode, len(i.names))
	for k, name := range i.names {
		child, ok := i.node.Children[name]
		if !ok {
			continue // "." and ".."
		}
		kid, err := p.add(child, i, path+"/"+name)
		if err != nil {
			return err
		}
		if child.IsDir() {
			i.nlink++
		}
		i.kids[k] = kid
	}
	return nil
}

// packDirents fills blocks with entries in order and sets the size: whole
// blocks, and of the last one what is used.
func (i *inode) packDirents() {
	used := 0
	for k, name := range i.names {
		need := direntSize + len(name)
		if used+need > blockSize {
			i.blocks = append(i.blocks, k)
			used = 0
		}
		used += need
	}
	i.size = int64(len(i.blocks))*blockSize + int64(used)
	i.blocks = append(i.blocks, len(i.names))
}

// placeInodes gives every inode its offset. No inode, and no data beside one,
// crosses a block.
func (p *plan) placeInodes() {
	off := int64(metaStart)
	for _, i := range p.inodes {
		if i.node.IsDir() || i.node.IsSymlink() {
			i.inline = int(i.size % blockSize)
			if i.inline > blockSize-inodeSize || i.node.IsSymlink() && i.size > blockSize-inodeSize {
				i.inline = 0
			}
		}
		need := int64(inodeSize + i.inline)
		if off%blockSize+need > blockSize {
			off = align(off, blockSize)
		}
		i.offset = off
		off = align(off+need, slotSize)
	}
	p.meta = align(off, blockSize)
}

// placeData gives blocks first to directories and links, whose locality
// matters to a walk, then to files.
func (p *plan) placeData() {
	off := p.meta
	place := func(files bool) {
		for _, i := range p.inodes {
			if i.node.IsRegular() != files || i.outOfLine() == 0 {
				continue
			}
			i.block = off >> blockBits
			off = align(off+i.outOfLine(), blockSize)
		}
	}
	place(false)
	place(true)
	p.end = off
}

func align(n, to int64) int64 { return (n + to - 1) / to * to }
