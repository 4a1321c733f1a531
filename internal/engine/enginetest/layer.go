package enginetest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/engine"
)

var layerTests = []subtest{
	{"an untouched sandbox has nearly no layer", testEmptyLayer},
	{"files, modes, owners and links", testLayerFiles},
	{"whiteouts and opaque directories", testLayerWhiteouts},
	{"what a clone changed before and after", testLayerOfClone},
	{"a failing writer ends it", testLayerWriterFails},
}

// opaqueRecord is the PAX record of an opaque directory.
const opaqueRecord = "SCHILY.xattr.trusted.overlay.opaque"

// entry is one entry of a layer; a whiteout that came as a hard link to the
// first whiteout is resolved.
type entry struct {
	*tar.Header
	body []byte
}

func (e entry) whiteout() bool {
	return e.Typeflag == tar.TypeChar && e.Devmajor == 0 && e.Devminor == 0
}

// layer reads the writable layer by clean path.
func (b *bench) layer(t *testing.T, sb engine.Sandbox) map[string]entry {
	t.Helper()
	var buf bytes.Buffer
	if err := sb.WritableLayer(b.ctx(t), &buf); err != nil {
		t.Fatalf("WritableLayer() = %v", err)
	}
	entries := map[string]entry{}
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatalf("read the layer: %v", err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("read the layer's %s: %v", h.Name, err)
		}
		e := entry{h, body}
		if first, linked := entries[layerPath(h.Linkname)]; h.Typeflag == tar.TypeLink && linked && first.whiteout() {
			e.Typeflag = tar.TypeChar
		}
		entries[layerPath(h.Name)] = e
	}
}

func layerPath(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func testEmptyLayer(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	for name, e := range b.layer(t, sb) {
		if e.Typeflag != tar.TypeDir || name == ".lehr" || strings.HasPrefix(name, ".lehr/") {
			t.Errorf("layer of an untouched sandbox has %s (type %c)", name, e.Typeflag)
		}
	}
	b.do(t, sb, "echo", "alive")
}

func testLayerFiles(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	for _, verb := range [][]string{
		{"put", "/base/new", "new text"},
		{"put", "/base/suid", "s", "6755"},
		{"put", "/base/private", "p", "600"},
		{"chown", "/base/private", "1000", "1001"},
		{"link", "/base/new", "/base/hard"},
		{"symlink", "../etc/passwd", "/base/soft"},
		{"mkdir", "/base/dir"},
		{"chmod", "/base/dir", "1777"},
		{"put", "/base/dir/in", ""},
		{"put", "/base/change", "changed"},
		{"chmod", "/base/mode", "400"},
	} {
		b.do(t, sb, verb[0], verb[1:]...)
	}
	got := b.layer(t, sb)
	wantFile(t, got, "base/new", "new text", 0o644)
	wantFile(t, got, "base/suid", "s", 0o6755)
	wantFile(t, got, "base/private", "p", 0o600)
	wantFile(t, got, "base/dir/in", "", 0o644)
	wantFile(t, got, "base/change", "changed", 0o644)
	wantFile(t, got, "base/mode", "mode\n", 0o400)
	if h := got["base/private"]; h.Header != nil && (h.Uid != 1000 || h.Gid != 1001) {
		t.Errorf("owner of base/private = %d:%d, want 1000:1001", h.Uid, h.Gid)
	}
	if h := got["base/dir"]; h.Header == nil || h.Typeflag != tar.TypeDir || h.Mode&0o7777 != 0o1777 {
		t.Errorf("base/dir = %+v, want a directory of mode 1777", h.Header)
	}
	if h := got["base/soft"]; h.Header == nil || h.Typeflag != tar.TypeSymlink || h.Linkname != "../etc/passwd" {
		t.Errorf("base/soft = %+v, want a symlink to ../etc/passwd", h.Header)
	}
	wantHardLink(t, got)
	for _, name := range []string{"base/keep", "etc/passwd", ".lehr", ".lehr/probe"} {
		if h, ok := got[name]; ok {
			t.Errorf("the layer has %s (%+v), which nobody changed", name, h.Header)
		}
	}
}

// wantFile checks one regular file, through a hard link too.
func wantFile(t *testing.T, layer map[string]entry, name, body string, mode int64) {
	t.Helper()
	e, ok := layer[name]
	if ok && e.Typeflag == tar.TypeLink {
		e = layer[layerPath(e.Linkname)]
	}
	if !ok || e.Header == nil || e.Typeflag != tar.TypeReg {
		t.Errorf("%s = %+v, want a regular file", name, e.Header)
		return
	}
	if string(e.body) != body || e.Mode&0o7777 != mode {
		t.Errorf("%s = %q mode %o, want %q mode %o", name, e.body, e.Mode&0o7777, body, mode)
	}
}

// wantHardLink checks that one of the two names links to the other.
func wantHardLink(t *testing.T, layer map[string]entry) {
	t.Helper()
	a, z := layer["base/new"], layer["base/hard"]
	if a.Header == nil || z.Header == nil {
		t.Errorf("hard link: base/new = %v, base/hard = %v", a.Header, z.Header)
		return
	}
	aLinks := a.Typeflag == tar.TypeLink && layerPath(a.Linkname) == "base/hard"
	zLinks := z.Typeflag == tar.TypeLink && layerPath(z.Linkname) == "base/new"
	if aLinks == zLinks {
		t.Errorf("hard link: base/new = %+v, base/hard = %+v, want one to link to the other", a.Header, z.Header)
	}
}

func testLayerWhiteouts(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	for _, verb := range [][]string{
		{"delete", "/base/remove"},
		{"delete", "/base/remove2"},
		{"delete", "/base/gone"},
		{"delete", "/base/opaque"},
		{"mkdir", "/base/opaque"},
		{"put", "/base/opaque/fresh", "fresh"},
		{"put", "/base/brief", "x"},
		{"delete", "/base/brief"},
	} {
		b.do(t, sb, verb[0], verb[1:]...)
	}
	got := b.layer(t, sb)
	for _, name := range []string{"base/remove", "base/remove2", "base/gone"} {
		if e, ok := got[name]; !ok || !e.whiteout() {
			t.Errorf("%s = %+v, want a whiteout", name, e.Header)
		}
	}
	if e, ok := got["base/opaque"]; !ok || e.Typeflag != tar.TypeDir || e.PAXRecords[opaqueRecord] != "y" {
		t.Errorf("base/opaque = %+v, want an opaque directory", e.Header)
	}
	wantFile(t, got, "base/opaque/fresh", "fresh", 0o644)
	if e, ok := got["base/brief"]; ok && !e.whiteout() {
		t.Errorf("base/brief = %+v, want nothing: it came and went", e.Header)
	}
}

func testLayerOfClone(t *testing.T, b *bench) {
	_, original := b.boot(t, small)
	b.do(t, original, "put", "/base/before", "before")
	_, clone := b.restore(t, b.snapshot(t, original))
	b.do(t, clone, "put", "/base/after", "after")
	got := b.layer(t, clone)
	wantFile(t, got, "base/before", "before", 0o644)
	wantFile(t, got, "base/after", "after", 0o644)
}

func testLayerWriterFails(t *testing.T, b *bench) {
	_, sb := b.boot(t, small)
	b.do(t, sb, "write", "/big", "8")
	broken := errors.New("the writer is broken")
	err := sb.WritableLayer(b.ctx(t), writerFunc(func([]byte) (int, error) { return 0, broken }))
	if err == nil {
		t.Error("WritableLayer(broken writer) = nil, want an error")
	}
	b.do(t, sb, "echo", "alive")
	var c countingWriter
	if err := sb.WritableLayer(b.ctx(t), &c); err != nil || c.n < 8<<20 {
		t.Errorf("WritableLayer() after a failed one = %v with %d bytes", err, c.n)
	}
}

// writerFunc is a writer made of a function.
type writerFunc func([]byte) (int, error)

// Write calls f.
func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
