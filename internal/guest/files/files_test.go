package files

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	tests := []struct{ path, fallback, want string }{
		{"", "", "/home/al"},
		{"", "/work", "/work"},
		{"~", "/work", "/home/al"},
		{"~/a/../b", "", "/home/al/b"},
		{"a/b", "/work", "/home/al/a/b"},
		{"../bob", "", "/home/bob"},
		{"/a/./b//c/..", "", "/a/b"},
		{"/../../x", "", "/x"},
		{"a~", "", "/home/al/a~"},
	}
	for _, tt := range tests {
		got, err := Resolve(tt.path, tt.fallback, "/home/al")
		if err != nil || got != tt.want {
			t.Errorf("Resolve(%q, %q) = %q, %v, want %q", tt.path, tt.fallback, got, err, tt.want)
		}
	}
	for _, path := range []string{"a\x00b", "~bob", "~bob/x"} {
		if got, err := Resolve(path, "", "/home/al"); !errs.IsKind(err, errs.Invalid) {
			t.Errorf("Resolve(%q) = %q, %v, want invalid", path, got, err)
		}
	}
}

func FuzzResolve(f *testing.F) {
	for _, path := range []string{"", "~", "~/x", "../..", "/a/../../b", "a\x00"} {
		f.Add(path, "/work")
	}
	f.Fuzz(func(t *testing.T, path, fallback string) {
		got, err := Resolve(path, fallback, "/home/al")
		if err != nil {
			return
		}
		if strings.ContainsRune(path, 0) {
			t.Errorf("Resolve(%q) = %q, want a refusal", path, got)
		}
		if path != "" && got != filepath.Clean("/"+got) {
			t.Errorf("Resolve(%q) = %q, not clean and absolute", path, got)
		}
	})
}

// A link that changes between two looks gains nothing: the kernel checks the
// user's rights at the one open there is.
func TestWriteRace(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIP-ENV: lending rights needs root")
	}
	dir, err := os.MkdirTemp("", "guest-race-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	user := account.User{UID: 65534, GID: 65534, Groups: []uint32{65534}}
	spot := filepath.Join(dir, "spot")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Remove(spot)
				_ = os.Symlink(secret, spot)
				_ = os.Remove(spot)
			}
		}
	}()
	for range 500 {
		err := Write(user, spot, nil, strings.NewReader("nobody's"))
		if err != nil && !errs.IsKind(err, errs.PermissionDenied) && !errs.IsKind(err, errs.NotFound) {
			t.Errorf("Write = %v, want success or permission denied", err)
		}
	}
	close(stop)
	<-stopped
	if got, err := os.ReadFile(secret); err != nil || string(got) != "root's" {
		t.Errorf("the secret is %q, %v; want it untouched", got, err)
	}
}

// Listings are bounded by their entries and by their bytes, wherever in the
// tree the last one is.
func TestListIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.MkdirAll(filepath.Join(dir, "sub", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, l := range map[string]*listing{
		"fits":    {entries: make([]Entry, maxEntries-3)},
		"entries": {entries: make([]Entry, maxEntries-2)},
		"bytes":   {size: maxListing - 3*len(dir)},
	} {
		err := l.dir(dir, 9)
		if want := name != "fits"; errs.IsKind(err, errs.Exhausted) != want || (err != nil) != want {
			t.Errorf("%s: listing = %v, want exhausted %t", name, err, want)
		}
	}
}

func TestPathError(t *testing.T) {
	t.Parallel()
	for errno, want := range map[syscall.Errno]errs.Kind{
		syscall.ENOENT: errs.NotFound, syscall.EACCES: errs.PermissionDenied, syscall.EROFS: errs.PermissionDenied,
		syscall.ENOSPC: errs.Exhausted, syscall.EDQUOT: errs.Exhausted, syscall.ELOOP: errs.Invalid,
		syscall.ENOTEMPTY: errs.Exists, syscall.EIO: errs.Internal,
	} {
		if got := errs.KindOf(pathError(&os.PathError{Op: "open", Path: "/x", Err: errno}, "/x")); got != want {
			t.Errorf("pathError(%v) is %s, want %s", errno, got, want)
		}
	}
}
