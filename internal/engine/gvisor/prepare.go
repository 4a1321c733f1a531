package gvisor

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/runsc/boot"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/jail"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// cleanUpTime bounds the removal of one slot.
const cleanUpTime = 30 * time.Second

// sentryMB is what a sentry's own memory may take beyond the sandbox's: its
// heap, its stacks, page tables and socket buffers.
const sentryMB = 64

// Guest processes are limited inside, where one more is EAGAIN to fork. A small
// one costs about half a mebibyte of the sandbox's memory (measured: 0.55, of
// which 0.15 are the host kernel's) and two tasks of the host. Go's runtime dies
// when it gets no thread, so the control group's limit is far above.
const (
	leastProcesses     = 256
	mostProcesses      = 16384
	processesPerMB     = 1
	hostTasksPerGuest  = 4
	hostTasksOfASentry = 512
)

// memoryBytes is the guest's memory.
func memoryBytes(r lehr.Resources) int64 { return int64(r.MemoryMB) << 20 }

// guestProcesses is how many processes and threads a guest may have.
func guestProcesses(r lehr.Resources) int64 {
	return min(max(int64(r.MemoryMB)*processesPerMB, leastProcesses), mostProcesses)
}

// groupLimits bounds a whole sandbox as the host sees it. Processor time is
// limited when the guest's code begins to run: until then only the sentry's
// runs, on as many threads as the sandbox has processors, and throttling it
// would make every start slower.
func groupLimits(r lehr.Resources) jail.Limits {
	return jail.Limits{
		MemoryBytes: memoryBytes(r) + sentryMB<<20,
		Pids:        guestProcesses(r)*hostTasksPerGuest + hostTasksOfASentry,
	}
}

// newSlotID returns a fresh id; ids have one length, so none is a prefix of
// another.
func newSlotID() engine.SlotID {
	return engine.SlotID(strings.TrimPrefix(string(lehr.NewSandboxID()), "sb"))
}

func (e *Engine) slotDir(id engine.SlotID) string {
	return filepath.Join(e.opts.StateDir, slotsDir, string(id))
}

// Prepare implements engine.Engine.
func (e *Engine) Prepare(ctx context.Context, spec engine.PrepareSpec) (engine.SlotID, error) {
	if spec.Kind != engine.KindBoot && spec.Kind != engine.KindRestore {
		return "", errs.New(errs.Invalid, "unknown kind of slot %q", string(spec.Kind)).WithField("kind")
	}
	if err := checkResources(spec.Resources); err != nil {
		return "", err
	}
	if err := e.begin(); err != nil {
		return "", err
	}
	defer e.work.Done()
	s := e.newSlot(record{
		Version:   recordVersion,
		Slot:      newSlotID(),
		Kind:      spec.Kind,
		Resources: spec.Resources,
		Labels:    maps.Clone(spec.Labels),
		Engine:    e.info.Digest,
	})
	if err := s.prepare(ctx); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
		defer cancel()
		return "", errors.Join(prepareFailed(ctx, err), s.dismantle(undo))
	}
	if !e.admit(s) {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
		defer cancel()
		return "", errors.Join(errs.New(errs.Unavailable, "the engine is closed"), s.dismantle(undo))
	}
	return s.id, nil
}

// prepareFailed keeps the cause of ctx and kinds that are set already.
func prepareFailed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var known *errs.Error
	if errors.As(err, &known) {
		return err
	}
	return errs.Wrap(err, errs.Unavailable, "gvisor.Prepare", "the sandbox's kernel could not be started")
}

// admit makes a prepared slot visible; it reports false once the engine closes.
func (e *Engine) admit(s *slot) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.slots[s.id] = s
	return true
}

// prepare builds the slot, in the order in which a later engine could find and
// remove what a killed one left: folder, record, control group, network,
// process.
func (s *slot) prepare(ctx context.Context) error {
	if err := os.Mkdir(s.dir, 0o711); err != nil {
		return err
	}
	if err := s.update(func(*record) {}); err != nil {
		return err
	}
	if err := failpoint.Hit(ctx, failpoint.EnginePrepareAfterRecord); err != nil {
		return err
	}
	if _, err := s.e.groups.Create(string(s.id), groupLimits(s.rec.Resources)); err != nil {
		return err
	}
	if err := failpoint.Hit(ctx, failpoint.EnginePrepareAfterGroup); err != nil {
		return err
	}
	net, err := s.attach(ctx)
	if err != nil {
		return err
	}
	defer net.close()
	if err := failpoint.Hit(ctx, failpoint.EnginePrepareAfterNetwork); err != nil {
		return err
	}
	if err := s.boot(ctx, net); err != nil {
		return err
	}
	if err := failpoint.Hit(ctx, failpoint.EnginePrepareAfterSentry); err != nil {
		return err
	}
	return s.setState(engine.StatePrepared)
}

// boot starts the sentry, gives it its links and, where it will boot an image,
// starts the pause container.
func (s *slot) boot(ctx context.Context, net *links) error {
	b := birth{
		slot: s.id, dir: s.dir, sentry: s.e.sentry, image: s.e.pause,
		shape: s.rec.Resources, group: s.group, conf: s.e.conf,
	}
	if lease := s.netLease(); lease != nil {
		b.network = lease.NamespacePath()
	}
	pid, err := b.launch(ctx)
	if pid != 0 {
		err = errors.Join(err, s.follow(pid))
	}
	if err != nil {
		return err
	}
	net.args.IsRestore = s.rec.Kind == engine.KindRestore
	if err := s.ctl.call(ctx, boot.ContMgrSetNetworkArgs, &net.args, nil, net.files...); err != nil {
		return err
	}
	if s.rec.Kind == engine.KindRestore {
		return nil
	}
	if err := s.ctl.call(ctx, boot.ContMgrRootContainerStart, s.id, nil); err != nil {
		return err
	}
	return s.awaitLimit(ctx)
}

// awaitLimit returns once the pause program has limited the guest's processes;
// it does so as soon as it runs.
func (s *slot) awaitLimit(ctx context.Context) error {
	const again = time.Millisecond
	tick := time.NewTicker(again)
	defer tick.Stop()
	want := strconv.FormatInt(guestProcesses(s.rec.Resources), 10)
	arg := &control.CgroupsReadArgs{Args: []control.CgroupsReadArg{{
		File: control.CgroupControlFile{Controller: "pids", Path: "/" + guestContainer, Name: pidsMax},
	}}}
	for {
		var out control.CgroupsResults
		if err := s.ctl.call(ctx, boot.CgroupsReadControlFiles, arg, &out); err != nil {
			return err
		}
		if len(out.Results) == 1 && out.Results[0].Data == want {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.ended:
			return errors.New("the pause program failed")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follow starts to watch the sentry of that pid, an unreaped child.
func (s *slot) follow(pid int) error {
	id, err := identify(pid)
	if err != nil {
		return err
	}
	p, err := openProcess(id)
	if err != nil || p == nil {
		return errors.Join(err, errors.New("the sentry cannot be watched"))
	}
	s.mu.Lock()
	s.sentry = p
	s.rec.Sentry = id
	s.mu.Unlock()
	s.e.work.Add(1) // the caller holds a count, so Close has not passed its wait
	go s.watch(p)
	return nil
}
