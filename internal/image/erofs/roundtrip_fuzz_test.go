package erofs

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzRoundTrip writes a tree made of any bytes and reads it back: what the
// writer takes, the reader gives back the same, and the same tree has the same
// bytes.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("a\x00b\x01c"), []byte("content"))
	f.Add([]byte{0xff, 'x', 0, 4, 5, 6, 7, 8, 9}, bytes.Repeat([]byte("0123456789"), 500))
	f.Add(bytes.Repeat([]byte{3, 'n'}, 300), []byte{})
	f.Fuzz(func(t *testing.T, shape, content []byte) {
		root := treeOf(shape, content)
		image, err := Plan(root)
		if err != nil || image.Size() > 4<<20 {
			return // a name, a target or a time that no image can hold
		}
		var first, second bytes.Buffer
		if err := image.Write(t.Context(), &first); err != nil {
			t.Fatalf("Write = %v", err)
		}
		if err := image.Verify(t.Context(), bytes.NewReader(first.Bytes())); err != nil {
			t.Errorf("Verify of what was written = %v", err)
		}
		back, err := Load(t.Context(), bytes.NewReader(first.Bytes()))
		if err != nil {
			t.Fatalf("Load = %v", err)
		}
		again, err := Plan(back)
		if err != nil {
			t.Fatalf("Plan of what was read = %v", err)
		}
		if err := again.Write(t.Context(), &second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("the tree that was read is written as other bytes: %v", err)
		}
	})
}

// treeOf makes a tree of two bytes a node: what it is and where it lies.
func treeOf(shape, content []byte) *Node {
	newDir := func(mode uint32) *Node { return &Node{Mode: unix.S_IFDIR | mode&0o7777, Children: map[string]*Node{}} }
	root := newDir(0o755)
	dirs, files := []*Node{root}, []*Node{}
	for i := 0; i+1 < len(shape) && i < 2000; i += 2 {
		kind, where := shape[i], shape[i+1]
		parent := dirs[int(where)%len(dirs)]
		node := &Node{UID: uint32(where) << 20, GID: uint32(kind), Sec: int64(where) - 100, Nsec: uint32(kind) * 1e6}
		switch kind % 8 {
		case 0:
			node = newDir(uint32(where) << 4)
			dirs = append(dirs, node)
		case 1:
			node.Mode, node.Target = unix.S_IFLNK|0o777, string(content[:min(len(content), int(where))])
		case 2:
			node.Mode, node.Rdev = unix.S_IFCHR|0o600, uint32(where)
		case 3:
			node.Mode = unix.S_IFIFO | 0o644
		case 4:
			if len(files) > 0 {
				node = files[int(where)%len(files)] // a hard link
				break
			}
			fallthrough
		default:
			node.Mode = unix.S_IFREG | uint32(where)<<3&0o7777
			part := content[:len(content)*int(where)/255]
			node.Content = Content{Src: bytes.NewReader(part), Size: int64(len(part))}
			files = append(files, node)
		}
		name := fmt.Sprintf("%d", i)
		if where%5 == 0 && len(content) > 0 {
			name += string(content[:min(len(content), int(kind))])
		}
		parent.Children[name] = node
	}
	return root
}
