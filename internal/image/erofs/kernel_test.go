package erofs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKernelMountsTheImage mounts an image with every kind of inode and
// compares what Linux sees with the tree.
func TestKernelMountsTheImage(t *testing.T) {
	t.Parallel()
	root := everything(t)
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, write(t, root), 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := Plan(root)
	if err != nil {
		t.Fatalf("Plan() = %v", err)
	}
	mounted := mount(t, path)
	inodes := make(map[*Node]uint64)
	walk(t, image.p, root, mounted, inodes)
	if len(inodes) != image.Inodes() {
		t.Errorf("walked %d inodes, want %d", len(inodes), image.Inodes())
	}
}

// TestFsckAcceptsTheImage asks the format's own checker.
func TestFsckAcceptsTheImage(t *testing.T) {
	t.Parallel()
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("SKIP-ENV: fsck.erofs is not installed")
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, write(t, everything(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), fsck, "--extract", path).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("<E>")) {
		t.Errorf("fsck.erofs --extract = %v\n%s", err, out)
	}
}

// mount mounts the image read-only through a loop device until the test ends.
func mount(t *testing.T, path string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP-ENV: mounting needs root")
	}
	device := loopDevice(t, path)
	target := t.TempDir()
	if err := unix.Mount(device, target, "erofs", unix.MS_RDONLY, ""); err != nil {
		if err == unix.ENODEV {
			t.Skip("SKIP-ENV: the kernel has no erofs")
		}
		t.Fatalf("mount(%s) = %v", device, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("umount(%s) = %v", target, err)
		}
	})
	return target
}

// loopDevice binds path to a free loop device, which the kernel frees with the
// last mount or descriptor.
func loopDevice(t *testing.T, path string) string {
	t.Helper()
	image, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = image.Close() }()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIP-ENV: no loop devices: %v", err)
	}
	defer func() { _ = control.Close() }()
	for range 50 { // another process may take the free device first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("SKIP-ENV: no free loop device: %v", err)
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		device, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("SKIP-ENV: no loop device: %v", err)
		}
		t.Cleanup(func() { _ = device.Close() })
		config := unix.LoopConfig{Fd: uint32(image.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
		if err = unix.IoctlLoopConfigure(int(device.Fd()), &config); err == nil {
			return name
		} else if err != unix.EBUSY {
			t.Fatalf("configure %s = %v", name, err)
		}
	}
	t.Fatal("every loop device was taken by others")
	return ""
}

// walk compares the mounted file at path with n, and below.
func walk(t *testing.T, p *plan, n *Node, path string, inodes map[*Node]uint64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat(%q) = %v", path, err)
	}
	if known, ok := inodes[n]; ok && known != st.Ino {
		t.Errorf("%q: inode %d, want %d like its other name", path, st.Ino, known)
	}
	inodes[n] = st.Ino
	major, minor := DevNumber(n.Rdev)
	want := fmt.Sprint(n.Mode, n.UID, n.GID, n.Sec, n.Nsec, p.byNode[n].nlink, p.byNode[n].size, unix.Mkdev(major, minor))
	if got := fmt.Sprint(st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Nlink, st.Size, st.Rdev); got != want {
		t.Errorf("stat(%q) = %s, want %s", path, got, want)
	}
	switch {
	case n.IsDir():
		walkDir(t, p, n, path, inodes)
	case n.IsSymlink():
		if got, err := os.Readlink(path); err != nil || got != n.Target {
			t.Errorf("readlink(%q) = %q, %v, want %q", path, got, err, n.Target)
		}
	case n.IsRegular():
		want := make([]byte, n.Content.Size)
		if _, err := n.Content.Src.ReadAt(want, n.Content.Off); err != nil && len(want) > 0 {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read(%q) = %d bytes, %v, want %d bytes", path, len(got), err, len(want))
		}
	}
}

func walkDir(t *testing.T, p *plan, n *Node, path string, inodes map[*Node]uint64) {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) != len(n.Children) {
		t.Errorf("readdir(%q) = %d entries, %v, want %d", path, len(entries), err, len(n.Children))
	}
	for name, child := range n.Children {
		walk(t, p, child, path+"/"+name, inodes)
	}
}
