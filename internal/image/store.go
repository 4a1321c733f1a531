package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image/erofs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Names in the store's folder.
const (
	imagesDir   = "sha256"
	imageSuffix = ".erofs"
	pullsDir    = "pulls"
	tempDir     = "tmp"
	lockFile    = "lock"
	tempImage   = "image-"
	tempSpool   = "spool-"
	tempScratch = "scratch-"
	tempRecord  = "record-"
)

// Store keeps images in a folder, each under a path that only depends on its
// digest and never changes. It may be used concurrently, and the folder by
// several processes at once; each image is written once.
type Store struct {
	images string   // folder of the images
	pulls  string   // folder of the records of pulls
	tmp    string   // folder of what is being written
	lock   *os.File // held shared while the store is open

	mu     sync.Mutex
	checks map[lehr.Digest]*check
}

// check is whether an image was seen to match its digest. Who holds turn looks.
type check struct {
	turn chan struct{} // capacity 1
	done bool
}

// Info names one image.
type Info struct {
	Digest lehr.Digest
	Size   int64 // bytes of the file
}

// Stored is one image in the store.
type Stored struct {
	Info
	Made time.Time // when it was last made or added, also when it was there already
	Used time.Time // when Path last gave it out, or when it was made
}

// Imported describes an image that was made from something else.
type Imported struct {
	Info
	Config lehr.ImageConfig
	Source string // what it was made from, as precisely as that is known
}

// OpenStore opens the store in dir, making it where it is missing, and removes
// what a crash left half-written unless another process has the store open.
func OpenStore(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, DiskError(err, "image.OpenStore")
	}
	s := &Store{
		images: filepath.Join(dir, imagesDir),
		pulls:  filepath.Join(dir, pullsDir),
		tmp:    filepath.Join(dir, tempDir),
		checks: make(map[lehr.Digest]*check),
	}
	for _, d := range []string{s.images, s.pulls, s.tmp} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, DiskError(err, "image.OpenStore")
		}
	}
	if s.lock, err = os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, DiskError(err, "image.OpenStore")
	}
	if err := s.sweep(); err != nil {
		return nil, errors.Join(DiskError(err, "image.OpenStore"), s.lock.Close())
	}
	return s, nil
}

// sweep removes leftovers when nobody else can be writing them, then marks the
// store as open.
func (s *Store) sweep() error {
	fd := int(s.lock.Fd())
	switch err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return unix.Flock(fd, unix.LOCK_SH)
	case err != nil:
		return err
	}
	entries, err := os.ReadDir(s.tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, prefix := range []string{tempImage, tempSpool, tempScratch, tempRecord} {
			if !strings.HasPrefix(e.Name(), prefix) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(s.tmp, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Flock(fd, unix.LOCK_SH)
}

// Close ends the use of the store by this process. Images stay.
func (s *Store) Close() error { return s.lock.Close() }

// file returns the path of an image; ok is false for a malformed digest.
func (s *Store) file(d lehr.Digest) (path string, ok bool) {
	if _, err := lehr.ParseDigest(string(d)); err != nil {
		return "", false
	}
	return filepath.Join(s.images, d.Hex()+imageSuffix), true
}

// Has reports whether the image is there, without looking into it.
func (s *Store) Has(d lehr.Digest) bool {
	_, err := s.Size(d)
	return err == nil
}

// Size returns the bytes of the image's file. Error: NotFound.
func (s *Store) Size(d lehr.Digest) (int64, error) {
	stored, err := s.stat(d)
	return stored.Size, err
}

func (s *Store) stat(d lehr.Digest) (Stored, error) {
	path, ok := s.file(d)
	if !ok {
		return Stored{}, notFound(d)
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Stored{}, notFound(d)
	}
	if err != nil {
		return Stored{}, DiskError(err, "image.stat")
	}
	stored := Stored{Info: Info{Digest: d, Size: info.Size()}, Made: info.ModTime(), Used: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		if used := time.Unix(sys.Atim.Unix()); used.After(stored.Used) {
			stored.Used = used
		}
	}
	return stored, nil
}

// Use notes that the image is used now.
func (s *Store) Use(d lehr.Digest) {
	if path, ok := s.file(d); ok {
		_ = os.Chtimes(path, time.Now(), time.Time{}) // the garbage collection guesses worse without
	}
}

// Path returns where the image's file is: an absolute path that stays the same
// for as long as the image exists. The first call for a digest in this process
// reads the whole file. Errors: NotFound; Corrupt when the bytes do not match
// the digest; ctx's cause.
func (s *Store) Path(ctx context.Context, d lehr.Digest) (string, error) {
	path, ok := s.file(d)
	if !ok {
		return "", notFound(d)
	}
	c := s.check(d)
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	if _, err := s.stat(d); err != nil {
		c.done = false
		return "", err
	}
	if !c.done {
		if err := matches(ctx, path, d); err != nil {
			return "", err
		}
		c.done = true
	}
	s.Use(d)
	return path, nil
}

// check returns the record of the image d.
func (s *Store) check(d lehr.Digest) *check {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.checks[d]
	if c == nil {
		c = &check{turn: make(chan struct{}, 1)}
		s.checks[d] = c
	}
	return c
}

// matches reads the file at path and compares it with d.
func matches(ctx context.Context, path string, d lehr.Digest) error {
	f, err := os.Open(path)
	if err != nil {
		return DiskError(err, "image.verify")
	}
	defer func() { _ = f.Close() }()
	got, err := digestOf(ctx, f)
	if err != nil {
		return err
	}
	if got != d {
		return errs.New(errs.Corrupt, "image %s on disk has the digest %s", d, got).
			WithRemedy("Remove %s; it is made or fetched again when it is needed", path)
	}
	return nil
}

// digestOf reads r to its end.
func digestOf(ctx context.Context, r io.Reader) (lehr.Digest, error) {
	h := sha256.New()
	src := &source{ctx: ctx, r: r}
	if _, err := io.CopyBuffer(h, src, make([]byte, writeBuffer)); err != nil {
		return "", DiskError(err, "image.digest")
	}
	return lehr.DigestFrom(h), nil
}

// List returns every image, in no particular order. What has another name is
// not ours and left alone.
func (s *Store) List() ([]Stored, error) {
	entries, err := os.ReadDir(s.images)
	if err != nil {
		return nil, DiskError(err, "image.List")
	}
	var all []Stored
	for _, e := range entries {
		name, ours := strings.CutSuffix(e.Name(), imageSuffix)
		d, err := lehr.ParseDigest(string(digestPrefix + name))
		if !ours || err != nil {
			continue
		}
		if stored, err := s.stat(d); err == nil {
			all = append(all, stored)
		}
	}
	return all, nil
}

const digestPrefix = "sha256:"

// Remove deletes the image. Sandboxes that have it open keep it until they end.
// Removing what is not there is no error.
func (s *Store) Remove(d lehr.Digest) error {
	path, ok := s.file(d)
	if !ok {
		return nil
	}
	if err := s.forget(d); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return DiskError(err, "image.Remove")
	}
	s.mu.Lock()
	delete(s.checks, d)
	s.mu.Unlock()
	return syncDir(s.images)
}

// ReadFile returns the content of the regular file at path in the image,
// following symbolic links inside it. Errors: NotFound for the image or the
// file; Invalid when the path is no regular file; Exhausted when it has more
// than most bytes; and those of Path.
func (s *Store) ReadFile(ctx context.Context, d lehr.Digest, path string, most int64) ([]byte, error) {
	name, err := s.Path(ctx, d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, DiskError(err, "image.ReadFile")
	}
	defer func() { _ = f.Close() }()
	fsys, err := erofs.Open(f)
	if err != nil {
		return nil, errs.New(errs.Corrupt, "image %s cannot be read: %w", d, err)
	}
	path = strings.Trim(path, "/")
	info, err := fs.Stat(fsys, path)
	switch {
	case err != nil:
		return nil, errs.New(errs.NotFound, "image %s has no file %q: %w", d, clip(path), err)
	case !info.Mode().IsRegular():
		return nil, errs.New(errs.Invalid, "%q in image %s is not a regular file", clip(path), d)
	case info.Size() > most:
		return nil, errs.New(errs.Exhausted, "%q in image %s has %d bytes, more than %d", clip(path), d, info.Size(), most)
	}
	return fs.ReadFile(fsys, path)
}

// Scratch makes an empty folder on the store's disk for work of the caller, who
// removes it; OpenStore removes it after a crash.
func (s *Store) Scratch() (string, error) {
	dir, err := os.MkdirTemp(s.tmp, tempScratch+"*")
	if err != nil {
		return "", DiskError(err, "image.Scratch")
	}
	return dir, nil
}

func notFound(d lehr.Digest) error {
	return errs.New(errs.NotFound, "there is no image %q", clip(string(d)))
}

// DiskError classifies a failure of the store's own folder: a full disk is
// Exhausted with code disk_full. Errors that have a kind keep it.
func DiskError(err error, op string) error {
	var known *errs.Error
	switch {
	case errors.As(err, &known), errs.KindOf(err) != errs.Internal:
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errs.Wrap(err, errs.Exhausted, op, "the disk that holds the images is full").
			WithCode("disk_full").WithRemedy("Remove unused templates or enlarge the disk")
	}
	return errs.Wrap(err, errs.Internal, op, "the store of images failed")
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return DiskError(err, "image.syncDir")
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil {
		return DiskError(fmt.Errorf("sync %s: %w", dir, err), "image.syncDir")
	}
	return nil
}
