package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/image/erofs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// open returns a store in a folder of the test, which must hold no leftovers
// when the test ends.
func open(tb testing.TB) *Store {
	tb.Helper()
	s, err := OpenStore(tb.TempDir())
	if err != nil {
		tb.Fatalf("OpenStore() = %v", err)
	}
	tb.Cleanup(func() {
		if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 {
			tb.Errorf("the store's temporary folder holds %v, %v, want nothing", left, err)
		}
		if err := s.Close(); err != nil {
			tb.Errorf("Close() = %v", err)
		}
	})
	return s
}

var testTime = time.Unix(1_700_000_000, 123_456_789)

// item is one entry of a test archive.
type item struct {
	tar.Header
	content string
}

func dirItem(name string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func fileItem(name, content string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content: content}
}

func linkItem(name, target string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

func symlinkItem(name, target string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}}
}

func charItem(name string, major, minor int64) item {
	return item{Header: tar.Header{Typeflag: tar.TypeChar, Name: name, Devmajor: major, Devminor: minor, Mode: 0o600}}
}

// opaque marks a directory as overlayfs does.
func opaque(i item) item {
	i.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}
	return i
}

// archiveOf returns a tar of the items.
func archiveOf(tb testing.TB, items ...item) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, i := range items {
		i.Size, i.Format = int64(len(i.content)), tar.FormatPAX
		if i.ModTime.IsZero() {
			i.ModTime = testTime
		}
		if err := w.WriteHeader(&i.Header); err != nil {
			tb.Fatalf("%s: %v", i.Name, err)
		}
		if _, err := io.WriteString(w, i.content); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// importItems imports an archive of the items.
func importItems(t *testing.T, s *Store, items ...item) Imported {
	t.Helper()
	made, err := s.ImportTar(t.Context(), bytes.NewReader(archiveOf(t, items...)), Limits{})
	if err != nil {
		t.Fatalf("ImportTar() = %v", err)
	}
	return made
}

// listing describes every entry of an image but the root: type and mode, number
// of names, owner, path, and content, target or device.
func listing(t *testing.T, s *Store, d lehr.Digest) []string {
	t.Helper()
	path, err := s.Path(t.Context(), d)
	if err != nil {
		t.Fatalf("Path() = %v", err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	root, err := erofs.Load(t.Context(), f)
	if err != nil {
		t.Fatalf("Load() = %v", err)
	}
	names := make(map[*erofs.Node]int)
	count(root, names)
	var lines []string
	list(t, root, "", names, &lines)
	slices.Sort(lines)
	return lines
}

func count(n *erofs.Node, names map[*erofs.Node]int) {
	if names[n]++; names[n] == 1 {
		for _, child := range n.Children {
			count(child, names)
		}
	}
}

func list(t *testing.T, n *erofs.Node, path string, names map[*erofs.Node]int, lines *[]string) {
	t.Helper()
	for name, child := range n.Children {
		at := path + "/" + name
		detail := child.Target
		switch {
		case child.IsRegular():
			content := make([]byte, child.Content.Size)
			if len(content) > 0 {
				if _, err := child.Content.Src.ReadAt(content, child.Content.Off); err != nil {
					t.Fatal(err)
				}
			}
			detail = fmt.Sprintf("%q", content)
		case child.IsDevice():
			major, minor := erofs.DevNumber(child.Rdev)
			detail = fmt.Sprintf("%d:%d", major, minor)
		}
		line := fmt.Sprintf("%s %06o %d %d:%d %s", at, child.Mode, names[child], child.UID, child.GID, detail)
		*lines = append(*lines, strings.TrimSpace(line))
		list(t, child, at, names, lines)
	}
}

// wantListing compares an image with its description.
func wantListing(t *testing.T, s *Store, d lehr.Digest, want ...string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, listing(t, s, d)); diff != "" {
		t.Errorf("image differs (-want +got):\n%s", diff)
	}
}

func TestImportTarKeepsEverything(t *testing.T) {
	t.Parallel()
	s := open(t)
	setuid := fileItem("./usr/bin/su", "program")
	setuid.Mode, setuid.Uid, setuid.Gid = 0o6755, 70000, 42
	sticky := dirItem("./tmp/")
	sticky.Mode = 0o1777
	fifo := item{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600}}
	block := item{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8, Devminor: 300, Mode: 0o660}}
	made := importItems(
		t, s, dirItem("./"), dirItem("./usr/"), setuid, linkItem("./usr/bin/sg", "./usr/bin/su"), sticky, fifo, block,
		symlinkItem("bin", "usr/bin"), symlinkItem("escape", "../../../../etc/passwd"), charItem("c", 1, 3),
		fileItem("usr/bin/apt-get", ""), fileItem("made/for/it", "x"),
		fileItem("dev/null", "noise"), dirItem("proc/1"), fileItem("sys/kernel", "noise"), fileItem(".lehr/init", "ours"),
	)
	wantListing(
		t, s, made.Digest, "/usr 040755 1 0:0", "/usr/bin 040755 1 0:0",
		`/usr/bin/su 106755 2 70000:42 "program"`, `/usr/bin/sg 106755 2 70000:42 "program"`, "/tmp 041777 1 0:0",
		"/fifo 010600 1 0:0", "/disk 060660 1 0:0 8:300", "/c 020600 1 0:0 1:3", "/bin 120777 1 0:0 usr/bin",
		"/escape 120777 1 0:0 ../../../../etc/passwd", `/usr/bin/apt-get 100644 1 0:0 ""`,
		"/made 040755 1 0:0", "/made/for 040755 1 0:0", `/made/for/it 100644 1 0:0 "x"`,
		"/dev 040755 1 0:0", "/proc 040755 1 0:0", "/sys 040755 1 0:0",
	)
	if !made.Config.Debian {
		t.Error("Config.Debian = false, want true for an image with apt-get")
	}
	got, err := s.ReadFile(t.Context(), made.Digest, "/bin/su", 7)
	if err != nil || string(got) != "program" {
		t.Errorf("ReadFile(/bin/su) = %q, %v, want the file behind the link", got, err)
	}
}

func TestTheSameTreeHasTheSameDigest(t *testing.T) {
	t.Parallel()
	items := []item{dirItem("b/"), fileItem("b/1", "one"), fileItem("b/2", "two"), dirItem("a/"), symlinkItem("a/l", "x"), linkItem("a/h", "b/1")}
	plain := archiveOf(t, items...)
	want := importItems(t, open(t), items...).Digest
	withXattr := slices.Clone(items)
	withXattr[1].PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "cap", "SCHILY.xattr.user.x": "y"}
	withXattr[1].Uname, withXattr[1].AccessTime = "somebody", testTime
	other := []item{items[3], items[4], items[0], items[2], items[1], items[5]}
	for name, in := range map[string][]byte{
		"again": plain, "gzip": gzipped(t, plain), "zstd": zstandard(t, plain),
		"xattrs and names of owners": archiveOf(t, withXattr...), "another order": archiveOf(t, other...),
	} {
		s := open(t)
		got, err := s.ImportTar(t.Context(), bytes.NewReader(in), Limits{})
		if err != nil || got.Digest != want {
			t.Errorf("%s: ImportTar() = %s, %v, want %s", name, got.Digest, err, want)
		}
	}
}

func gzipped(tb testing.TB, in []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(in); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(tb testing.TB, in []byte) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return w.EncodeAll(in, nil)
}

func TestWriteFiles(t *testing.T) {
	t.Parallel()
	s := open(t)
	info, err := s.WriteFiles(t.Context(), []File{
		{Path: "/init", Mode: 0o755, Data: []byte("program")},
		{Path: "etc/setuid", Mode: 0o755 | os.ModeSetuid, UID: 1, GID: 2, Data: []byte("x")},
		{Path: "etc/mtab", Mode: os.ModeSymlink, Target: "/proc/mounts"},
		{Path: "tmp", Mode: os.ModeDir | os.ModeSticky | 0o777, ModTime: testTime},
	})
	if err != nil {
		t.Fatalf("WriteFiles() = %v", err)
	}
	wantListing(
		t, s, info.Digest, `/init 100755 1 0:0 "program"`, "/etc 040755 1 0:0", `/etc/setuid 104755 1 1:2 "x"`,
		"/etc/mtab 120777 1 0:0 /proc/mounts", "/tmp 041777 1 0:0",
	)
	for name, bad := range map[string]File{
		"root": {Path: "/"}, "dots": {Path: "a/../b"}, "device": {Path: "d", Mode: os.ModeDevice},
	} {
		if _, err := s.WriteFiles(t.Context(), []File{bad}); err == nil {
			t.Errorf("WriteFiles(%s) = nil, want an error", name)
		}
	}
}

// TestKernelSeesWhatTarSaw compares a mounted image with the folder it was made
// from.
func TestKernelSeesWhatTarSaw(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIP-ENV: mounting needs root")
	}
	s := open(t)
	source := t.TempDir()
	populate(t, source)
	made := importItems(t, s, diskItems(t, source)...)
	path, err := s.Path(t.Context(), made.Digest)
	if err != nil {
		t.Fatal(err)
	}
	target := mountImage(t, path)
	if diff := cmp.Diff(statTree(t, source), statTree(t, target)); diff != "" {
		t.Errorf("the mounted image differs (-source +image):\n%s", diff)
	}
}

// populate makes files of every kind below dir.
func populate(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.MkdirAll(at("a/b/c"), 0o750), os.WriteFile(at("a/file"), bytes.Repeat([]byte("data"), 5000), 0o640),
		os.Link(at("a/file"), at("a/b/hard")), os.Symlink("../file", at("a/b/sym")), unix.Mkfifo(at("fifo"), 0o600),
		unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Chmod(at("a/b"), 0o755|os.ModeSetgid),
		os.Lchown(at("a/file"), 1234, 65534), os.Chmod(at("a/file"), 0o755|os.ModeSetuid), os.WriteFile(at("empty"), nil, 0),
		os.Chtimes(at("empty"), testTime, time.Unix(-5, 7)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// diskItems returns the entries below dir, sorted.
func diskItems(t *testing.T, dir string) []item {
	t.Helper()
	var items []item
	seen := make(map[uint64]string)
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		target, _ := os.Readlink(path)
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		h.Name = name
		i := item{Header: *h}
		st := info.Sys().(*syscall.Stat_t)
		if first, ok := seen[st.Ino]; ok && !info.IsDir() {
			i.Typeflag, i.Linkname = tar.TypeLink, first
		} else if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			i.content = string(b)
		}
		seen[st.Ino] = name
		items = append(items, i)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// statTree returns what stat says of every path below dir.
func statTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if info.IsDir() {
			st.Size = 0
		}
		line := fmt.Sprint(st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Rdev, st.Mtim)
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += string(lehr.DigestOf(b))
		}
		all[name] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// mountImage mounts the image until the test ends; mount(8) sets up the loop
// device.
func mountImage(t *testing.T, path string) string {
	t.Helper()
	target := t.TempDir()
	out, err := runCommand(t, "mount", "-t", "erofs", "-o", "ro,loop", path, target)
	if err != nil {
		t.Skipf("SKIP-ENV: cannot mount erofs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("umount = %v", err)
		}
	})
	return target
}
