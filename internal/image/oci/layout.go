package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
)

const (
	maxDocument = 8 << 20 // bytes of an index, manifest or configuration
	maxBlobs    = 10_000
)

// layout is an OCI image layout: a folder of somebody's, or an archive that was
// unpacked into a folder of ours, whose blobs match their names.
type layout struct {
	dir   string
	ours  bool              // unpacked: blobs lie in dir itself and were checked
	files map[string]string // what else was in the archive: name there, file in dir
	links map[string]string // symbolic links in the archive, by name
}

// name implements source.
func (l layout) name() string { return "the layout" }

// ImportLayout makes an image from an archive, plain or compressed with gzip or
// zstd: the tar of an OCI image layout (index.json and blobs/), or what docker
// save writes. Errors: Invalid for what is neither, for blobs that are missing
// or do not match their digest, with code platform_missing when there is no
// image for this machine, and when several would do; those of Tree.ReadOCILayer
// and Store.Commit.
func ImportLayout(ctx context.Context, s *image.Store, r io.Reader, o Options) (made image.Imported, err error) {
	dir, err := s.Scratch()
	if err != nil {
		return image.Imported{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o.Limits = o.Limits.WithDefaults()
	l, err := unpack(ctx, r, dir, o.Limits)
	if err != nil {
		return image.Imported{}, err
	}
	p, err := l.chosen(o.Ref)
	if err != nil {
		return image.Imported{}, err
	}
	return p.build(ctx, s, o.Limits)
}

// chosen returns the image of the layout, or of the docker archive, that is for
// this machine.
func (l layout) chosen(ref string) (picture, error) {
	if l.ours && l.files[dockerManifest] != "" && l.files[indexFile] == "" {
		return l.docker(ref)
	}
	p, _, err := l.image(ref)
	return p, err
}

// image returns the image of the layout and the digest of its manifest.
func (l layout) image(ref string) (picture, v1.Hash, error) {
	raw, err := l.index()
	if err != nil {
		return picture{}, v1.Hash{}, err
	}
	digest, err := choose(l, raw, ref)
	if err != nil {
		return picture{}, v1.Hash{}, err
	}
	p, err := l.picture(digest)
	return p, digest, err
}

func (l layout) picture(digest v1.Hash) (picture, error) {
	p, err := pictureOf(l, digest)
	if err != nil {
		return picture{}, err
	}
	p.source = "oci layout " + digest.String()
	for _, d := range p.manifest.Layers {
		p.layers = append(p.layers, func(context.Context) (io.ReadCloser, error) { return l.open(d.Digest) })
	}
	return p, nil
}

// unpack reads an archive into dir, under names of our own making.
func unpack(ctx context.Context, r io.Reader, dir string, limits image.Limits) (layout, error) {
	l := layout{dir: dir, ours: true, files: map[string]string{}, links: map[string]string{}}
	a, err := image.OpenArchive(ctx, r, limits)
	if err != nil {
		return l, err
	}
	defer func() { _ = a.Close() }()
	in := tar.NewReader(a)
	left := limits.MaxBytes
	for entries := 1; ; entries++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return l, l.failure(a, err)
		}
		if left -= h.Size; left < 0 || entries > maxBlobs {
			return l, errs.New(errs.Invalid, "the archive has more than %d bytes or %d entries", limits.MaxBytes, maxBlobs).
				WithCode(image.CodeTooLarge)
		}
		if err := l.entry(h, in); err != nil {
			return l, l.failure(a, err)
		}
	}
}

func (l layout) failure(a *image.Archive, err error) error {
	if errors.Is(err, tar.ErrHeader) {
		return errs.New(errs.Invalid, "not a tar archive, or a damaged one").
			WithRemedy("Send the tar of an OCI image layout, or what docker save writes")
	}
	return a.Failure(err)
}

// entry keeps one entry of the archive: a blob under its digest, another file
// under its number.
func (l layout) entry(h *tar.Header, in io.Reader) error {
	name := path.Clean(h.Name)
	want := blobName(name)
	switch {
	case h.Typeflag == tar.TypeSymlink && want == "":
		l.links[name] = path.Join(path.Dir(name), h.Linkname)
		return nil
	case h.Typeflag == tar.TypeDir:
		return nil
	case h.Typeflag != tar.TypeReg && (want != "" || name == indexFile):
		return errs.New(errs.Invalid, "entry %q of the layout is not a regular file", clip(h.Name))
	case h.Typeflag != tar.TypeReg:
		return nil
	case want != "":
		return save(in, filepath.Join(l.dir, want), want)
	case l.files[name] != "":
		return errs.New(errs.Invalid, "the archive has %s twice", clip(name))
	}
	file := filepath.Join(l.dir, "file-"+strconv.Itoa(len(l.files)))
	l.files[name] = file
	return save(in, file, "")
}

const indexFile = "index.json"

// blobName returns the hex digits of the digest that an entry of a layout is
// named by, or nothing.
func blobName(name string) string {
	sum, ok := strings.CutPrefix(name, "blobs/sha256/")
	if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != sha256.Size || sum != strings.ToLower(sum) {
		return ""
	}
	return sum
}

// save writes one entry and compares its digest. Failures of r come back as
// they are.
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
			return err
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want != "" && got != want {
		return errs.New(errs.Invalid, "blob sha256:%s of the layout has the digest sha256:%s", want, got)
	}
	return nil
}

// open returns the blob that d names.
func (l layout) open(d v1.Hash) (io.ReadCloser, error) {
	missing := errs.New(errs.Invalid, "the layout lacks the blob %s", clip(d.String()))
	if d.Algorithm != "sha256" {
		return nil, missing
	}
	dir := l.dir
	if !l.ours {
		dir = filepath.Join(l.dir, "blobs", "sha256")
	}
	f, err := os.Open(filepath.Join(dir, filepath.Base(d.Hex)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, missing
	case err != nil:
		return nil, image.DiskError(err, "oci.open")
	case l.ours:
		return f, nil
	}
	return &checked{in: f, sum: sha256.New(), want: d.Hex, Closer: f}, nil
}

// checked ends a stream with an error where it does not have its digest.
type checked struct {
	io.Closer
	in   io.Reader
	sum  hash.Hash
	want string // hex
}

// Read implements io.Reader.
func (c *checked) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(c.sum.Sum(nil)); got != c.want {
			return n, errs.New(errs.Invalid, "what should be sha256:%s has the digest sha256:%s", c.want, got).WithCode(CodeDigest)
		}
	}
	return n, err
}

// manifest implements source.
func (l layout) manifest(d v1.Hash) ([]byte, error) {
	f, err := l.open(d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readDocument(f, d.String())
}

// config implements source.
func (l layout) config(d v1.Descriptor) ([]byte, error) { return l.manifest(d.Digest) }

// index returns the layout's index.json.
func (l layout) index() ([]byte, error) {
	file := filepath.Join(l.dir, indexFile)
	if l.ours {
		file = l.files[indexFile]
	}
	f, err := os.Open(file)
	if file == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.Invalid, "there is neither an index.json nor a manifest.json: it is not an OCI image layout and not a docker archive").
			WithRemedy("Make one with skopeo copy … oci:DIRECTORY, or docker save")
	}
	if err != nil {
		return nil, image.DiskError(err, "oci.index")
	}
	defer func() { _ = f.Close() }()
	return readDocument(f, indexFile)
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
