// Package agent is `lehr agent`: it wires gVisor, the network, images and the
// guest daemon into a host, and serves it to the control plane on a unix socket.
package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/hostrpc"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Options configure an agent.
type Options struct {
	Data   string // data folder, absolute; the agent keeps to folders of its own in it
	Socket string // unix socket to serve on; an old one is replaced
	// Registries is the path of the registries file; empty: there is none.
	Registries string
	// LifeFD is the reading end of a pipe that the parent holds open: when it
	// closes, the agent ends. 0: the agent has no parent.
	LifeFD int
	Pool   *host.Pool   // slots kept ready; default: DefaultPool
	Log    *slog.Logger // default: discarded
	Ready  func()       // called once when calls are taken; may be nil
}

// DefaultPool costs some 10 MB of memory a slot and makes a sandbox of the
// default shape start without waiting for its isolation.
var DefaultPool = host.Pool{Size: 4, Restore: 2, Resources: lehr.DefaultResources}

// stopTime bounds a stop: calls under way are ended, then their answers sent.
const stopTime = 5 * time.Second

var errParentEnded = errs.New(errs.Cancelled, "the parent process has ended")

// Run serves until ctx or the parent ends, then stops gracefully: calls end,
// ready slots are destroyed, sandboxes keep running and are adopted by the next
// agent on the same data folder. Errors: Conflict when another agent works on
// the folder; Unavailable, Unsupported when the machine lacks something.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Pool == nil {
		o.Pool = &DefaultPool
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopWatching, err := watchParent(o.LifeFD, cancel)
	if err != nil {
		return err
	}
	defer stopWatching()
	p, err := openParts(ctx, o)
	if err != nil {
		return err
	}
	err = serve(ctx, o, p)
	return errors.Join(err, p.close())
}

// watchParent calls ended when the other end of the pipe closes.
func watchParent(fd int, ended context.CancelCauseFunc) (stop func(), err error) {
	if fd == 0 {
		return func() {}, nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "agent.watchParent", "the life descriptor is not open").WithField("life_fd")
	}
	// Non-blocking, so that closing our end wakes the reader.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "agent.watchParent", "the life descriptor is not a pipe").WithField("life_fd")
	}
	pipe := os.NewFile(uintptr(fd), "life")
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1)
		for {
			if _, err := pipe.Read(buf); err != nil {
				ended(errParentEnded) // at our own stop it is too late to matter
				return
			}
		}
	}()
	return func() { _ = pipe.Close(); <-done }, nil
}

// serve takes calls until ctx ends.
func serve(ctx context.Context, o Options, p *parts) error {
	listener, err := listen(ctx, o.Socket)
	if err != nil {
		return err
	}
	server := hostrpc.NewServer(p.host, o.Log)
	var work errgroup.Group
	work.Go(func() error { sweepBin(ctx, p.bin, p.engine, o.Log); return nil })
	work.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return errs.Wrap(err, errs.Unavailable, "agent.serve", "the socket cannot be served")
		}
		return nil
	})
	if o.Ready != nil {
		o.Ready()
	}
	<-ctx.Done()
	o.Log.Info("the agent stops; sandboxes keep running", "cause", context.Cause(ctx))
	closed := p.host.Close() // ends every call under way, with its answer
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if server.Shutdown(stop) != nil {
		_ = server.Close() // somebody does not take the answer
	}
	return errors.Join(closed, work.Wait())
}

// listen makes the socket, for this user alone. The engine's lock says already
// that no other agent serves this folder.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "agent.listen", "the socket's folder cannot be made")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Wrap(err, errs.Unavailable, "agent.listen", "an old socket cannot be removed")
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "agent.listen", "cannot listen on "+path)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(errs.Wrap(err, errs.Unavailable, "agent.listen", "the socket cannot be protected"), listener.Close())
	}
	return listener, nil
}
