package fake

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/lehr-dev/lehr/internal/errs"
)

// opaqueRecord marks an opaque directory in a layer's tar.
const opaqueRecord = "SCHILY.xattr.trusted.overlay.opaque"

// readLayer reads an image, a plain tar.
func readLayer(r io.Reader) (layer, error) {
	t := newTree(layer{}, 0, nil)
	if err := t.load(r); err != nil {
		return nil, err
	}
	return t.upper, nil
}

// load applies an overlayfs-style tar to the writable layer.
func (t *Tree) load(r io.Reader) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errs.Wrap(err, errs.Corrupt, "fake.load", "the image is not a tar")
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return errs.Wrap(err, errs.Corrupt, "fake.load", fmt.Sprintf("the image ends within %s", h.Name))
		}
		if err := t.loadEntry(h, data); err != nil {
			return err
		}
	}
}

func (t *Tree) loadEntry(h *tar.Header, data []byte) error {
	p := cleanPath(h.Name)
	n := &node{mode: uint32(h.Mode) & 0o7777, uid: h.Uid, gid: h.Gid, mtime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeReg:
		n.data = data
		if allZero(data) {
			n.data, n.bulk = nil, int64(len(data))
		}
	case tar.TypeDir:
		n.typ = TypeDir
		if h.PAXRecords[opaqueRecord] == "y" {
			t.opaque[p] = true
		}
	case tar.TypeSymlink:
		n.typ, n.target = TypeSymlink, h.Linkname
	case tar.TypeChar:
		if h.Devmajor != 0 || h.Devminor != 0 {
			return errs.New(errs.Unsupported, "the fake engine has no devices (%s)", h.Name)
		}
		t.white[p] = true
		return nil
	case tar.TypeLink:
		old := cleanPath(h.Linkname)
		if t.white[old] {
			t.white[p] = true
			return nil
		}
		if n = t.upper[old]; n == nil {
			return errs.New(errs.Corrupt, "hard link %s leads to %s, which does not come before it", h.Name, h.Linkname)
		}
	default:
		return errs.New(errs.Unsupported, "the fake engine has no files of type %c (%s)", h.Typeflag, h.Name)
	}
	t.upper[p] = n
	return nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// save writes the writable layer as an overlayfs-style tar.
func (t *Tree) save(w io.Writer) error {
	t.mu.Lock()
	upper, white, opaque := maps.Clone(t.upper), maps.Clone(t.white), maps.Clone(t.opaque)
	copies := map[*node]*node{} // a still picture: the tree may change while the writer is slow
	for p, n := range upper {
		if copies[n] == nil {
			c := *n
			c.data = slices.Clone(n.data)
			copies[n] = &c
		}
		upper[p] = copies[n]
	}
	t.mu.Unlock()
	return saveLayer(w, upper, white, opaque)
}

// Merge writes the image that base and an overlayfs-style layer over it make,
// as a plain tar.
func Merge(w io.Writer, base, over io.Reader) error {
	lower, err := readLayer(base)
	if err != nil {
		return err
	}
	t := newTree(lower, 0, nil)
	if err := t.load(over); err != nil {
		return err
	}
	merged := layer{"": t.at("")}
	for _, p := range t.names("") {
		merged[p] = t.at(p)
	}
	return saveLayer(w, merged, nil, nil)
}

func saveLayer(w io.Writer, upper layer, white, opaque map[string]bool) error {
	tw := tar.NewWriter(w)
	first := map[*node]string{}
	for _, p := range slices.Sorted(maps.Keys(upper)) {
		n := upper[p]
		if err := saveNode(tw, p, n, first, opaque[p]); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(white)) {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeChar, Name: "./" + p, Format: tar.FormatPAX}); err != nil {
			return fmt.Errorf("write whiteout of %s: %w", p, err)
		}
	}
	return tw.Close()
}

func saveNode(tw *tar.Writer, p string, n *node, first map[*node]string, opaque bool) error {
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: "./" + p, Mode: int64(n.mode), Uid: n.uid, Gid: n.gid,
		Size: n.size(), ModTime: n.mtime, Format: tar.FormatPAX,
	}
	switch name, linked := first[n]; {
	case linked && n.typ == TypeFile:
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, "./"+name, 0
	case n.typ == TypeDir:
		h.Typeflag, h.Name, h.Size = tar.TypeDir, h.Name+"/", 0
		if opaque {
			h.PAXRecords = map[string]string{opaqueRecord: "y"}
		}
	case n.typ == TypeSymlink:
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, n.target, 0
	}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	first[n] = p
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	if _, err := tw.Write(n.data); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	if _, err := io.CopyN(tw, zeros{}, n.bulk); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	return nil
}

// zeros reads as zeros for ever.
type zeros struct{}

// Read fills b with zeros.
func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
