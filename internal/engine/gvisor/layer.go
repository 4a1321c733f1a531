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

// WritableLayer implements engine.Sandbox. The tar goes to a file first: while the
// sentry writes it, changes in the guest wait, and they must not wait for w.
func (b *sandbox) WritableLayer(ctx context.Context, w io.Writer) error {
	return b.operate(ctx, func(s *slot, _ engine.State) error {
		fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return errs.Wrap(os.NewSyscallError("open", err), errs.Unavailable, "gvisor.WritableLayer", "cannot make a file for the writable layer")
		}
		file := os.NewFile(uintptr(fd), "layer")
		defer func() { _ = file.Close() }()
		opts := &control.TarRootfsUpperLayerOpts{ContainerID: guestContainer}
		if err := s.ctl.call(ctx, boot.FsTarRootfsUpperLayer, opts, nil, file); err != nil {
			return s.callFailed(ctx, "gvisor.WritableLayer", err)
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return errs.Wrap(err, errs.Unavailable, "gvisor.WritableLayer", "cannot read the writable layer")
		}
		return copyLayer(ctx, w, file)
	})
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
