package erofs

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// file returns a regular file with the given content.
func file(mode uint32, content string) *Node {
	return &Node{
		Mode: unix.S_IFREG | mode, Sec: 1_700_000_000, Nsec: 123_456_789,
		Content: Content{Src: strings.NewReader(content), Size: int64(len(content))},
	}
}

// dir returns a directory with the given children.
func dir(mode uint32, children map[string]*Node) *Node {
	return &Node{Mode: unix.S_IFDIR | mode, Sec: 1_600_000_000, Children: children}
}

// link returns a symbolic link.
func link(target string) *Node {
	return &Node{Mode: unix.S_IFLNK | 0o777, Sec: -1, Nsec: 5, Target: target}
}

// special returns a device, fifo or socket.
func special(t *testing.T, mode uint32, major, minor int64) *Node {
	t.Helper()
	rdev, err := Dev(major, minor)
	if err != nil {
		t.Fatalf("Dev(%d, %d) = %v", major, minor, err)
	}
	return &Node{Mode: mode, Rdev: rdev, UID: 70000, GID: 4294967294}
}

// everything returns a tree with every kind of inode and every edge of the
// layout: data sizes around a block, links around what fits beside an inode,
// directories of one block, of several, and with an end that does not fit
// inline, names that sort before ".".
func everything(t *testing.T) *Node {
	t.Helper()
	shared := file(0o6755, "shared content")
	children := map[string]*Node{
		"hard1": shared, "!hard2": shared, "empty": file(0o644, ""),
		"fifo":   special(t, unix.S_IFIFO|0o600, 0, 0),
		"socket": special(t, unix.S_IFSOCK|0o666, 0, 0),
		"char":   special(t, unix.S_IFCHR|0o666, 4095, 1048575),
		"block":  special(t, unix.S_IFBLK|0o660, 8, 257),
		"sticky": dir(0o1777, nil), "setgid": dir(0o2750, map[string]*Node{"hard3": shared}),
		strings.Repeat("n", MaxName): file(0o400, "long name"), "ünïcode \n \xff": file(0, "any bytes"),
	}
	for _, size := range []int{1, blockSize - inodeSize, blockSize - inodeSize + 1, blockSize - 1, blockSize, blockSize + 1, 3*blockSize + 7} {
		children[fmt.Sprintf("size%d", size)] = file(0o644, strings.Repeat("x", size-1)+"y")
	}
	for _, size := range []int{1, 59, 60, 61, blockSize - inodeSize, blockSize - inodeSize + 1, MaxTarget} {
		children[fmt.Sprintf("link%d", size)] = link(strings.Repeat("t", size))
	}
	for _, entries := range []int{1, 100, 249, 250, 251, 252, 253, 254, 255, 256, 257, 5000} {
		many := make(map[string]*Node, entries)
		for k := range entries {
			many[fmt.Sprintf("%04d", k)] = special(t, unix.S_IFIFO|0o600, 0, 0)
		}
		children[fmt.Sprintf("dir%d", entries)] = dir(0o755, many)
	}
	return dir(0o755, children)
}

// write returns the image of root.
func write(t testing.TB, root *Node) []byte {
	t.Helper()
	image, err := Plan(root)
	if err != nil {
		t.Fatalf("Plan() = %v", err)
	}
	var out bytes.Buffer
	if err := image.Write(t.Context(), &out); err != nil {
		t.Fatalf("Write() = %v", err)
	}
	if int64(out.Len()) != image.Size() || out.Len()%blockSize != 0 {
		t.Fatalf("Write() wrote %d bytes, want %d, a multiple of %d", out.Len(), image.Size(), blockSize)
	}
	if err := image.Verify(t.Context(), bytes.NewReader(out.Bytes())); err != nil {
		t.Fatalf("Verify() = %v", err)
	}
	return out.Bytes()
}

func TestWriteIsReadBackAndTheSame(t *testing.T) {
	t.Parallel()
	first := write(t, everything(t))
	if second := write(t, everything(t)); !bytes.Equal(first, second) {
		t.Error("the same tree gave two images")
	}
	root, err := Load(t.Context(), bytes.NewReader(first))
	if err != nil {
		t.Fatalf("Load() = %v", err)
	}
	if again := write(t, root); !bytes.Equal(first, again) {
		t.Error("a loaded image was written differently")
	}
}

func TestRandomTreesAreReadBack(t *testing.T) {
	t.Parallel()
	for seed := range uint64(15) {
		rng := rand.New(rand.NewPCG(seed, 1))
		write(t, randomDir(rng, 0))
	}
}

// randomDir returns a tree with names and targets of random lengths.
func randomDir(rng *rand.Rand, depth int) *Node {
	children := make(map[string]*Node)
	for range rng.IntN(60) {
		name := fmt.Sprintf("%x", rng.Uint64()) + strings.Repeat("p", rng.IntN(200))
		switch kind := rng.IntN(10); {
		case kind == 0 && depth < 4:
			children[name] = randomDir(rng, depth+1)
		case kind < 4:
			children[name] = link(strings.Repeat("t", 1+rng.IntN(MaxTarget)))
		default:
			children[name] = file(0o644, strings.Repeat("c", rng.IntN(3*blockSize)))
		}
	}
	return dir(0o755, children)
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	twice := dir(0o755, nil)
	loop := dir(0o755, nil)
	loop.Children = map[string]*Node{"self": loop}
	deep := dir(0o755, nil)
	for range MaxPath {
		deep = dir(0o755, map[string]*Node{"d": deep})
	}
	in := func(name string, n *Node) *Node { return dir(0o755, map[string]*Node{name: n}) }
	tests := map[string]struct {
		root *Node
		want string
	}{
		"file as root":         {file(0o644, ""), "not a directory"},
		"directory twice":      {dir(0o755, map[string]*Node{"a": twice, "b": twice}), "two parents"},
		"loop":                 {loop, "two parents"},
		"deep":                 {deep, "longer than"},
		"dot":                  {in(".", file(0, "")), "not a file name"},
		"dot dot":              {in("..", file(0, "")), "not a file name"},
		"empty name":           {in("", file(0, "")), "not a file name"},
		"slash":                {in("a/b", file(0, "")), "slash"},
		"zero byte":            {in("a\x00", file(0, "")), "zero byte"},
		"long name":            {in(strings.Repeat("n", MaxName+1), file(0, "")), "longer than"},
		"empty target":         {in("l", link("")), "empty"},
		"long target":          {in("l", link(strings.Repeat("t", MaxTarget+1))), "more than"},
		"zero byte in target":  {in("l", link("\x00")), "zero byte"},
		"unknown type":         {in("x", &Node{Mode: 0o644}), "unknown file type"},
		"no content":           {in("x", &Node{Mode: unix.S_IFREG, Content: Content{Size: 1}}), "no content"},
		"nanoseconds":          {in("x", &Node{Mode: unix.S_IFIFO, Nsec: 1e9}), "nanoseconds"},
		"more than the format": {in("x", &Node{Mode: unix.S_IFREG, Content: Content{Src: strings.NewReader(""), Size: 1 << 45}}), "format allows"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Plan(tt.root); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Plan() = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestWriteFailsOnShortContent(t *testing.T) {
	t.Parallel()
	short := file(0o644, "four")
	short.Content.Size = 5
	image, err := Plan(dir(0o755, map[string]*Node{"short": short}))
	if err != nil {
		t.Fatalf("Plan() = %v", err)
	}
	if err := image.Write(t.Context(), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Errorf("Write() = %v, want an unexpected end", err)
	}
	short.Content.Size = 4
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("stop"))
	if err := image.Write(ctx, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "stop") {
		t.Errorf("Write(cancelled) = %v, want the cause", err)
	}
}

func TestVerifySeesDamage(t *testing.T) {
	t.Parallel()
	root := everything(t)
	image, err := Plan(root)
	if err != nil {
		t.Fatalf("Plan() = %v", err)
	}
	good := write(t, root)
	hard := image.p.byNode[root.Children["hard1"]]
	for name, at := range map[string]int64{
		"magic": superOffset, "mode": hard.offset + 4, "size": hard.offset + 8, "block": hard.offset + 17,
		"owner": hard.offset + 24, "time": hard.offset + 32, "links": hard.offset + 44,
		"content": hard.block << blockBits,
	} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if err := image.Verify(t.Context(), bytes.NewReader(bad)); err == nil {
			t.Errorf("Verify(damaged %s) = nil, want an error", name)
		}
	}
}

func TestDev(t *testing.T) {
	t.Parallel()
	for _, d := range [][2]int64{{0, 0}, {1, 3}, {8, 256}, {4095, 1048575}} {
		rdev, err := Dev(d[0], d[1])
		if err != nil {
			t.Errorf("Dev(%v) = %v", d, err)
		}
		if major, minor := DevNumber(rdev); int64(major) != d[0] || int64(minor) != d[1] {
			t.Errorf("DevNumber(Dev(%v)) = %d, %d", d, major, minor)
		}
	}
	for _, d := range [][2]int64{{-1, 0}, {0, -1}, {4096, 0}, {0, 1048576}} {
		if _, err := Dev(d[0], d[1]); err == nil {
			t.Errorf("Dev(%v) = nil, want an error", d)
		}
	}
}

// FuzzLoad damages an image: every three bytes of the input are an offset from
// the superblock on and the byte that goes there.
func FuzzLoad(f *testing.F) {
	good := write(f, dir(0o755, map[string]*Node{"f": file(0o644, "content"), "d": dir(0o755, map[string]*Node{"l": link("f")})}))
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{0x0c, 0x04, 5, 0x0c, 0x08, 0xff})
	f.Fuzz(func(t *testing.T, patch []byte) {
		bad := bytes.Clone(good)
		for ; len(patch) >= 3; patch = patch[3:] {
			at := superOffset + int(patch[0])<<8 + int(patch[1])
			bad[at%len(bad)] = patch[2]
		}
		root, err := Load(t.Context(), bytes.NewReader(bad))
		if err != nil {
			return
		}
		if image, err := Plan(root); err == nil && image.Size() < 1<<20 {
			_ = image.Write(t.Context(), &bytes.Buffer{})
		}
	})
}
