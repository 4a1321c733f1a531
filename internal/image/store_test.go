package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestStoreKnowsItsImages(t *testing.T) {
	t.Parallel()
	s := open(t)
	made := importItems(t, s, fileItem("f", "content"))
	if size, err := s.Size(made.Digest); !s.Has(made.Digest) || err != nil || size != made.Size {
		t.Errorf("Has, Size = %t, %d, %v, want true, %d", s.Has(made.Digest), size, err, made.Size)
	}
	stray := filepath.Join(s.images, "stray")
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); err != nil || len(all) != 1 || all[0].Info != made.Info {
		t.Errorf("List() = %v, %v, want %v", all, err, made.Info)
	}
	if err := errors.Join(s.Remove(made.Digest), s.Remove(made.Digest), s.Remove("sha256:../../x")); err != nil {
		t.Errorf("Remove() = %v, want nil for what is gone, too", err)
	}
	if _, err := s.Path(t.Context(), made.Digest); s.Has(made.Digest) || !errs.IsKind(err, errs.NotFound) {
		t.Errorf("Path(removed) = %v, want not found", err)
	}
	if _, err := os.Stat(stray); err != nil {
		t.Errorf("a file that is not ours is gone: %v", err)
	}
}

func TestPathRefusesDamage(t *testing.T) {
	t.Parallel()
	s := open(t)
	made := importItems(t, s, fileItem("f", "content"))
	path, err := s.Path(t.Context(), made.Digest)
	if err != nil || !filepath.IsAbs(path) {
		t.Fatalf("Path() = %q, %v", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), made.Size-100); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenStore(filepath.Dir(s.images))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	_, err = again.Path(t.Context(), made.Digest)
	if !errs.IsKind(err, errs.Corrupt) || !strings.Contains(err.Error(), string(made.Digest)) {
		t.Errorf("Path(damaged) = %v, want corrupt with the digest", err)
	}
	in := archiveOf(t, fileItem("f", "content"))
	if _, err := again.ImportTar(t.Context(), bytes.NewReader(in), Limits{}); !errs.IsKind(err, errs.Corrupt) {
		t.Errorf("ImportTar(over a damaged image) = %v, want corrupt", err)
	}
	if err := again.Remove(made.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := again.ImportTar(t.Context(), bytes.NewReader(in), Limits{}); err != nil {
		t.Errorf("ImportTar(after Remove) = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	third, err := OpenStore(filepath.Dir(s.images))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = third.Close() }()
	if _, err := third.Path(ctx, made.Digest); !errs.IsKind(err, errs.Cancelled) {
		t.Errorf("Path(cancelled) = %v, want cancelled", err)
	}
}

func TestOpenStoreSweepsOnlyItsOwnLeftovers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := first.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(first.tmp, "other")
	part := filepath.Join(first.tmp, tempImage+"1")
	for _, name := range []string{filepath.Join(scratch, "file"), part, other} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second, err := OpenStore(dir)
	if err != nil {
		t.Fatalf("OpenStore(while open) = %v", err)
	}
	if _, err := os.Stat(part); err != nil {
		t.Errorf("a second process swept what the first writes: %v", err)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	third, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = third.Close() }()
	left, err := os.ReadDir(third.tmp)
	if err != nil || len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("after a crash and OpenStore: %v, %v, want only the file that is not ours", left, err)
	}
}

func TestOneImageIsWrittenOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	in := archiveOf(t, fileItem("f", strings.Repeat("content", 10000)))
	first, err := s.ImportTar(t.Context(), bytes.NewReader(in), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	path, err := s.Path(t.Context(), first.Digest)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	long := before.ModTime().Add(-time.Hour)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if got, err := s.ImportTar(t.Context(), bytes.NewReader(in), Limits{}); err != nil || got.Digest != first.Digest {
				t.Errorf("ImportTar() = %v, %v, want %s", got.Digest, err, first.Digest)
			}
		})
	}
	group.Wait()
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the image was replaced: %v", err)
	}
	if all, err := s.List(); err != nil || len(all) != 1 || all[0].Made.Before(before.ModTime()) {
		t.Errorf("List() = %v, %v, want one image that was made again", all, err)
	}
}

func TestAdd(t *testing.T) {
	t.Parallel()
	from, to := open(t), open(t)
	made := importItems(t, from, fileItem("f", "content"))
	path, err := from.Path(t.Context(), made.Digest)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string][]byte{"cut off": content[:5000], "longer": append(content[:len(content):len(content)], 0)} {
		if _, err := to.Add(t.Context(), made.Digest, bytes.NewReader(in)); !errs.IsKind(err, errs.Corrupt) || to.Has(made.Digest) {
			t.Errorf("Add(%s) = %v, want corrupt", name, err)
		}
	}
	junk := []byte("no image")
	if _, err := to.Add(t.Context(), lehr.DigestOf(junk), bytes.NewReader(junk)); !errs.IsKind(err, errs.Corrupt) {
		t.Errorf("Add(no image) = %v, want corrupt", err)
	}
	if info, err := to.Add(t.Context(), made.Digest, bytes.NewReader(content)); err != nil || info != made.Info {
		t.Errorf("Add() = %v, %v, want %v", info, err, made.Info)
	}
}

func TestReadFileRefuses(t *testing.T) {
	t.Parallel()
	s := open(t)
	made := importItems(t, s, fileItem("etc/passwd", "root:x:0:0"), symlinkItem("loop", "loop"), symlinkItem("out", "../../etc/passwd"))
	for _, tt := range []struct {
		path string
		most int64
		kind errs.Kind
	}{
		{"etc/passwd", 10, ""},
		{"/etc/passwd", 9, errs.Exhausted},
		{"etc", 10, errs.Invalid},
		{"loop", 10, errs.NotFound},
		{"out", 10, ""},
		{"etc/none", 10, errs.NotFound},
		{"etc/passwd/x", 10, errs.NotFound},
		{"../../../../etc/hostname", 1000, errs.NotFound},
	} {
		got, err := s.ReadFile(t.Context(), made.Digest, tt.path, tt.most)
		if errs.KindOf(err) != tt.kind || tt.kind == "" && string(got) != "root:x:0:0" {
			t.Errorf("ReadFile(%s, %d) = %q, %v, want %q", tt.path, tt.most, got, err, tt.kind)
		}
	}
}
