package image

import (
	"bytes"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image/erofs"
)

var fuzzLimits = Limits{MaxBytes: 1 << 20, MaxInodes: 1000}

// FuzzReadArchive reads hostile archives; what is accepted must fit an image.
func FuzzReadArchive(f *testing.F) {
	f.Add(archiveOf(f, fileItem("a/b", "content"), linkItem("c", "a/b"), symlinkItem("l", "a"), charItem("d", 1, 3)))
	f.Add(gzipped(f, archiveOf(f, dirItem("d/"), fileItem("d/../x", ""))))
	f.Add(zstandard(f, archiveOf(f, fileItem("f", ""))))
	f.Fuzz(func(t *testing.T, in []byte) {
		fuzzTree(t, func(tree *Tree) error { return tree.ReadArchive(t.Context(), bytes.NewReader(in)) })
	})
}

// FuzzLayers reads two hostile layers, one over the other, by the rules of
// container images and of our own writable layers.
func FuzzLayers(f *testing.F) {
	base := archiveOf(f, lower()...)
	f.Add(base, archiveOf(f, charItem("./d", 0, 0), linkItem("./hard", "./d"), opaque(dirItem("./lib/"))))
	f.Add(base, archiveOf(f, fileItem(".wh.f", ""), fileItem("d/.wh..wh..opq", ""), fileItem("lib/x", "")))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		fuzzTree(t, func(tree *Tree) error {
			if err := tree.ReadOCILayer(t.Context(), bytes.NewReader(one)); err != nil {
				return err
			}
			return tree.ReadOCILayer(t.Context(), bytes.NewReader(two))
		})
		fuzzTree(t, func(tree *Tree) error {
			if err := tree.ReadArchive(t.Context(), bytes.NewReader(one)); err != nil {
				return err
			}
			return tree.ReadWritableLayer(t.Context(), bytes.NewReader(two))
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
