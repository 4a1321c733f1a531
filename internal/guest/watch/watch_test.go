package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open watches path until the test ends.
func open(t *testing.T, opt Options) *Watcher {
	t.Helper()
	w, err := New(opt)
	must(t, err)
	t.Cleanup(w.Close)
	return w
}

// until collects events until last is among them.
func until(t *testing.T, w *Watcher, last Event) []Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all []Event
	for {
		if err := w.Wait(ctx); err != nil {
			t.Fatalf("waiting for %v: %v, after %v", last, err, all)
		}
		events, err := w.Take()
		must(t, err)
		all = append(all, events...)
		for _, e := range events {
			if e == last {
				return all
			}
		}
	}
}

// Each kind of change is told once, in order, with the path it is about.
func TestChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	file, other := filepath.Join(dir, "file"), filepath.Join(dir, "other")
	w := open(t, Options{Path: dir})
	must(t, os.WriteFile(filepath.Join(dir, "sub/unseen"), nil, 0o644))
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	until(t, w, Event{"file", Write})
	must(t, os.Chmod(file, 0o644))
	must(t, os.Rename(file, other))
	must(t, os.Remove(other))
	must(t, os.Mkdir(filepath.Join(dir, "end"), 0o755))
	want := []Event{{"file", Chmod}, {"file", Rename}, {"other", Create}, {"other", Remove}, {"end", Create}}
	if diff := cmp.Diff(want, until(t, w, Event{"end", Create})); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// Whatever comes into being in a recursive watch is told once, also in
// directories that came with it, and directories that moved are followed.
func TestRecursive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("a/b"), 0o755))
	must(t, os.MkdirAll(at("c"), 0o755))
	w := open(t, Options{Path: dir, Recursive: true})
	step := func(last Event, want ...Event) {
		t.Helper()
		if diff := cmp.Diff(want, until(t, w, last)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	}
	must(t, os.WriteFile(at("a/b/f"), nil, 0o644))
	step(Event{"a/b/f", Create}, Event{"a/b/f", Create})
	must(t, os.Rename(at("a/b"), at("c/d")))
	step(Event{"c/d/f", Create}, Event{"a/b", Rename}, Event{"c/d", Create}, Event{"c/d/f", Create})
	must(t, os.Remove(at("c/d/f")))
	step(Event{"c/d/f", Remove}, Event{"c/d/f", Remove})
	outside := t.TempDir()
	must(t, os.Rename(at("c/d"), filepath.Join(outside, "d")))
	must(t, os.WriteFile(filepath.Join(outside, "d/unseen"), nil, 0o644))
	must(t, os.Remove(at("a")))
	step(Event{"a", Remove}, Event{"c/d", Rename}, Event{"a", Remove})
	must(t, os.Remove(at("c")))
	must(t, os.Remove(dir))
	step(Event{".", Remove}, Event{"c", Remove}, Event{".", Remove})
}

// However fast directories and files in them are made, none stays untold.
func TestNewDirectoriesRace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, Options{Path: dir, Recursive: true})
	const n = 200
	for i := range n {
		deep := filepath.Join(dir, fmt.Sprint(i), "x/y")
		must(t, os.MkdirAll(deep, 0o755))
		must(t, os.WriteFile(filepath.Join(deep, "f"), nil, 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, "end"), nil, 0o644))
	told := map[string]int{}
	for _, e := range until(t, w, Event{"end", Create}) {
		if e.Op == Create {
			told[e.Name]++
		}
	}
	for i := range n {
		for _, below := range []string{"", "/x", "/x/y", "/x/y/f"} {
			if name := fmt.Sprint(i) + below; told[name] != 1 {
				t.Errorf("%s was told %d times, want once", name, told[name])
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	locked := filepath.Join(dir, "locked")
	must(t, os.Mkdir(locked, 0o700))
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	nobody := account.User{UID: 65534, GID: 65534, Groups: []uint32{65534}}
	for name, tt := range map[string]struct {
		opt  Options
		want errs.Kind
	}{
		"nothing":          {Options{Path: filepath.Join(dir, "absent")}, errs.NotFound},
		"a file":           {Options{Path: filepath.Join(dir, "file")}, errs.Invalid},
		"below a file":     {Options{Path: filepath.Join(dir, "file/x")}, errs.Invalid},
		"not the user's":   {Options{Path: locked, User: nobody}, errs.PermissionDenied},
		"not, recursively": {Options{Path: locked, User: nobody, Recursive: true}, errs.PermissionDenied},
		"too long":         {Options{Path: "/" + strings.Repeat("x", 5000)}, errs.Invalid},
	} {
		if tt.opt.User.UID != 0 && os.Getuid() != 0 {
			continue
		}
		w, err := New(tt.opt)
		if err == nil {
			w.Close()
		}
		if !errs.IsKind(err, tt.want) {
			t.Errorf("New(%s) = %v, want %s", name, err, tt.want)
		}
	}
	// What the user may not read below the root is left out.
	if os.Getuid() == 0 {
		w := open(t, Options{Path: dir, User: nobody, Recursive: true})
		must(t, os.WriteFile(filepath.Join(locked, "unseen"), nil, 0o644))
		must(t, os.Mkdir(filepath.Join(dir, "end"), 0o755))
		if diff := cmp.Diff([]Event{{"end", Create}}, until(t, w, Event{"end", Create})); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	}
}

// Too many directories are refused at the beginning and told when they come.
func TestTooManyDirectories(t *testing.T) {
	t.Parallel()
	dir, big := t.TempDir(), t.TempDir()
	for i := range maxDirectories {
		must(t, os.Mkdir(filepath.Join(big, fmt.Sprint(i)), 0o755))
	}
	if w, err := New(Options{Path: big, Recursive: true}); !errs.IsKind(err, errs.Exhausted) {
		if err == nil {
			w.Close()
		}
		t.Errorf("New on %d directories = %v, want exhausted", maxDirectories+1, err)
	}
	w := open(t, Options{Path: dir, Recursive: true})
	must(t, os.Rename(big, filepath.Join(dir, "big")))
	for range 2 {
		for {
			must(t, w.Wait(t.Context()))
			if _, err := w.Take(); err != nil {
				if !errs.IsKind(err, errs.Exhausted) {
					t.Errorf("Take = %v, want exhausted", err)
				}
				break
			}
		}
	}
}

// Events that nobody fetches are bounded; the loss is told once, and the
// watcher goes on.
func TestOverflowIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := open(t, Options{Path: dir})
	w.publish([]Event{{"first", Create}})
	for range maxEvents {
		w.publish([]Event{{"x", Write}})
	}
	w.publish([]Event{{"after", Write}})
	events, err := w.Take()
	if len(events) > 0 || !errors.Is(err, &errs.Error{Kind: errs.Exhausted, Code: "watch_overflow"}) {
		t.Errorf("Take = %d events, %v; want watch_overflow", len(events), err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "later"), nil, 0o644))
	until(t, w, Event{"later", Create})
}

func TestCloseTwice(t *testing.T) {
	t.Parallel()
	w, err := New(Options{Path: t.TempDir()})
	must(t, err)
	w.Close()
	w.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("cause")
	cancel(cause)
	if err := w.Wait(ctx); !errors.Is(err, cause) {
		t.Errorf("Wait = %v, want %v", err, cause)
	}
}

// No bytes make the reader of the kernel's records fall over or name what is
// not below the root.
func FuzzDigest(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00name\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x00\x04\x00\x40\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, buf []byte) {
		tree := newTree(-1, Options{Path: "/nowhere", Recursive: true})
		tree.dirs[1], tree.wds["."] = ".", 1
		tree.dirs[2], tree.wds["sub"] = "sub", 2
		events, _ := tree.digest(buf)
		if len(events) > maxEvents+1 {
			t.Errorf("digest returned %d events, want at most %d", len(events), maxEvents+1)
		}
		for _, e := range events {
			if e.Op < Create || e.Op > Chmod || e.Name == "" {
				t.Errorf("digest returned %+v", e)
			}
		}
	})
}
