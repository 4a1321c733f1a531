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
	opts := &control.TarRootfsUpperLayerOpts{ContainerID: guestContainer}
	if err := s.ctl.call(ctx, boot.FsTarRootfsUpperLayer, opts, nil, file); err != nil {
		return nil, errors.Join(s.callFailed(ctx, "gvisor.WritableLayer", err), file.Close())
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(errs.Wrap(err, errs.Unavailable, "gvisor.WritableLayer", "cannot read the writable layer"), file.Close())
	}
	return file, nil
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
