package gvisor

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/runsc/boot"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// WritableLayer implements engine.Sandbox. The sentry has no caches of its own to
// be synced: what a guest process wrote or mapped is in the layer at once. The
// tar goes to a file first: while the sentry writes it, changes in the guest
// wait, and they must not wait for w.
func (b *sandbox) WritableLayer(ctx context.Context, w io.Writer) error {
	return b.operate(ctx, func(s *slot, _ engine.State) error {
		file, err := s.tarLayer(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		return copyLayer(ctx, w, file)
	})
}

// tarLayer returns an unnamed file with the writable layer, read from its start.
func (s *slot) tarLayer(ctx context.Context) (*os.File, error) {
	fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, errs.Wrap(os.NewSyscallError("open", err), errs.Unavailable, "gvisor.WritableLayer", "cannot make a file for the writable layer")
	}
	file := os.NewFile(uintptr(fd), "layer")
	if err := s.lendMemory(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	defer s.takeMemoryBack()
	if err := s.writeTar(ctx, file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(errs.Wrap(err, errs.Unavailable, "gvisor.WritableLayer", "cannot read the writable layer"), file.Close())
	}
	return file, nil
}

// writeTar has the sentry write the layer into file. It writes holes as zeroes,
// so files of holes could fill the host's disk: what comes is counted.
func (s *slot) writeTar(ctx context.Context, file *os.File) error {
	const op = "gvisor.WritableLayer"
	from, to, err := os.Pipe()
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, op, "cannot make a pipe for the writable layer")
	}
	most := mostLayer(s.rec.Resources)
	copied, called := make(chan error, 1), make(chan struct{})
	go func() {
		err := spliceAtMost(ctx, file, from, tarEnd{most: most, called: called})
		copied <- errors.Join(err, from.Close()) // the sentry stops writing when nobody reads
	}()
	opts := &control.TarRootfsUpperLayerOpts{ContainerID: guestContainer}
	callErr := s.ctl.call(ctx, boot.FsTarRootfsUpperLayer, opts, nil, to)
	close(called)
	copyErr := errors.Join(to.Close(), <-copied)
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(copyErr, errLayerTooLarge):
		return errs.New(errs.Exhausted, "the files hold more than %d MB, their holes counted", most>>20).WithCode("disk_full").
			WithRemedy("remove large files with holes in the step that makes them, or use a larger disk")
	case diskFull(copyErr, op) != nil:
		return diskFull(copyErr, op)
	case copyErr != nil:
		return errs.Wrap(copyErr, errs.Unavailable, op, "cannot write the writable layer")
	case callErr != nil:
		return s.callFailed(ctx, op, callErr)
	}
	return nil
}

// mostLayer bounds the tar of a layer, in bytes: the disk twice, since a file
// with holes is larger than what it takes, and headers.
func mostLayer(r lehr.Resources) int64 {
	const headers = 1 << 30
	return 2*int64(r.DiskMB)<<20 + headers
}

var errLayerTooLarge = errors.New("the layer is too large")

// tarEnd says when a layer is over.
type tarEnd struct {
	most   int64           // bytes, beyond which it is too large
	called <-chan struct{} // closed when the sentry writes no more
}

// spliceAtMost moves what comes through a pipe into a file, inside the kernel,
// until the pipe is closed, or empty after the call, or ctx ends.
func spliceAtMost(ctx context.Context, file, pipe *os.File, end tarEnd) error {
	const piece, look = 1 << 20, 20 // bytes, milliseconds
	in, out := int(pipe.Fd()), int(file.Fd())
	_, _ = unix.FcntlInt(uintptr(in), unix.F_SETPIPE_SZ, piece) // a smaller pipe is only slower
	for sum := int64(0); ctx.Err() == nil; {
		over := isOver(end.called)
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}}, look)
		if err == nil && ready == 0 && over {
			return nil
		}
		if err != nil || ready == 0 {
			continue // a signal, or time to look at ctx
		}
		n, err := unix.Splice(in, nil, out, nil, piece, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN: //nolint:errorlint // numbers of the kernel
		case err != nil:
			return os.NewSyscallError("splice", err)
		case n == 0:
			return nil
		}
		if sum += n; sum > end.most {
			return errLayerTooLarge
		}
	}
	return context.Cause(ctx)
}

func isOver(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// copyLayer copies a layer without the mount point of the guest daemon's image,
// which the sentry makes in the writable layer.
func copyLayer(ctx context.Context, w io.Writer, r io.Reader) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return errs.Wrap(err, errs.Internal, "gvisor.WritableLayer", "the sandbox's kernel wrote a malformed layer")
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if isGuestMount(header.Name) {
			continue
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

func isGuestMount(name string) bool {
	name = path.Clean("/" + name)
	return name == engine.GuestMount || strings.HasPrefix(name, engine.GuestMount+"/")
}
