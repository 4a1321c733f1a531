package pack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Kind is the format of a stream; the values are those of agent.ImportKind.
type Kind string

// The formats.
const (
	Tar Kind = "tar" // a root file system, plain or compressed
	OCI Kind = "oci" // a tar of an OCI image layout or docker archive, plain or compressed
)

// IsLocal reports whether base names something of the user's own machine
// ("dir:", "tar:" or "oci:" and a path) instead of a template.
func IsLocal(base string) bool {
	kind, _, found := strings.Cut(base, ":")
	_, known := openers[kind]
	return found && known
}

// openers open each kind of base.
var openers = map[string]func(ctx context.Context, path string, warn func(string)) (Kind, io.ReadCloser, error){
	"dir": openDir,
	"tar": openTar,
	"oci": openOCI,
}

// Open opens the base, "dir:PATH", "tar:PATH" or "oci:PATH", as a stream that
// the caller reads to its end and closes; closing early is allowed and waits
// until nothing is read any more. What cannot be packed but does no harm is told
// to warn, one sentence a time, maybe from another goroutine. Errors: Invalid
// for another form, NotFound, PermissionDenied, Unsupported for a compression
// that the server cannot read. Failures while packing come out of Read.
func Open(ctx context.Context, base string, warn func(string)) (Kind, io.ReadCloser, error) {
	kind, path, _ := strings.Cut(base, ":")
	open, known := openers[kind]
	if !known || path == "" {
		return "", nil, errs.New(errs.Invalid, "%q is not a local base", base).
			WithRemedy("Write dir:PATH, tar:PATH or oci:PATH")
	}
	return open(ctx, path, warn)
}

// openDir packs the folder at path.
func openDir(ctx context.Context, path string, warn func(string)) (Kind, io.ReadCloser, error) {
	if err := wantDir(path); err != nil {
		return "", nil, err
	}
	return Tar, stream(func(w io.Writer) error { return Dir(ctx, path, w, warn) }), nil
}

// openTar passes the archive at path through.
func openTar(_ context.Context, path string, _ func(string)) (Kind, io.ReadCloser, error) {
	f, err := openArchive(path)
	return Tar, f, err
}

// openOCI packs the layout in the folder at path, or passes the tar of one, or a
// docker archive, through.
func openOCI(ctx context.Context, path string, warn func(string)) (Kind, io.ReadCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", nil, pathError(err, path)
	}
	if !info.IsDir() {
		f, err := openArchive(path)
		return OCI, f, err
	}
	if _, err := os.Stat(filepath.Join(path, "index.json")); err != nil {
		return "", nil, errs.New(errs.Invalid, "%s has no index.json: it is not an OCI image layout", path)
	}
	return OCI, stream(func(w io.Writer) error { return layout(ctx, path, w, warn) }), nil
}

// compressions are recognised by their first bytes.
var compressions = []struct {
	name     string
	magic    string
	readable bool
}{
	{"gzip", "\x1f\x8b", true},
	{"zstd", "\x28\xb5\x2f\xfd", true},
	{"xz", "\xfd7zXZ", false},
	{"bzip2", "BZh", false},
	{"zip", "PK\x03\x04", false},
}

// openArchive opens the file at path after a look at its first bytes.
func openArchive(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, pathError(err, path)
	}
	if err := looksLikeTar(f, path); err != nil {
		_ = f.Close()
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, pathError(err, path)
	}
	return f, nil
}

func looksLikeTar(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return pathError(err, path)
	}
	if !info.Mode().IsRegular() {
		return errs.New(errs.Invalid, "%s is not a regular file", path)
	}
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return pathError(err, path)
	}
	for _, c := range compressions {
		if !strings.HasPrefix(string(head[:n]), c.magic) {
			continue
		}
		if c.readable {
			return nil
		}
		return errs.New(errs.Unsupported, "%s is compressed with %s", path, c.name).
			WithRemedy("Compress it with gzip or zstd, or not at all")
	}
	// The magic of POSIX and GNU archives; those of 1979 have none and are not
	// worth a guess.
	if n < len(head) || !bytes.Equal(head[257:262], []byte("ustar")) {
		return errs.New(errs.Invalid, "%s is not a tar archive", path)
	}
	return nil
}

func wantDir(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return pathError(err, path)
	}
	if !info.IsDir() {
		return errs.New(errs.Invalid, "%s is not a directory", path)
	}
	return nil
}

// pathError classifies a failure to reach path.
func pathError(err error, path string) error {
	kind := errs.Internal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = errs.NotFound
	case errors.Is(err, fs.ErrPermission):
		kind = errs.PermissionDenied
	}
	return errs.New(kind, "%s cannot be read: %w", path, err)
}

// packed is a stream that a goroutine of its own writes.
type packed struct {
	*io.PipeReader
	done chan struct{}
}

// stream starts write and returns what it writes. Close ends it and waits.
func stream(write func(io.Writer) error) io.ReadCloser {
	r, w := io.Pipe()
	p := packed{r, make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = w.CloseWithError(write(w))
	}()
	return p
}

// Close implements io.Closer.
func (p packed) Close() error {
	err := p.PipeReader.Close()
	<-p.done
	return err
}
