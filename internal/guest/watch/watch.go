// Package watch tells what changes in directories of the sandbox, on behalf of
// its users: a directory is watched only where the user may read it. It speaks
// inotify itself.
//
// A watcher takes what the kernel tells as it comes and keeps it, up to a bound,
// until it is fetched, so that a slow client makes neither the kernel's queue
// nor the daemon grow; what is too much is dropped and said.
package watch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

// Op is a kind of change.
type Op int

// The kinds of change. A move is a Rename of the old path and a Create of the
// new one, each where it is watched.
const (
	Create Op = iota + 1
	Write
	Remove
	Rename
	Chmod
)

// Event is one change.
type Event struct {
	Name string // path relative to the watched directory, which itself is "."
	Op   Op
}

// Limits of one watcher.
const (
	maxEvents      = 8192 // that nobody has fetched
	maxDirectories = 8192 // watched by a recursive one
)

// Options say what is watched.
type Options struct {
	User         account.User
	Path         string // a directory; a link to one is followed
	Recursive    bool   // all below it too, but not through links
	NetworkMount bool   // even where other machines make changes unseen
}

// Watcher watches one directory. Its methods are safe for concurrent use.
type Watcher struct {
	opt  Options
	file *os.File // the inotify instance
	tree *tree    // owned by run
	done chan struct{}

	mu     sync.Mutex
	events []Event
	err    error         // what happened instead of further events; reported once
	ready  chan struct{} // has room for one: something changed
}

// New begins to watch. Errors: NotFound; PermissionDenied; Invalid when the
// path is no directory, or on a network file system without NetworkMount;
// Exhausted when there are too many directories or watchers.
func New(opt Options) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, watchError(err, opt.Path)
	}
	w := &Watcher{
		opt: opt, file: os.NewFile(uintptr(fd), "inotify"), tree: newTree(fd, opt),
		done: make(chan struct{}), ready: make(chan struct{}, 1),
	}
	if err := opt.User.Do(w.begin); err != nil {
		_ = w.file.Close()
		return nil, watchError(err, opt.Path)
	}
	go w.run()
	return w, nil
}

func (w *Watcher) begin() error {
	info, err := os.Stat(w.opt.Path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errs.New(errs.Invalid, "path is not a directory: %s", w.opt.Path).WithField("path")
	}
	if !w.opt.NetworkMount && onNetwork(w.opt.Path) {
		return errs.New(errs.Invalid, "cannot watch path on network filesystem: %s", w.opt.Path).WithField("path").
			WithRemedy("ask for it with allow_network_mounts; changes that other machines make are not seen")
	}
	var found []string // was there before, so nobody is told
	return w.tree.add(".", &found)
}

// Close ends the watcher and waits for it. A second call does nothing.
func (w *Watcher) Close() {
	// The file is run's to close: its descriptor is used by number.
	_ = w.file.SetReadDeadline(time.Unix(1, 0))
	<-w.done
}

// Take returns the events since the last call, without waiting. Errors:
// Exhausted with code "watch_overflow", once, when events were dropped; the
// watcher goes on. Any other error is the watcher's end and returned each time.
func (w *Watcher) Take() ([]Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.events
	w.events = nil
	if len(events) > 0 || w.err == nil {
		return events, nil
	}
	err := w.err
	if errs.CodeOf(err) == codeOverflow {
		w.err = nil
	}
	return nil, err
}

// Wait returns when Take has something to return, or with the cause of ctx.
func (w *Watcher) Wait(ctx context.Context) error {
	for {
		w.mu.Lock()
		ready := len(w.events) > 0 || w.err != nil
		w.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-w.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

const codeOverflow = "watch_overflow"

// publish keeps events for whoever takes them.
func (w *Watcher) publish(events []Event) {
	if len(events) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events)+len(events) > maxEvents {
		w.events = nil
		w.fail(errs.New(errs.Exhausted, "more than %d events were not fetched, and are dropped", maxEvents).
			WithCode(codeOverflow).WithRemedy("list the directory anew"))
		return
	}
	if w.err == nil {
		w.events = append(w.events, events...)
		w.wake()
	}
}

// fail records why there are no events. The caller holds mu.
func (w *Watcher) fail(err error) {
	if w.err == nil || errs.CodeOf(w.err) == codeOverflow {
		w.err = err
	}
	w.wake()
}

func (w *Watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// readSize holds some thousand events with short names and never less than one.
const readSize = 64 << 10

// run reads what the kernel tells until Close. What watching new directories
// takes is done with the user's rights, and before their coming is told: who
// hears of a directory can rely on hearing of what is made in it.
func (w *Watcher) run() {
	defer close(w.done)
	defer w.file.Close()
	buf := make([]byte, readSize)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				w.end(watchError(err, w.opt.Path))
			}
			return
		}
		var events []Event
		err = w.opt.User.Do(func() error {
			events, err = w.tree.digest(buf[:n])
			return err
		})
		w.publish(events)
		if err != nil {
			w.mu.Lock()
			w.fail(watchError(err, w.opt.Path))
			ended := errs.CodeOf(err) != codeOverflow
			w.mu.Unlock()
			if ended {
				return
			}
		}
	}
}

func (w *Watcher) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail(err)
}

// onNetwork reports whether path is on a file system that other machines may
// change without the kernel's knowing.
func onNetwork(path string) bool {
	var info unix.Statfs_t
	if unix.Statfs(path, &info) != nil {
		return false
	}
	switch uint32(info.Type) {
	case unix.NFS_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC,
		unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC:
		return true
	}
	return false
}

// watchError gives failures their kinds. Of a full disk, which is what ENOSPC
// says elsewhere, there can be no talk here.
func watchError(err error, path string) error {
	var known *errs.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return errs.New(errs.NotFound, "path not found: %s", path).WithField("path")
	case errors.Is(err, fs.ErrPermission):
		return errs.New(errs.PermissionDenied, "%s: permission denied", path).WithField("path")
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return errs.New(errs.Exhausted, "the sandbox's kernel watches no further directory")
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return errs.New(errs.Invalid, "path cannot be watched: %s", filepath.Clean(path)).WithField("path")
	}
	return errs.Wrap(err, errs.Internal, "watch", "the directory could not be watched")
}
