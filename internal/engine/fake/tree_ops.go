package fake

import (
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// Stat is what one knows of a file.
type Stat struct {
	Type     NodeType
	Mode     uint32
	UID, GID int
	Size     int64
	Target   string // of a symlink
}

// Stat describes p, following symlinks.
func (t *Tree) Stat(p string) (Stat, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.find(p)
	if err != nil {
		return Stat{}, err
	}
	return Stat{Type: n.typ, Mode: n.mode, UID: n.uid, GID: n.gid, Size: n.size(), Target: n.target}, nil
}

func (t *Tree) find(p string) (*node, error) {
	p, err := t.resolve(p, true)
	if err != nil {
		return nil, err
	}
	n := t.at(p)
	if n == nil {
		return nil, syscall.ENOENT
	}
	return n, nil
}

// Read returns the content of a file; bulk content reads as zeros.
func (t *Tree) Read(p string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.find(p)
	if err != nil {
		return nil, err
	}
	if n.typ == TypeDir {
		return nil, syscall.EISDIR
	}
	return append(slices.Clone(n.data), make([]byte, n.bulk)...), nil
}

// Write creates or replaces a file, keeping the mode of one that exists. A full
// disk takes what fits and returns ENOSPC.
func (t *Tree) Write(p string, data []byte, mode os.FileMode) error {
	_, err := t.write(p, data, 0, uint32(mode.Perm()), false)
	return err
}

// Append adds to a file, which it creates when it is missing.
func (t *Tree) Append(p string, data []byte) error {
	_, err := t.write(p, data, 0, 0o644, true)
	return err
}

// Fill creates or replaces a file of size bytes that nobody stores, and returns
// how many fit.
func (t *Tree) Fill(p string, size int64) (int64, error) { return t.write(p, nil, size, 0o644, false) }

func (t *Tree) write(p string, data []byte, bulk int64, mode uint32, appending bool) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.resolve(p, true)
	if err != nil {
		return 0, err
	}
	n, err := t.openForWrite(p, mode)
	if err != nil {
		return 0, err
	}
	if !appending {
		n.data, n.bulk = nil, 0
	}
	n.mtime = t.now()
	room := t.room(n) - n.size()
	want := int64(len(data)) + bulk
	if want <= room {
		n.data, n.bulk = append(n.data, data...), n.bulk+bulk
		return want, nil
	}
	room = max(room, 0)
	fits := min(int64(len(data)), room)
	n.data, n.bulk = append(n.data, data[:fits]...), n.bulk+min(bulk, room-fits)
	return min(want, room), syscall.ENOSPC
}

// openForWrite returns the node at the resolved path p, new or copied up.
func (t *Tree) openForWrite(p string, mode uint32) (*node, error) {
	if n := t.at(p); n != nil {
		if n.typ == TypeDir {
			return nil, syscall.EISDIR
		}
		return t.change(p)
	}
	n := &node{typ: TypeFile, mode: mode}
	return n, t.place(p, n)
}

// Mkdir makes one directory.
func (t *Tree) Mkdir(p string, mode os.FileMode) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.resolve(p, true)
	if err != nil {
		return err
	}
	if t.at(p) != nil {
		return syscall.EEXIST
	}
	return t.place(p, &node{typ: TypeDir, mode: uint32(mode.Perm())})
}

// MkdirAll makes a directory and its missing parents.
func (t *Tree) MkdirAll(p string, mode os.FileMode) error {
	done := "/"
	for elem := range strings.SplitSeq(cleanPath(p), "/") {
		done = path.Join(done, elem)
		st, err := t.Stat(done)
		if err == nil && st.Type != TypeDir {
			return syscall.ENOTDIR
		}
		if err == nil {
			continue
		}
		if err := t.Mkdir(done, mode); err != nil && err != syscall.EEXIST {
			return err
		}
	}
	return nil
}

// Symlink makes p a symlink to target.
func (t *Tree) Symlink(target, p string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.resolve(p, false)
	if err != nil {
		return err
	}
	if t.at(p) != nil {
		return syscall.EEXIST
	}
	return t.place(p, &node{typ: TypeSymlink, mode: 0o777, target: target})
}

// Link makes p another name of the file old.
func (t *Tree) Link(old, p string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, err := t.resolve(old, false)
	if err != nil {
		return err
	}
	p, err = t.resolve(p, false)
	if err != nil {
		return err
	}
	if t.at(p) != nil {
		return syscall.EEXIST
	}
	n, err := t.change(old)
	if err != nil {
		return err
	}
	if n.typ == TypeDir {
		return syscall.EPERM
	}
	return t.place(p, n)
}

// RemoveAll removes p and everything below it; a missing p is not an error.
func (t *Tree) RemoveAll(p string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := writable(cleanPath(p)); err != nil {
		return err
	}
	p, err := t.resolve(p, false)
	if err == syscall.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	if err := writable(p); err != nil {
		return err
	}
	if p == "" {
		return syscall.EBUSY
	}
	t.remove(p)
	return nil
}

// Chmod sets the permission and set-id bits.
func (t *Tree) Chmod(p string, mode uint32) error {
	return t.alter(p, true, func(n *node) { n.mode = mode & 0o7777 })
}

// Chown sets the owner of p itself, a symlink's too.
func (t *Tree) Chown(p string, uid, gid int) error {
	return t.alter(p, false, func(n *node) { n.uid, n.gid = uid, gid })
}

func (t *Tree) alter(p string, follow bool, f func(*node)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.resolve(p, follow)
	if err != nil {
		return err
	}
	n, err := t.change(p)
	if err != nil {
		return err
	}
	f(n)
	return nil
}

// Names returns every path below dir, sorted, with a leading slash.
func (t *Tree) Names(dir string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := t.names(cleanPath(dir))
	for i := range names {
		names[i] = "/" + names[i]
	}
	return names
}
