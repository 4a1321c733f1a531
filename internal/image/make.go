package image

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image/erofs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// ImportTar makes an image from a tar archive of a root file system, which may
// be compressed with gzip or zstd. Errors: those of Tree.ReadArchive and Commit.
func (s *Store) ImportTar(ctx context.Context, r io.Reader, limits Limits) (Imported, error) {
	t, err := s.NewTree(limits)
	if err != nil {
		return Imported{}, err
	}
	defer func() { _ = t.Close() }()
	if err := t.ReadArchive(ctx, r); err != nil {
		return Imported{}, err
	}
	debian := t.Debian()
	info, err := s.Commit(ctx, t)
	return Imported{Info: info, Config: lehr.ImageConfig{Debian: debian}, Source: "tar"}, err
}

// Flatten makes an image from the image base and what a sandbox wrote over it,
// as Sandbox.WritableLayer of package engine gives it. Errors: those of Path,
// Tree.ReadWritableLayer and Commit.
func (s *Store) Flatten(ctx context.Context, base lehr.Digest, layer io.Reader, limits Limits) (Info, error) {
	t, err := s.NewTree(limits)
	if err != nil {
		return Info{}, err
	}
	defer func() { _ = t.Close() }()
	path, err := s.Path(ctx, base)
	if err != nil {
		return Info{}, err
	}
	if err := t.loadBase(ctx, path, base); err != nil {
		return Info{}, err
	}
	if err := t.ReadWritableLayer(ctx, layer); err != nil {
		return Info{}, err
	}
	return s.Commit(ctx, t)
}

// File is one entry of an image that is made from memory. The zero mode is a
// regular file that nobody may read.
type File struct {
	Path     string      // slash-separated, with or without a leading slash
	Mode     fs.FileMode // type (regular, directory, symbolic link) and permissions
	UID, GID uint32
	ModTime  time.Time // zero: 1970
	Data     []byte    // of a regular file
	Target   string    // of a symbolic link
}

// WriteFiles makes an image from files in memory; missing directories get mode
// 0755 and belong to root. It is for small images of our own, such as the one
// that holds the guest daemon. Errors: Invalid for a bad or repeated path or
// another type; those of Commit.
func (s *Store) WriteFiles(ctx context.Context, files []File) (Info, error) {
	t, err := s.NewTree(Limits{})
	if err != nil {
		return Info{}, err
	}
	defer func() { _ = t.Close() }()
	t.begin(archiveRules)
	for _, f := range files {
		if err := t.addFile(f); err != nil {
			return Info{}, err
		}
	}
	return s.Commit(ctx, t)
}

// Overlay puts files over what the tree holds, through its symbolic links.
// Errors: Invalid for a bad path or another type.
func (t *Tree) Overlay(files ...File) error {
	t.begin(overlayRules)
	for _, f := range files {
		if err := t.addFile(f); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) addFile(f File) error {
	n := &erofs.Node{Mode: uint32(f.Mode.Perm()), UID: f.UID, GID: f.GID}
	if !f.ModTime.IsZero() {
		n.Sec, n.Nsec = f.ModTime.Unix(), uint32(f.ModTime.Nanosecond())
	}
	for bit, unixBit := range map[fs.FileMode]uint32{
		fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX,
	} {
		if f.Mode&bit != 0 {
			n.Mode |= unixBit
		}
	}
	switch f.Mode.Type() {
	case 0:
		n.Mode |= unix.S_IFREG
		n.Content = erofs.Content{Src: bytes.NewReader(f.Data), Size: int64(len(f.Data))}
	case fs.ModeDir:
		n.Mode |= unix.S_IFDIR
	case fs.ModeSymlink:
		n.Mode, n.Target = unix.S_IFLNK|0o777, f.Target
	default:
		return errs.New(errs.Invalid, "%q has the type %v", clip(f.Path), f.Mode.Type())
	}
	parts := strings.Split(strings.Trim(f.Path, "/"), "/")
	last := len(parts) - 1
	for _, part := range parts {
		if err := erofs.CheckName(part); err != nil {
			return errs.New(errs.Invalid, "%q is not a path: %w", clip(f.Path), err)
		}
	}
	dir, err := t.dirAt(parts[:last], true)
	if err != nil {
		return err
	}
	return t.put(entry{dir, parts[last]}, n)
}

// Debian reports whether the tree is of a Debian-like system: it has apt.
func (t *Tree) Debian() bool { return t.has("usr/bin/apt-get") }
