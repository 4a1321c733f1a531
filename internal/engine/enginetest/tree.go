package enginetest

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// treeTime is the modification time of everything in RootTar.
var treeTime = time.Unix(1_700_000_000, 0)

// RootTar returns the root filesystem of the suite's sandboxes as a tar; the
// subject makes an image of it in the engine's own format.
func RootTar() []byte {
	dirs := []string{"dev", "proc", "sys", "etc", "usr", "usr/bin", "var", "base", "base/gone", "base/opaque", "base/keepdir"}
	files := []struct{ name, body string }{
		{"etc/passwd", "root:x:0:0:root:/:/bin/sh\n"},
		{"etc/group", "root:x:0:\n"},
		{"base/keep", "keep\n"},
		{"base/change", "change\n"},
		{"base/mode", "mode\n"},
		{"base/remove", "remove\n"},
		{"base/remove2", "remove2\n"},
		{"base/gone/inner", "inner\n"},
		{"base/opaque/old", "old\n"},
		{"base/keepdir/inner", "inner\n"},
	}
	w := newTarWriter()
	w.add(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}, nil)
	for _, d := range dirs {
		w.add(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}, nil)
	}
	w.add(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	for _, f := range files {
		w.add(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644}, []byte(f.body))
	}
	w.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "base/link", Linkname: "keep", Mode: 0o777}, nil)
	return w.bytes()
}

// GuestTar returns the guest image as a tar: the probe binary at /probe.
func GuestTar(probe []byte) []byte {
	w := newTarWriter()
	w.add(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}, nil)
	w.add(&tar.Header{Typeflag: tar.TypeReg, Name: "probe", Mode: 0o755}, probe)
	return w.bytes()
}

// BuildProbe compiles the probe, statically, and returns the binary.
func BuildProbe(t testing.TB) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "probe")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out,
		"github.com/lehr-dev/lehr/internal/engine/enginetest/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatalf("read the probe: %v", err)
	}
	return b
}

// tarWriter writes a tar into memory, where writing cannot fail for any reason
// but a header of ours that is malformed.
type tarWriter struct {
	buf bytes.Buffer
	w   *tar.Writer
}

func newTarWriter() *tarWriter {
	t := &tarWriter{}
	t.w = tar.NewWriter(&t.buf)
	return t
}

func (t *tarWriter) add(h *tar.Header, body []byte) {
	h.Size, h.ModTime, h.Format = int64(len(body)), treeTime, tar.FormatPAX
	if err := t.w.WriteHeader(h); err != nil {
		panic("enginetest: tar header of " + h.Name + ": " + err.Error())
	}
	if _, err := t.w.Write(body); err != nil {
		panic("enginetest: tar body of " + h.Name + ": " + err.Error())
	}
}

func (t *tarWriter) bytes() []byte {
	if err := t.w.Close(); err != nil {
		panic("enginetest: close tar: " + err.Error())
	}
	return t.buf.Bytes()
}
