package image

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image/erofs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const (
	implicitMode = unix.S_IFDIR | 0o755 // of a directory that only its contents mention
	maxHops      = 40                   // symbolic links in one path, as in Linux
)

// Tree is a file system in the making. Layers are read into it one over the
// other, then Store.Commit writes the image. A Tree that failed once holds part
// of a layer and is good for nothing but Close. It is not safe for concurrent
// use.
type Tree struct {
	root    *erofs.Node
	budget  budget
	spool   *spool
	bases   []io.Closer        // images that contents refer to
	touched map[entry]struct{} // by the layer that is being read
	rules   rules              // of that layer
}

// entry is one name in one directory.
type entry struct {
	dir  *erofs.Node
	name string
}

func (e entry) node() *erofs.Node { return e.dir.Children[e.name] }

// NewTree returns an empty tree that keeps its contents in the store's folder.
// The caller closes it, also after Commit.
func (s *Store) NewTree(limits Limits) (*Tree, error) {
	sp, err := newSpool(s.tmp)
	if err != nil {
		return nil, DiskError(err, "image.NewTree")
	}
	return newTree(sp, limits), nil
}

func newTree(sp *spool, limits Limits) *Tree {
	return &Tree{
		root:   &erofs.Node{Mode: implicitMode, Children: make(map[string]*erofs.Node)},
		budget: budget{limits: limits.WithDefaults()},
		spool:  sp,
	}
}

// Close gives back what the tree holds on disk. It may be called twice.
func (t *Tree) Close() error {
	var all []error
	if t.spool != nil {
		all = append(all, t.spool.close())
		t.spool = nil
	}
	for _, b := range t.bases {
		all = append(all, b.Close())
	}
	t.bases = nil
	return errors.Join(all...)
}

// loadBase makes the image at path the lowest layer of an empty tree.
func (t *Tree) loadBase(ctx context.Context, path string, digest lehr.Digest) error {
	f, err := os.Open(path)
	if err != nil {
		return DiskError(err, "image.loadBase")
	}
	t.bases = append(t.bases, f)
	root, err := erofs.Load(ctx, f)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return errs.New(errs.Corrupt, "image %s cannot be read: %w", digest, err)
	}
	t.root = root
	return t.budget.takeTree(root, make(map[*erofs.Node]bool))
}

// begin starts a layer that is read by the given rules.
func (t *Tree) begin(r rules) {
	t.rules = r
	t.touched = make(map[entry]struct{})
}

// touch marks e as part of the present layer.
func (t *Tree) touch(e entry) { t.touched[e] = struct{}{} }

func (t *Tree) isTouched(e entry) bool {
	_, ok := t.touched[e]
	return ok
}

// walker resolves one path inside the tree. Nothing leads out of it: ".." at
// the root is the root.
type walker struct {
	stack   []*erofs.Node // directories from the root to here
	names   []string      // their names, without the root
	pending []string
	length  int // of the path to here
	hops    int
}

// errMissing says that a path does not exist in the tree.
var errMissing = errors.New("no such file or directory in the image")

// dirAt returns the directory at path, through symbolic links where the layer's
// rules allow them. Missing directories are made when create is set, and every
// one on the way becomes part of the layer.
func (t *Tree) dirAt(path []string, create bool) (*erofs.Node, error) {
	w := walker{stack: []*erofs.Node{t.root}, pending: path}
	for len(w.pending) > 0 {
		name := w.pending[0]
		w.pending = w.pending[1:]
		if w.special(name) {
			continue
		}
		at := entry{w.stack[len(w.stack)-1], name}
		child := at.node()
		switch {
		case child == nil && !create:
			return nil, errMissing
		case child == nil:
			child = &erofs.Node{Mode: implicitMode}
			if err := t.insert(at, child); err != nil {
				return nil, err
			}
		case child.IsSymlink() && t.rules.follow:
			if err := w.follow(child.Target); err != nil {
				return nil, err
			}
			continue
		case !child.IsDir():
			return nil, errs.New(errs.Invalid, "leads through %q, which is not a directory", name)
		}
		if create {
			t.touch(at)
		}
		if err := w.push(name, child); err != nil {
			return nil, err
		}
	}
	return w.stack[len(w.stack)-1], nil
}

// special handles the names that are no entries.
func (w *walker) special(name string) bool {
	switch name {
	case "", ".":
		return true
	case "..":
		if last := len(w.names) - 1; last >= 0 {
			w.length -= len(w.names[last]) + 1
			w.stack, w.names = w.stack[:last+1], w.names[:last]
		}
		return true
	}
	return false
}

func (w *walker) push(name string, dir *erofs.Node) error {
	w.stack, w.names = append(w.stack, dir), append(w.names, name)
	if w.length += len(name) + 1; w.length > erofs.MaxPath {
		return errs.New(errs.Invalid, "is longer than %d bytes", erofs.MaxPath)
	}
	return nil
}

func (w *walker) follow(target string) error {
	if w.hops++; w.hops > maxHops {
		return errs.New(errs.Invalid, "leads through more than %d symbolic links", maxHops)
	}
	if strings.HasPrefix(target, "/") {
		w.stack, w.names, w.length = w.stack[:1], nil, 0
	}
	w.pending = slices.Concat(strings.Split(target, "/"), w.pending)
	return nil
}

// lookup returns the node at path without following a link at its end.
func (t *Tree) lookup(path []string) (*erofs.Node, error) {
	if len(path) == 0 {
		return t.root, nil
	}
	last := len(path) - 1
	dir, err := t.dirAt(path[:last], false)
	if err != nil {
		return nil, err
	}
	if n := dir.Children[path[last]]; n != nil {
		return n, nil
	}
	return nil, errMissing
}

// has reports whether path leads to an entry, through symbolic links.
func (t *Tree) has(path string) bool {
	t.rules = rules{follow: true}
	_, err := t.lookup(strings.Split(path, "/"))
	return err == nil
}

// insert adds a new inode at e, over whatever is there.
func (t *Tree) insert(e entry, n *erofs.Node) error {
	if err := t.budget.take(e.name, n.Target); err != nil {
		return err
	}
	t.set(e, n)
	return nil
}

func (t *Tree) set(e entry, n *erofs.Node) {
	if e.dir.Children == nil {
		e.dir.Children = make(map[string]*erofs.Node)
	}
	e.dir.Children[e.name] = n
	t.touch(e)
}

// put adds n at e. A directory over a directory keeps what is in it. Everything
// else replaces what lower layers have; what this layer has already it replaces
// only where the rules say so.
func (t *Tree) put(e entry, n *erofs.Node) error {
	old := e.node()
	if old != nil && old.IsDir() && n.IsDir() {
		setAttributes(old, n)
		t.touch(e)
		return nil
	}
	if err := t.mayReplace(e); err != nil {
		return err
	}
	return t.insert(e, n)
}

// link gives the existing node n the further name e.
func (t *Tree) link(e entry, n *erofs.Node) error {
	if n.IsDir() {
		return errs.New(errs.Invalid, "is a hard link to a directory")
	}
	if err := t.mayReplace(e); err != nil {
		return err
	}
	if err := t.budget.take(e.name, ""); err != nil {
		return err
	}
	t.set(e, n)
	return nil
}

func (t *Tree) mayReplace(e entry) error {
	if e.node() != nil && t.isTouched(e) && !t.rules.replace {
		return errs.New(errs.Invalid, "is in the archive twice")
	}
	return nil
}

// setAttributes copies everything but the children from one directory to
// another.
func setAttributes(to, from *erofs.Node) {
	children := to.Children
	*to = *from
	to.Children = children
}

// hide removes what lower layers have at e, and keeps what this layer has.
func (t *Tree) hide(e entry) {
	n := e.node()
	switch {
	case n == nil:
	case !t.isTouched(e):
		delete(e.dir.Children, e.name)
	case n.IsDir():
		t.hideChildren(n)
	}
}

// hideChildren removes what lower layers have in dir.
func (t *Tree) hideChildren(dir *erofs.Node) {
	for name := range dir.Children {
		t.hide(entry{dir, name})
	}
}

// dropMachine removes what belongs to the machine a file system runs on.
func (t *Tree) dropMachine() {
	delete(t.root.Children, machineDir)
	for _, name := range []string{"proc", "sys", "dev"} {
		if n := t.root.Children[name]; n != nil && n.IsDir() {
			n.Children = nil
		}
	}
}

// machineDir holds the guest daemon in every sandbox (engine.GuestMount).
const machineDir = ".lehr"
