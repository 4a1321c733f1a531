package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Start implements engine.Engine.
func (e *Engine) Start(ctx context.Context, id engine.SlotID, spec engine.StartSpec) error {
	if err := checkStart(spec); err != nil {
		return err
	}
	if err := e.begin(); err != nil {
		return err
	}
	defer e.work.Done()
	s, err := e.find(id)
	if err != nil {
		return err
	}
	if err := s.acquire(ctx); err != nil {
		return err // whoever holds the slot has claimed it
	}
	defer s.release()
	if err := s.claim(spec); err != nil {
		return err
	}
	if err := s.start(ctx, spec); err != nil {
		err = s.startFailed(ctx, err)
		return errors.Join(err, s.kill()) // it can only be destroyed now
	}
	return nil
}

// checkStart refuses a spec that no slot could run.
func checkStart(spec engine.StartSpec) error {
	if len(spec.Init) == 0 || !filepath.IsAbs(spec.Init[0]) {
		return errs.New(errs.Invalid, "the first process needs an absolute path").WithField("init")
	}
	for field, image := range map[string]engine.Rootfs{"image": spec.Image, "guest": spec.Guest} {
		if !filepath.IsAbs(image.Path) {
			return errs.New(errs.Invalid, "%q is not an absolute path", image.Path).WithField(field)
		}
	}
	return nil
}

// claim takes the slot for one sandbox, ever.
func (s *slot) claim(spec engine.StartSpec) error {
	kind := engine.KindBoot
	if spec.Snapshot != nil {
		kind = engine.KindRestore
	}
	st := s.status()
	if st.State != engine.StatePrepared {
		return errs.New(errs.Conflict, "slot %s is %s", string(s.id), st.State)
	}
	if s.rec.Kind != kind {
		return errs.New(errs.Conflict, "slot %s is prepared for kind %q, not %q", string(s.id), string(s.rec.Kind), string(kind))
	}
	return s.update(func(r *record) {
		r.State = engine.StateStarting
		r.Image = spec.Image.Digest
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		maps.Copy(r.Labels, spec.Labels)
	})
}

// startFailed gives a failed start its kind.
func (s *slot) startFailed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var known *errs.Error
	if errors.As(err, &known) {
		return err
	}
	if s.endsSoon() {
		exit := s.status().Exit
		return errs.Wrap(err, errs.Unavailable, "gvisor.Start", fmt.Sprintf("the sandbox ended while it started: %s (%s)", exit.Reason, exit.Detail))
	}
	return errs.Wrap(err, errs.Unavailable, "gvisor.Start", "the template could not be started")
}

// start boots the image or restores the snapshot.
func (s *slot) start(ctx context.Context, spec engine.StartSpec) error {
	if spec.Snapshot != nil {
		if err := s.e.checkFits(spec.Snapshot.Info, spec, s.rec.Resources); err != nil {
			return err
		}
	}
	if err := failpoint.Hit(ctx, failpoint.EngineStartAfterClaim); err != nil {
		return err
	}
	files, err := s.openGuestFiles(spec)
	if err != nil {
		return err
	}
	defer files.close()
	args := s.startArgs(spec)
	if spec.Snapshot != nil {
		err = s.restore(ctx, spec, args, files)
	} else {
		err = s.bootGuest(ctx, spec, args, files)
	}
	if err == nil {
		err = failpoint.Hit(ctx, failpoint.EngineStartAfterGuest)
	}
	if err != nil {
		return err
	}
	if err := s.update(func(r *record) {
		r.StartedAt = time.Now()
		if r.Exit == nil {
			r.State = engine.StateRunning
		}
	}); err != nil {
		return err
	}
	s.e.work.Add(1) // Start holds a count, so Close has not passed its wait
	go s.watchGuest()
	return nil
}

// bootGuest starts the template as the second container.
func (s *slot) bootGuest(ctx context.Context, spec engine.StartSpec, args *boot.StartArgs, files *donations) error {
	named, err := s.setHostname(ctx, spec.Hostname)
	if err != nil {
		return err
	}
	if err := s.ctl.call(ctx, boot.ContMgrCreateSubcontainer, &boot.CreateArgs{CID: guestContainer}, nil); err != nil {
		return err
	}
	if err := s.limitProcessors(); err != nil {
		return err
	}
	if err := s.ctl.call(ctx, boot.ContMgrStartSubcontainer, args, nil, files.files...); err != nil {
		return badInit(err)
	}
	return named()
}

// limitProcessors begins to limit the sandbox's processor time.
func (s *slot) limitProcessors() error { return s.group.SetCPUs(int(s.rec.Resources.VCPUs)) }

// badInit recognises a first process that cannot be executed: a fault of what
// was given, not of the engine.
func badInit(err error) error {
	var refused remoteError
	if errors.As(err, &refused) && strings.Contains(string(refused), "no such file or directory") {
		return errs.Wrap(err, errs.Corrupt, "gvisor.Start", "the first process is not in the image")
	}
	return err
}

// startArgs describes the template's container to the sentry. The mounts it
// counts are the EROFS ones: the root, with a writable layer on disk, and the
// guest daemon's image.
func (s *slot) startArgs(spec engine.StartSpec) *boot.StartArgs {
	r := s.rec.Resources
	return &boot.StartArgs{
		Spec:                 guestSpec(s.id, spec, r),
		Conf:                 s.e.conf,
		CID:                  guestContainer,
		NumGoferFilestoreFDs: 1,
		GoferMountConfs: []specutils.GoferMountConf{
			{Lower: specutils.Erofs, Upper: specutils.AnonOverlay, Size: fmt.Sprintf("%dm", r.DiskMB)},
			{Lower: specutils.Erofs, Upper: specutils.NoOverlay},
		},
	}
}

// openGuestFiles opens what the template's container is handed, in the order
// of boot.StartArgs: standard streams, writable layer, images.
func (s *slot) openGuestFiles(spec engine.StartSpec) (_ *donations, err error) {
	files := &donations{}
	defer func() {
		if err != nil {
			files.close()
		}
	}()
	for range 3 {
		null, err := openNull()
		if err != nil {
			return nil, err
		}
		files.add("stdio", null)
	}
	store, err := s.newFilestore()
	if err != nil {
		return nil, err
	}
	files.add("filestore", store)
	for _, image := range []engine.Rootfs{spec.Image, spec.Guest} {
		f, err := openImage(image)
		if err != nil {
			return nil, err
		}
		files.add("image", f)
	}
	return files, nil
}

// newFilestore makes the file behind the writable layer: unnamed, so that it
// ends with the sentry, and sparse.
func (s *slot) newFilestore() (*os.File, error) {
	fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, errs.Wrap(os.NewSyscallError("open", err), errs.Unavailable, "gvisor.Start", "cannot make the writable layer in "+s.dir).
			WithRemedy("put the state folder on a file system that knows O_TMPFILE, such as ext4, xfs or btrfs")
	}
	file := os.NewFile(uintptr(fd), "filestore")
	// The sentry's own system call filter forbids what this does.
	pgalloc.IMAWorkAroundForMemFile(file.Fd())
	return file, nil
}

// openImage opens an image, which is named by its digest: that it is missing or
// not an EROFS file is corruption of what the host stored.
func openImage(image engine.Rootfs) (*os.File, error) {
	f, err := os.Open(image.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Wrap(err, errs.Corrupt, "gvisor.Start", "the image "+shortDigest(image.Digest)+" is missing")
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "gvisor.Start", "cannot open the image "+shortDigest(image.Digest))
	}
	const superblock, magic = 1024, "\xe2\xe1\xf5\xe0"
	head := make([]byte, len(magic))
	if _, err := f.ReadAt(head, superblock); err != nil || string(head) != magic {
		return nil, errors.Join(errs.New(errs.Corrupt, "the image %s is not an EROFS file", shortDigest(image.Digest)), f.Close())
	}
	return f, nil
}

func shortDigest(d lehr.Digest) string {
	if d == "" {
		return "without a digest"
	}
	return string(d)
}

// watchGuest ends the sandbox when its first process has ended: the sentry
// itself would go on with the pause program.
func (s *slot) watchGuest() {
	defer s.e.work.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		defer cancel()
		select {
		case <-s.e.closing:
		case <-s.ended:
		case <-stopped:
		}
	}()
	cid := guestContainer
	var status uint32
	if err := s.ctl.call(ctx, boot.ContMgrWait, &cid, &status); err != nil {
		return // the sentry ended, which its own watch sees, or the engine closes
	}
	s.mu.Lock()
	s.lost = "the first process " + describe(unix.WaitStatus(status))
	s.mu.Unlock()
	if err := s.kill(); err != nil {
		s.e.log.Error("a sandbox without its first process cannot be ended", "slot", s.id, "error", err)
	}
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "was killed by signal " + status.Signal().String()
	}
	return fmt.Sprintf("ended with exit status %d", status.ExitStatus())
}
