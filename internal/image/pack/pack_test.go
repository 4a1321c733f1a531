package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// warnings collects what is warned of.
type warnings struct {
	mu   sync.Mutex
	said []string
}

func (w *warnings) add(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, s)
}

// populate makes one of everything below dir.
func populate(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	old := time.Unix(1_600_000_000, 123456789)
	for _, err := range []error{
		os.MkdirAll(at("b/deep"), 0o755), os.WriteFile(at("b/file"), []byte("content"), 0o640),
		os.Link(at("b/file"), at("a-hard")), os.Symlink("/etc/passwd", at("b/link")), unix.Mkfifo(at("fifo"), 0o600),
		os.WriteFile(at("setuid"), nil, 0o755), os.Chmod(at("setuid"), 0o755|os.ModeSetuid), os.Chmod(dir, 0o755),
		os.Chtimes(at("b/file"), old, old),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// pack reads a whole base.
func pack(t *testing.T, base string, warn func(string)) (Kind, []byte) {
	t.Helper()
	kind, r, err := Open(t.Context(), base, warn)
	if err != nil {
		t.Fatalf("Open(%s) = %v", base, err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatalf("read %s: %v", base, err)
	}
	return kind, b
}

// entries describes every entry of a tar.
func entries(t *testing.T, b []byte) []string {
	t.Helper()
	var all []string
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(fmt.Sprintf("%c %s %o %s%s", h.Typeflag, h.Name, h.Mode, h.Linkname, content)))
	}
}

func TestDirIsPackedWholeAndTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	populate(t, dir)
	var warned warnings
	kind, first := pack(t, "dir:"+dir, warned.add)
	want := []string{
		"5 ./ 755", "0 a-hard 640 content", "5 b/ 755", "5 b/deep/ 755", "1 b/file 640 a-hard", "2 b/link 777 /etc/passwd",
		"6 fifo 600", "0 setuid 4755",
	}
	if diff := cmp.Diff(want, entries(t, first)); diff != "" || kind != Tar {
		t.Errorf("kind %s, entries differ (-want +got):\n%s", kind, diff)
	}
	if len(warned.said) != 1 || !strings.Contains(warned.said[0], "socket") {
		t.Errorf("warned %q, want one about the socket", warned.said)
	}
	h, err := tar.NewReader(bytes.NewReader(first)).Next()
	if err != nil || h.Uname != "" || !h.AccessTime.IsZero() || h.PAXRecords["mtime"] == "" {
		t.Errorf("header %+v, %v, want numbers for owners and nanoseconds", h, err)
	}
	if _, second := pack(t, "dir:"+dir, warned.add); !bytes.Equal(first, second) {
		t.Error("the same folder gave two archives")
	}
}

func TestDirWarnsOfCapabilities(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "ping")
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	value := append([]byte{1, 0, 0, 2, 0, 0x20, 0, 0}, make([]byte, 12)...) // cap_net_raw, version 2
	if err := unix.Setxattr(name, "security.capability", value, 0); err != nil {
		t.Skipf("SKIP-ENV: cannot set file capabilities: %v", err)
	}
	var warned warnings
	pack(t, "dir:"+dir, warned.add)
	if len(warned.said) != 1 || !strings.Contains(warned.said[0], "capabilities") {
		t.Errorf("warned %q, want one about capabilities", warned.said)
	}
}

func TestTarPassesThrough(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	populate(t, dir)
	_, want := pack(t, "dir:"+dir, func(string) {})
	path := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if kind, got := pack(t, "tar:"+path, nil); kind != Tar || !bytes.Equal(got, want) {
		t.Errorf("Open(tar:) = %s and %d bytes, want the %d bytes of the file", kind, len(got), len(want))
	}
}

func TestLayoutKeepsOnlyItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"index.json": "{}", "oci-layout": "{}", "secret": "no", "blobs/sha256/bb": "2", "blobs/sha256/aa": "1",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kind, b := pack(t, "oci:"+dir, nil)
	want := []string{"0 index.json 644 {}", "0 blobs/sha256/aa 644 1", "0 blobs/sha256/bb 644 2"}
	if diff := cmp.Diff(want, entries(t, b)); diff != "" || kind != OCI {
		t.Errorf("kind %s, entries differ (-want +got):\n%s", kind, diff)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for base, want := range map[string]errs.Kind{
		"minimal": errs.Invalid, "dir:": errs.Invalid, "zip:x": errs.Invalid, "dir:" + dir + "/gone": errs.NotFound,
		"dir:" + write("file", "x"): errs.Invalid, "tar:" + dir: errs.Invalid, "tar:" + write("text", strings.Repeat("no tar", 200)): errs.Invalid,
		"tar:" + write("short", "x"): errs.Invalid, "tar:" + write("xz", "\xfd7zXZ\x00"): errs.Unsupported, "oci:" + dir: errs.Invalid,
		"oci:" + dir + "/gone": errs.NotFound, "tar:" + dir + "/gone": errs.NotFound,
	} {
		if _, r, err := Open(t.Context(), base, nil); errs.KindOf(err) != want || r != nil {
			t.Errorf("Open(%s) = %v, want %s", base, err, want)
		}
	}
	for base, want := range map[string]bool{"minimal": false, "team/name:tag": false, "dir:/x": true, "tar:x": true, "oci:x": true} {
		if got := IsLocal(base); got != want {
			t.Errorf("IsLocal(%s) = %t, want %t", base, got, want)
		}
	}
}

func TestClosingEarlyAndCancelling(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 10 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 3<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, r, err := Open(t.Context(), "dir:"+dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close(early) = %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	_, r, err = Open(ctx, "dir:"+dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	stop := errors.New("stop")
	cancel(stop)
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, stop) {
		t.Errorf("read(cancelled) = %v, want the cause", err)
	}
}
