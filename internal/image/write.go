package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/image/erofs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const (
	writeBuffer = 1 << 20
	imageMode   = 0o444 // nobody has a reason to write to an image
)

// Commit writes the tree as an image and returns its digest. It writes under
// another name, makes the bytes durable, reads them back both as bytes and,
// with a reader that did not write them, as a file system, and only then gives
// the image its name; when ctx ends or anything fails, nothing is left. An
// image that exists already is not written again. Errors: Invalid for a tree
// that no image can hold; Exhausted with code disk_full; ctx's cause.
func (s *Store) Commit(ctx context.Context, t *Tree) (Info, error) {
	t.dropMachine()
	plan, err := erofs.Plan(t.root)
	if err != nil {
		return Info{}, errs.New(errs.Invalid, "the tree does not fit an image: %w", err)
	}
	return s.write(ctx, pending{
		size:  plan.Size(),
		write: plan.Write,
		check: plan.Verify,
	})
}

// Add stores an image that another store wrote. It reads r to its end and fails
// with Corrupt when the bytes do not match d or are no image.
func (s *Store) Add(ctx context.Context, d lehr.Digest, r io.Reader) (Info, error) {
	return s.write(ctx, pending{
		want: d,
		write: func(ctx context.Context, w io.Writer) error {
			src := &source{ctx: ctx, r: r}
			if _, err := io.CopyBuffer(w, src, make([]byte, writeBuffer)); err != nil && src.err != nil {
				return src.failure(err)
			} else if err != nil {
				return err
			}
			return nil
		},
		check: func(ctx context.Context, r io.ReaderAt) error {
			_, err := erofs.Load(ctx, r)
			return err
		},
	})
}

// pending is an image that is to be written.
type pending struct {
	size  int64       // when known before
	want  lehr.Digest // when known before
	write func(context.Context, io.Writer) error
	check func(context.Context, io.ReaderAt) error
}

func (s *Store) write(ctx context.Context, p pending) (info Info, err error) {
	f, err := os.CreateTemp(s.tmp, tempImage+"*")
	if err != nil {
		return Info{}, DiskError(err, "image.write")
	}
	defer func() {
		_ = os.Remove(f.Name())
		_ = f.Close()
	}()
	if p.size > 0 { // find out that the disk is full before it is
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, p.size); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return Info{}, DiskError(err, "image.write")
		}
	}
	out := newSink(f)
	defer out.close()
	if err := p.write(ctx, out); err != nil {
		return Info{}, DiskError(err, "image.write")
	}
	info = Info{Digest: out.digest(), Size: out.size}
	if p.want != "" && p.want != info.Digest {
		return Info{}, errs.New(errs.Corrupt, "the received image has the digest %s, want %s", info.Digest, p.want)
	}
	if err := settle(ctx, f, info.Digest, p.check); err != nil {
		return Info{}, err
	}
	if err := failpoint.Hit(ctx, failpoint.ImageBeforeName); err != nil {
		return Info{}, err
	}
	return info, s.name(ctx, f, info.Digest)
}

// settle makes what was written to f durable and, while the disk works, reads
// it back.
func settle(ctx context.Context, f *os.File, want lehr.Digest, check func(context.Context, io.ReaderAt) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := errors.Join(f.Chmod(imageMode), f.Sync()); err != nil {
			return DiskError(err, "image.write")
		}
		return nil
	})
	g.Go(func() error {
		got, err := digestOf(ctx, io.NewSectionReader(f, 0, 1<<62))
		if err == nil && got != want {
			err = errs.New(errs.Corrupt, "the image was written as %s and read back as %s", want, got)
		}
		return err
	})
	g.Go(func() error {
		err := check(ctx, f)
		if err == nil || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errs.New(errs.Corrupt, "the image %s was read back wrong: %w", want, err)
	})
	return g.Wait()
}

// name gives the written file its place. An image that is there already stays
// as it is, because sandboxes may have mapped it, but must be right, and counts
// as made now.
func (s *Store) name(ctx context.Context, f *os.File, d lehr.Digest) error {
	path, _ := s.file(d)
	switch err := os.Link(f.Name(), path); {
	case errors.Is(err, fs.ErrExist):
		if _, err := s.Path(ctx, d); err != nil {
			return err
		}
		return s.renew(f, path)
	case err != nil:
		return DiskError(err, "image.write")
	}
	if err := failpoint.Hit(ctx, failpoint.ImageAfterName); err != nil {
		return err
	}
	if err := syncDir(s.images); err != nil {
		return err
	}
	c := s.check(d)
	c.turn <- struct{}{}
	c.done = true
	<-c.turn
	return nil
}

// renew gives the image at path the modification time of f, the same image
// written a moment ago.
func (s *Store) renew(f *os.File, path string) error {
	info, err := f.Stat()
	if err == nil {
		err = os.Chtimes(path, time.Time{}, info.ModTime())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return DiskError(err, "image.write")
	}
	return nil
}

// sink writes to a file and sums at the same time. It is used by one goroutine;
// close ends the one it started.
type sink struct {
	file   *os.File
	sum    hash.Hash
	size   int64
	pieces chan []byte   // to be summed
	summed chan struct{} // one for each piece
}

func newSink(f *os.File) *sink {
	s := &sink{file: f, sum: sha256.New(), pieces: make(chan []byte), summed: make(chan struct{})}
	go func() {
		defer close(s.summed)
		for p := range s.pieces {
			s.sum.Write(p)
			s.summed <- struct{}{}
		}
	}()
	return s
}

// Write implements io.Writer. When it returns, p was written and summed.
func (s *sink) Write(p []byte) (int, error) {
	s.pieces <- p
	n, err := s.file.Write(p)
	<-s.summed
	if err == nil {
		// Let the disk begin now, so that the final sync has less to wait for.
		_ = unix.SyncFileRange(int(s.file.Fd()), s.size, int64(n), unix.SYNC_FILE_RANGE_WRITE)
	}
	s.size += int64(n)
	return n, err
}

func (s *sink) digest() lehr.Digest { return lehr.DigestFrom(s.sum) }

func (s *sink) close() {
	close(s.pieces)
	<-s.summed
}
