package image

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image/erofs"
)

var fuzzLimits = Limits{MaxBytes: 1 << 20, MaxInodes: 300}

// What fuzzed archives are made of. Names come from few words, so that entries
// meet each other.
var (
	fuzzTypes = []byte{tar.TypeReg, tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeFifo, tar.TypeXGlobalHeader, 'Z'}
	fuzzWords = []string{
		"", ".", "..", "a", "b", "c", "d", "lib", "usr", "proc", "dev", ".lehr", ".wh.a", ".wh.d", ".wh..wh..opq", ".wh..wh.aufs", ".wh.",
		strings.Repeat("n", 255), strings.Repeat("m", 256), "\xff\xfe", "ü",
	}
)

// fuzzName turns a byte into a path of one to three words.
func fuzzName(b byte) string {
	n := len(fuzzWords)
	name := fuzzWords[int(b)%n]
	if b >= 100 {
		name += "/" + fuzzWords[int(b)/3%n]
	}
	if b >= 200 {
		name = "/" + name + "/" + fuzzWords[int(b)/7%n]
	}
	return name
}

// fuzzArchive turns bytes into an archive: each five are a type, a name, a link
// target, a size and flags. Of an input that starts with 0xff the last third
// damages the archive, three bytes a time: an offset and what goes there.
func fuzzArchive(in []byte) []byte {
	var patch []byte
	if len(in) > 0 && in[0] == 0xff {
		patch, in = in[len(in)*2/3:], in[1:len(in)*2/3+1]
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for ; len(in) >= 5; in = in[5:] {
		h := &tar.Header{
			Typeflag: fuzzTypes[int(in[0])%len(fuzzTypes)], Name: fuzzName(in[1]), Mode: int64(in[4]), Size: int64(in[3]),
			Linkname: fuzzName(in[2]), Devmajor: int64(in[4] & 1),
		}
		if h.Typeflag == tar.TypeDir && in[4]&2 != 0 {
			h.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}
		}
		if h.Typeflag != tar.TypeReg {
			h.Size = 0
		}
		if err := w.WriteHeader(h); err != nil {
			continue
		}
		_, _ = w.Write(make([]byte, h.Size))
	}
	_ = w.Close()
	archive := out.Bytes()
	for ; len(patch) >= 3; patch = patch[3:] {
		archive[(int(patch[0])<<8+int(patch[1]))%len(archive)] = patch[2]
	}
	return archive
}

// FuzzReadArchive reads hostile archives; what is accepted must fit an image.
func FuzzReadArchive(f *testing.F) {
	f.Add([]byte{0, 3, 0, 9, 1, 2, 4, 3, 0, 0, 3, 5, 6, 0, 0})
	f.Add([]byte{0xff, 3, 0, 9, 1, 0, 10, 200})
	f.Fuzz(func(t *testing.T, in []byte) {
		archive := fuzzArchive(in)
		if len(in) > 0 && in[0] == 0xfe {
			archive = in[1:] // the bytes as they are
		}
		fuzzTree(t, func(tree *Tree) error { return tree.ReadArchive(t.Context(), bytes.NewReader(archive)) })
	})
}

// FuzzLayers reads two hostile layers, one over the other, by the rules of
// container images and of our own writable layers.
func FuzzLayers(f *testing.F) {
	f.Add([]byte{1, 6, 0, 0, 0, 0, 113, 0, 9, 1}, []byte{4, 6, 0, 0, 0, 2, 3, 6, 0, 0})
	f.Add([]byte{1, 6, 0, 0, 0, 0, 113, 0, 9, 1}, []byte{1, 6, 0, 0, 2, 0, 12, 6, 0, 0})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		fuzzTree(t, func(tree *Tree) error {
			if err := tree.ReadOCILayer(t.Context(), bytes.NewReader(fuzzArchive(one))); err != nil {
				return err
			}
			return tree.ReadOCILayer(t.Context(), bytes.NewReader(fuzzArchive(two)))
		})
		fuzzTree(t, func(tree *Tree) error {
			if err := tree.ReadArchive(t.Context(), bytes.NewReader(fuzzArchive(one))); err != nil {
				return err
			}
			return tree.ReadWritableLayer(t.Context(), bytes.NewReader(fuzzArchive(two)))
		})
	})
}

// fuzzTree checks what read leaves in a tree: either an error that blames the
// input, or a tree that can be written and that holds nothing of the machine.
func fuzzTree(t *testing.T, read func(*Tree) error) {
	t.Helper()
	sp, err := newSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tree := newTree(sp, fuzzLimits)
	defer func() { _ = tree.Close() }()
	if err := read(tree); err != nil {
		switch errs.KindOf(err) {
		case errs.Invalid, errs.Unsupported, errs.Corrupt:
			return
		}
		t.Fatalf("read = %v (%s), want the input to be blamed", err, errs.KindOf(err))
	}
	tree.dropMachine()
	plan, err := erofs.Plan(tree.root)
	if err != nil {
		t.Fatalf("an accepted tree does not fit an image: %v", err)
	}
	if plan.Inodes() > int(fuzzLimits.MaxInodes)+1 {
		t.Fatalf("%d inodes, more than the limit", plan.Inodes())
	}
	var out bytes.Buffer
	if err := plan.Write(t.Context(), &out); err != nil {
		t.Fatalf("Write() = %v", err)
	}
	if err := plan.Verify(t.Context(), bytes.NewReader(out.Bytes())); err != nil {
		t.Fatalf("Verify() = %v", err)
	}
}
