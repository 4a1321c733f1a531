package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/lehr-dev/lehr/internal/errs"
)

const (
	streamBuffer  = 256 << 10
	maxZstdWindow = 128 << 20 // what the zstd program accepts without being asked
)

// formats are the compressions we recognise by their first bytes, and those we
// recognise to refuse them by name.
var formats = []struct {
	name  string
	magic []byte
	open  func(io.Reader) (io.ReadCloser, error)
}{
	{"gzip", []byte{0x1f, 0x8b}, func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, openZstd},
	{"xz", []byte{0xfd, '7', 'z', 'X', 'Z'}, nil},
	{"bzip2", []byte("BZh"), nil},
	{"lz4", []byte{0x04, 0x22, 0x4d, 0x18}, nil},
}

func openZstd(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// source is the stream an archive comes from. It ends with ctx and remembers
// its own failure, so that a broken upload is not taken for a broken archive.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		s.err = err
		return 0, err
	}
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// failure returns err, met while decoding s, as what it is.
func (s *source) failure(err error) error {
	var known *errs.Error
	switch {
	case s.err != nil && errs.KindOf(s.err) != errs.Internal:
		return s.err
	case s.err != nil:
		return errs.Wrap(s.err, errs.Unavailable, "image.read", "the stream broke off")
	case errors.As(err, &known):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errs.New(errs.Invalid, "the archive is cut off")
	}
	return errs.New(errs.Invalid, "the archive is damaged: %w", err)
}

// decompress unpacks s where it is compressed with gzip or zstd, and bounds the
// result by limits. The caller closes it.
func decompress(s *source, limits Limits) (*bounded, error) {
	in := bufio.NewReaderSize(s, streamBuffer)
	head, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, s.failure(err)
	}
	out := io.NopCloser(io.Reader(in))
	for _, f := range formats {
		if !bytes.HasPrefix(head, f.magic) {
			continue
		}
		if f.open == nil {
			return nil, errs.New(errs.Unsupported, "%s archives cannot be read", f.name).
				WithRemedy("Compress it with gzip or zstd, or not at all")
		}
		if out, err = f.open(in); err != nil {
			return nil, s.failure(err)
		}
		break
	}
	return &bounded{in: out, left: limits.streamBytes()}, nil
}

// bounded ends a stream with an error after a number of bytes, and counts the
// zero bytes at the stream's present end.
type bounded struct {
	in    io.ReadCloser
	left  int64
	zeros int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, tooLarge("more than the limits allow, once unpacked")
	}
	n, err := b.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if tail := int64(n - len(bytes.TrimRight(p[:n], "\x00"))); tail < int64(n) {
		b.zeros = tail
	} else {
		b.zeros += tail
	}
	return n, err
}

func (b *bounded) Close() error { return b.in.Close() }

// Archive is a stream that holds an archive, unpacked where it is compressed
// with gzip or zstd and bounded by limits.
type Archive struct {
	src *source
	in  *bounded
}

// OpenArchive looks at the first bytes of r. The caller closes the archive, not
// r. Errors: Unsupported for other compressions; Invalid, with CodeTooLarge for
// what grows beyond the limits; Unavailable when r fails; ctx's cause.
func OpenArchive(ctx context.Context, r io.Reader, limits Limits) (*Archive, error) {
	src := &source{ctx: ctx, r: r}
	in, err := decompress(src, limits.WithDefaults())
	if err != nil {
		return nil, err
	}
	return &Archive{src: src, in: in}, nil
}

// Read implements io.Reader.
func (a *Archive) Read(p []byte) (int, error) { return a.in.Read(p) }

// Failure returns err, met while reading or decoding the archive, as what it is.
func (a *Archive) Failure(err error) error { return a.src.failure(err) }

// Close implements io.Closer.
func (a *Archive) Close() error { return a.in.Close() }
