package fake

import (
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// NodeType is what a node of a tree is.
type NodeType byte

// The types of nodes.
const (
	TypeFile NodeType = iota
	TypeDir
	TypeSymlink
)

// node is one inode. Nodes of a lower tree are shared and never changed; a
// change copies them into the upper tree.
type node struct {
	typ      NodeType
	mode     uint32 // permission and set-id bits
	uid, gid int
	data     []byte
	bulk     int64 // bytes of content beyond data that nobody stores
	target   string
	mtime    time.Time
}

func (n *node) size() int64 { return int64(len(n.data)) + n.bulk }

// layer is a read-only image by clean path without a leading slash; the root is "".
type layer map[string]*node

// Tree is the file system of a simulated sandbox: a read-only image below a
// writable layer, as overlayfs has it, with a size limit on the latter. Methods
// return syscall errors and are safe for concurrent use.
type Tree struct {
	limit int64 // bytes of the writable layer; 0: none
	now   func() time.Time

	mu     sync.Mutex
	lower  layer
	upper  layer
	white  map[string]bool // paths of the image that were removed
	opaque map[string]bool // directories that hide what the image has below them
}

func newTree(lower layer, limit int64, now func() time.Time) *Tree {
	return &Tree{
		limit: limit, now: now, lower: lower, upper: layer{},
		white: map[string]bool{}, opaque: map[string]bool{},
	}
}

func cleanPath(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// hidden reports whether the image's node at p is covered.
func (t *Tree) hidden(p string) bool {
	if t.white[p] {
		return true
	}
	for dir := p; dir != ""; {
		dir = parent(dir)
		if t.white[dir] || t.opaque[dir] {
			return true
		}
		if n := t.upper[dir]; n != nil && n.typ != TypeDir {
			return true
		}
	}
	return false
}

func parent(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}

// at returns the node at a clean path, without following a symlink there.
func (t *Tree) at(p string) *node {
	if n := t.upper[p]; n != nil {
		return n
	}
	if n := t.lower[p]; n != nil && !t.hidden(p) {
		return n
	}
	if p == "" {
		return &node{typ: TypeDir, mode: 0o755}
	}
	return nil
}

// maxLinks is how many symlinks one path may lead through, as on Linux.
const maxLinks = 40

// resolve follows the symlinks of p's directories and, if last, of p itself.
// The directories must exist; the last element need not.
func (t *Tree) resolve(p string, last bool) (string, error) {
	todo := strings.Split(cleanPath(p), "/")
	done := ""
	for links := 0; len(todo) > 0; {
		next := cleanPath(path.Join(done, todo[0]))
		todo = todo[1:]
		n := t.at(next)
		switch {
		case n != nil && n.typ == TypeSymlink && (last || len(todo) > 0):
			if links++; links > maxLinks {
				return "", syscall.ELOOP
			}
			target := n.target
			if !path.IsAbs(target) {
				target = path.Join(done, target)
			}
			todo = append(strings.Split(cleanPath(target), "/"), todo...)
			done = ""
			continue
		case n == nil && len(todo) > 0:
			return "", syscall.ENOENT
		case n != nil && n.typ != TypeDir && len(todo) > 0:
			return "", syscall.ENOTDIR
		}
		done = next
	}
	return done, nil
}

// writable refuses what lies in the guest mount.
func writable(p string) error {
	if p == guestDir || strings.HasPrefix(p, guestDir+"/") {
		return syscall.EROFS
	}
	return nil
}

const guestDir = ".lehr"

// used returns the bytes of the writable layer; a hard link counts once.
func (t *Tree) used() int64 {
	seen := map[*node]bool{}
	var sum int64
	for _, n := range t.upper {
		if !seen[n] {
			seen[n] = true
			sum += n.size()
		}
	}
	return sum
}

// room returns how many bytes still fit, were n not there.
func (t *Tree) room(n *node) int64 {
	if t.limit == 0 {
		return 1 << 62
	}
	return t.limit - t.used() + n.size()
}

// place puts n at the resolved path p. The parent must be a directory.
func (t *Tree) place(p string, n *node) error {
	if err := writable(p); err != nil {
		return err
	}
	if d := t.at(parent(p)); d == nil {
		return syscall.ENOENT
	} else if d.typ != TypeDir {
		return syscall.ENOTDIR
	}
	if n.typ == TypeDir && t.white[p] {
		t.opaque[p] = true
	}
	delete(t.white, p)
	n.mtime = t.now()
	t.upper[p] = n
	return nil
}

// change returns the node at p for writing, copied up where it is the image's.
func (t *Tree) change(p string) (*node, error) {
	if err := writable(p); err != nil {
		return nil, err
	}
	if n := t.upper[p]; n != nil {
		return n, nil
	}
	n := t.at(p)
	if n == nil {
		return nil, syscall.ENOENT
	}
	c := *n
	c.data = slices.Clone(n.data)
	t.upper[p] = &c
	return &c, nil
}

// remove takes away p and everything below it.
func (t *Tree) remove(p string) {
	below := func(name string) bool { return name == p || strings.HasPrefix(name, p+"/") }
	inLower := t.lower[p] != nil && !t.hidden(p)
	maps.DeleteFunc(t.upper, func(name string, _ *node) bool { return below(name) })
	maps.DeleteFunc(t.opaque, func(name string, _ bool) bool { return below(name) })
	maps.DeleteFunc(t.white, func(name string, _ bool) bool { return below(name) && name != p })
	if inLower {
		t.white[p] = true
	}
}

// names returns every visible path below dir, sorted, dir not included.
func (t *Tree) names(dir string) []string {
	var all []string
	prefix := dir + "/"
	if dir == "" {
		prefix = ""
	}
	for p := range t.upper {
		if p != "" && strings.HasPrefix(p, prefix) {
			all = append(all, p)
		}
	}
	for p := range t.lower {
		if p != "" && strings.HasPrefix(p, prefix) && t.upper[p] == nil && !t.hidden(p) {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return all
}
