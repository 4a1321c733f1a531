package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
)

const (
	maxDocument = 8 << 20 // bytes of an index, manifest or configuration
	maxBlobs    = 10_000
)

// layout is an OCI image layout that was unpacked into a folder of ours: every
// blob in it matches its name.
type layout struct{ dir string }

// unpack reads the tar of a layout into dir. Nothing but the index and blobs is
// kept, under names of our own making.
func unpack(ctx context.Context, r io.Reader, dir string, limits image.Limits) (layout, error) {
	l := layout{dir}
	in := tar.NewReader(readerFunc(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return r.Read(p)
	}))
	left, blobs := limits.MaxBytes, 0
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return l, readError(err)
		}
		file, want := l.accept(h)
		if file == "" {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return l, errs.New(errs.Invalid, "entry %q of the layout is not a regular file", clip(h.Name))
		}
		blobs++
		if left -= h.Size; left < 0 || blobs > maxBlobs {
			return l, errs.New(errs.Invalid, "the layout has more than %d bytes or %d blobs", limits.MaxBytes, maxBlobs).
				WithCode(image.CodeTooLarge)
		}
		if err := save(in, file, want); err != nil {
			return l, err
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// accept returns where the entry is kept and what its SHA-256 must be, in hex.
// file is empty for entries that we do not need.
func (l layout) accept(h *tar.Header) (file, want string) {
	name := path.Clean(h.Name)
	if name == "index.json" {
		return filepath.Join(l.dir, "index"), ""
	}
	sum, ok := strings.CutPrefix(name, "blobs/sha256/")
	if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != sha256.Size || sum != strings.ToLower(sum) {
		return "", ""
	}
	return filepath.Join(l.dir, sum), sum
}

// save writes one entry and compares its digest.
func save(r io.Reader, file, want string) error {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return errs.New(errs.Invalid, "the layout has %s twice", filepath.Base(file))
	}
	if err != nil {
		return image.DiskError(err, "oci.save")
	}
	defer func() { _ = out.Close() }()
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		n, err := r.Read(buf)
		sum.Write(buf[:n])
		if _, err := out.Write(buf[:n]); err != nil {
			return image.DiskError(err, "oci.save")
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return readError(err)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want != "" && got != want {
		return errs.New(errs.Invalid, "blob sha256:%s of the layout has the digest sha256:%s", want, got)
	}
	return nil
}

// readError says what a failure to read the layout's tar is.
func readError(err error) error {
	switch {
	case errors.Is(err, tar.ErrHeader):
		return errs.New(errs.Invalid, "not a tar archive, or a damaged one").
			WithRemedy("Send the tar of an OCI image layout, not compressed")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errs.New(errs.Invalid, "the archive is cut off")
	case errs.KindOf(err) != errs.Internal:
		return err
	}
	return errs.Wrap(err, errs.Unavailable, "oci.read", "the stream broke off")
}

// open returns the blob that d names.
func (l layout) open(d v1.Hash) (*os.File, error) {
	missing := errs.New(errs.Invalid, "the layout lacks the blob %s", clip(d.String()))
	if d.Algorithm != "sha256" {
		return nil, missing
	}
	f, err := os.Open(filepath.Join(l.dir, filepath.Base(d.Hex)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing
	}
	if err != nil {
		return nil, image.DiskError(err, "oci.open")
	}
	return f, nil
}

// document returns the content of a small blob.
func (l layout) document(d v1.Hash) ([]byte, error) {
	f, err := l.open(d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readDocument(f, d.String())
}

// index returns the layout's index.json.
func (l layout) index() ([]byte, error) {
	f, err := os.Open(filepath.Join(l.dir, "index"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.Invalid, "the archive has no index.json: it is not an OCI image layout").
			WithRemedy("Make one with skopeo copy … oci:DIRECTORY, or docker save of version 25 or later")
	}
	if err != nil {
		return nil, image.DiskError(err, "oci.index")
	}
	defer func() { _ = f.Close() }()
	return readDocument(f, "index.json")
}

func readDocument(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, image.DiskError(err, "oci.document")
	}
	if len(b) > maxDocument {
		return nil, errs.New(errs.Invalid, "%s has more than %d bytes", clip(name), maxDocument)
	}
	return b, nil
}

// clip bounds a hostile string that is quoted in an error.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
