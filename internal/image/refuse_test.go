package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// bomb is a small gzip of 24 empty files with a megabyte of header each.
func bomb(tb testing.TB) []byte {
	tb.Helper()
	items := make([]item, 24)
	for i := range items {
		items[i] = fileItem(fmt.Sprint(i), "")
		items[i].PAXRecords = map[string]string{"comment": strings.Repeat("x", 1_000_000)}
	}
	return gzipped(tb, archiveOf(tb, items...))
}

func TestImportTarRefuses(t *testing.T) {
	t.Parallel()
	owner := fileItem("f", "")
	owner.Uid = math.MaxUint32 + 1
	huge := archiveOf(t, fileItem("ok", "x"), fileItem("f", strings.Repeat("x", 1000)))
	ok := archiveOf(t, fileItem("ok", strings.Repeat("x", 10000)))
	small := Limits{MaxBytes: 100, MaxInodes: 10}
	many := make([]item, 0, 11)
	for i := range 11 {
		many = append(many, fileItem(fmt.Sprint(i), ""))
	}
	tests := map[string]struct {
		in     []byte
		limits Limits
		kind   errs.Kind
		want   string // part of the error, which names the entry
	}{
		"parent":                 {in: archiveOf(t, fileItem("a/../../etc/passwd", "")), want: `"../etc/passwd"`},
		"parent inside":          {in: archiveOf(t, fileItem("a/../b", "")), want: "not a file name"},
		"absolute":               {in: archiveOf(t, fileItem("/etc/passwd", "")), want: `"/etc/passwd": has an absolute name`},
		"through a link":         {in: archiveOf(t, symlinkItem("l", "/etc"), fileItem("l/passwd", "")), want: `"l/passwd": leads through "l"`},
		"through a file":         {in: archiveOf(t, fileItem("f", ""), fileItem("f/g", "")), want: `leads through "f"`},
		"hard link to nothing":   {in: archiveOf(t, linkItem("l", "gone")), want: `"l": is a hard link to "gone"`},
		"hard link out":          {in: archiveOf(t, linkItem("l", "../../etc/shadow")), want: "target has a bad name"},
		"absolute hard link":     {in: archiveOf(t, fileItem("f", ""), linkItem("l", "/f")), want: "target has an absolute name"},
		"hard link via a link":   {in: archiveOf(t, symlinkItem("s", "d"), dirItem("d"), fileItem("d/f", ""), linkItem("l", "s/f")), want: `target leads through "s"`},
		"hard link to directory": {in: archiveOf(t, dirItem("d/"), linkItem("l", "d")), want: "hard link to a directory"},
		"hard link to the root":  {in: archiveOf(t, linkItem("l", ".")), want: "hard link to a directory"},
		"hard link to itself":    {in: archiveOf(t, fileItem("f", ""), linkItem("f", "f")), want: "twice"},
		"file twice":             {in: archiveOf(t, fileItem("f", "1"), fileItem("./f", "2")), want: `"f": is in the archive twice`},
		"file as directory":      {in: archiveOf(t, dirItem("f/"), fileItem("f", "")), want: "twice"},
		"directory as file":      {in: archiveOf(t, fileItem("f", ""), dirItem("f/")), want: "twice"},
		"root as file":           {in: archiveOf(t, symlinkItem(".", "x")), want: "is the root"},
		"long name":              {in: archiveOf(t, fileItem("d/"+strings.Repeat("n", 256), "")), want: "longer than 255"},
		"long path":              {in: archiveOf(t, fileItem(strings.Repeat("d/", 2049)+"f", "")), want: "4096"},
		"long target":            {in: archiveOf(t, symlinkItem("l", strings.Repeat("t", 4096))), want: "more than 4095"},
		"empty target":           {in: archiveOf(t, symlinkItem("l", "")), want: "target of a symbolic link is empty"},
		"device number":          {in: archiveOf(t, charItem("c", 4096, 0)), want: `"c": cannot be in an image`},
		"owner":                  {in: archiveOf(t, owner), want: "has the owner"},
		"unknown type":           {in: archiveOf(t, item{Header: tar.Header{Typeflag: 'Z', Name: "z"}}), want: `"z": cannot be in an image: the type 'Z'`},
		"zero byte in a name":    {in: rawName(t, "a\x00b"), want: ""},
		"empty":                  {in: nil, want: "cut off"},
		"no entries":             {in: archiveOf(t), want: "archive is empty"},
		"no archive":             {in: []byte(strings.Repeat("not a tar ", 200)), want: "damaged"},
		"cut off in a header":    {in: ok[:300], want: "cut off"},
		"cut off in a file":      {in: ok[:2000], want: `"ok": the archive is cut off`},
		"cut off after a file":   {in: ok[:len(ok)-1024], want: "cut off"},
		"cut off gzip":           {in: gzipped(t, ok)[:40], want: "cut off"},
		"damaged gzip":           {in: damage(gzipped(t, ok)), want: "damaged"},
		"damaged zstd":           {in: damage(zstandard(t, ok)), want: ""},
		"xz":                     {in: []byte("\xfd7zXZ\x00 and so on"), kind: errs.Unsupported, want: "xz"},
		"bzip2":                  {in: []byte("BZh91AY&SY"), kind: errs.Unsupported, want: "bzip2"},
		"too many bytes":         {in: huge, limits: small, want: `"f": the image holds more than 100 bytes`},
		"too many inodes":        {in: archiveOf(t, many...), limits: small, want: "more than 10 files"},
		"too many directories":   {in: archiveOf(t, fileItem(strings.Repeat("d/", 20)+"f", "")), limits: small, want: "more than 10 files"},
		"too many name bytes":    {in: archiveOf(t, symlinkItem("l", strings.Repeat("t", 4000))), limits: small, want: "bytes of names"},
		"gzip bomb":              {in: bomb(t), limits: Limits{MaxBytes: 100, MaxInodes: 100}, want: "once unpacked"},
		"junk behind":            {in: append(ok[:len(ok)-1024:len(ok)-1024], bytes.Repeat([]byte{1}, 4096)...), want: "damaged"},
		"claimed size":           {in: claim(t, math.MaxInt64/2), want: "more than"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			kind := tt.kind
			if kind == "" {
				kind = errs.Invalid
			}
			_, err := s.ImportTar(t.Context(), bytes.NewReader(tt.in), tt.limits)
			if errs.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("ImportTar() = %v (%s), want %s with %q", err, errs.KindOf(err), kind, tt.want)
			}
			if images, err := s.List(); err != nil || len(images) > 0 {
				t.Errorf("List() = %v, %v, want no image", images, err)
			}
		})
	}
}

// rawName returns an archive whose first name holds raw bytes, in a PAX record.
func rawName(t *testing.T, name string) []byte {
	t.Helper()
	placeholder := strings.Repeat("é", 60)
	in := archiveOf(t, fileItem(placeholder, ""))
	return bytes.ReplaceAll(in, []byte(placeholder), []byte(name+strings.Repeat("x", len(placeholder)-len(name))))
}

// damage changes a byte in the middle.
func damage(b []byte) []byte {
	b[len(b)/2] ^= 0xff
	return b
}

// claim returns an archive with a header that promises size bytes.
func claim(t *testing.T, size int64) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := tar.NewWriter(&out).WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: size}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOCILayerRefuses(t *testing.T) {
	t.Parallel()
	loop := []item{symlinkItem("a", "b"), symlinkItem("b", "a"), fileItem("a/x", "")}
	grow := []item{dirItem("d/"), symlinkItem("l", strings.Repeat("d/../", 400)+"l"), fileItem("l/x", "")}
	deep := make([]item, 0, 40)
	for i := range 20 { // each link leads 300 bytes deeper than the one before
		long := fmt.Sprintf("n%d/%s", i, strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 99)+"/", 3), "/"))
		if i > 0 {
			long = fmt.Sprintf("l%d/%s", i-1, long)
		}
		deep = append(deep, dirItem(long), symlinkItem(fmt.Sprintf("l%d", i), long))
	}
	for name, layer := range map[string][]item{
		"parent": {fileItem("../x", "")}, "loop": loop, "growing loop": grow, "deeper by links": deep,
		"whiteout of nothing": {fileItem(".wh.", "")}, "whiteout of a parent": {fileItem("d/.wh...", "")},
		"inside of a whiteout": {fileItem(".wh.d/x", "")}, "through a file": {fileItem("f", ""), fileItem("f/x", "")},
		"hard link to nothing": {linkItem("l", "gone")}, "hard link to a directory": {dirItem("d/"), linkItem("l", "d")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree, err := open(t).NewTree(Limits{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tree.Close() }()
			if err := tree.ReadOCILayer(t.Context(), bytes.NewReader(archiveOf(t, layer...))); !errs.IsKind(err, errs.Invalid) {
				t.Errorf("ReadOCILayer() = %v, want invalid", err)
			}
		})
	}
}

func TestFlattenRefuses(t *testing.T) {
	t.Parallel()
	s := open(t)
	base := importItems(t, s, lower()...)
	redirect := dirItem("./d/")
	redirect.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/usr"}
	ok := archiveOf(t, fileItem("./x", ""))
	for name, tt := range map[string]struct {
		layer []byte
		kind  errs.Kind
	}{
		"through a link":  {archiveOf(t, fileItem("./lib/x", "")), errs.Corrupt},
		"parent":          {archiveOf(t, fileItem("../x", "")), errs.Corrupt},
		"cut off":         {ok[:len(ok)-1024], errs.Corrupt},
		"nothing at all":  {nil, errs.Corrupt},
		"redirect":        {archiveOf(t, redirect), errs.Unsupported},
		"link to nothing": {archiveOf(t, linkItem("./l", "./gone")), errs.Corrupt},
	} {
		if _, err := s.Flatten(t.Context(), base.Digest, bytes.NewReader(tt.layer), Limits{}); errs.KindOf(err) != tt.kind {
			t.Errorf("%s: Flatten() = %v, want %s", name, err, tt.kind)
		}
	}
	if _, err := s.Flatten(t.Context(), base.Digest, bytes.NewReader(ok), Limits{MaxInodes: 5}); errs.CodeOf(err) != CodeTooLarge {
		t.Errorf("Flatten(over the limits) = %v, want %s", err, CodeTooLarge)
	}
	missing := "sha256:" + strings.Repeat("0", 64)
	if _, err := s.Flatten(t.Context(), "sha256:x", bytes.NewReader(ok), Limits{}); !errs.IsKind(err, errs.NotFound) {
		t.Errorf("Flatten(malformed) = %v, want not found", err)
	}
	if _, err := s.Flatten(t.Context(), base.Digest[:7]+base.Digest[8:]+"0", bytes.NewReader(ok), Limits{}); !errs.IsKind(err, errs.NotFound) {
		t.Errorf("Flatten(%s) = %v, want not found", missing, err)
	}
}

func TestABrokenStreamIsNotABrokenArchive(t *testing.T) {
	t.Parallel()
	s := open(t)
	in := archiveOf(t, fileItem("f", strings.Repeat("x", 1<<20)))
	broken := io.MultiReader(bytes.NewReader(in[:5000]), iotest.ErrReader(errors.New("connection reset")))
	if _, err := s.ImportTar(t.Context(), broken, Limits{}); !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("ImportTar(broken stream) = %v, want unavailable", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errs.New(errs.Cancelled, "the build was cancelled")
	ends := io.MultiReader(bytes.NewReader(in[:5000]), readerFunc(func([]byte) (int, error) {
		cancel(stop)
		return 0, nil
	}), bytes.NewReader(in[5000:]))
	if _, err := s.ImportTar(ctx, ends, Limits{}); !errors.Is(err, stop) {
		t.Errorf("ImportTar(cancelled) = %v, want the cause", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAFullDiskIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("SKIP-ENV: cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatalf("OpenStore() = %v", err)
	}
	defer func() { _ = s.Close() }()
	for _, size := range []int{1 << 20, 5 << 20} { // too large for the image beside the spool; for the spool alone
		_, err = s.ImportTar(t.Context(), bytes.NewReader(archiveOf(t, fileItem("f", strings.Repeat("x", size)))), Limits{})
		if !errs.IsKind(err, errs.Exhausted) || errs.CodeOf(err) != "disk_full" {
			t.Errorf("ImportTar(%d bytes) = %v, want disk_full", size, err)
		}
	}
	if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
