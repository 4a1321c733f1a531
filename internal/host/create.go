package host

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// labelSandbox is the engine label that says whose slot it is.
const labelSandbox = "lehr.sandbox"

// operatorEnv is the environment variable by which the guest daemon learns the
// hash of its operator's secret.
const operatorEnv = "LEHR_OPERATOR_SHA256"

var errDestroyed = errs.New(errs.Conflict, "the sandbox was destroyed").WithCode("sandbox_ended")

// CreateSandbox makes a sandbox and answers when a command can run.
func (h *Host) CreateSandbox(ctx context.Context, r agent.CreateSandbox) (agent.Sandbox, error) {
	if err := checkCreate(r); err != nil {
		return agent.Sandbox{}, err
	}
	ctx, leave, err := h.enter(ctx)
	if err != nil {
		return agent.Sandbox{}, err
	}
	defer leave()
	if err := h.wantDisk(); err != nil {
		return agent.Sandbox{}, err
	}
	s, err := h.reserve(r)
	if err != nil {
		return agent.Sandbox{}, err
	}
	defer s.leave()
	ctx, release := join(ctx, s.life)
	defer release()
	if err := failpoint.Hit(ctx, failpoint.HostCreateAfterRecord); err != nil {
		h.discard(s)
		return agent.Sandbox{}, err
	}
	if err := h.make(ctx, s, r); err != nil {
		h.discard(s)
		return agent.Sandbox{}, err
	}
	if err := failpoint.Hit(ctx, failpoint.HostCreateAfterSave); err != nil {
		h.log.Warn("after a creation", "error", err)
	}
	return h.GetSandbox(ctx, r.ID)
}

// checkCreate refuses what can never succeed.
func checkCreate(r agent.CreateSandbox) error {
	if _, err := lehr.ParseSandboxID(string(r.ID)); err != nil {
		return errs.New(errs.Invalid, "%w", err).WithField("id")
	}
	if _, err := lehr.ParseDigest(string(r.Image)); err != nil {
		return errs.New(errs.Invalid, "%w", err).WithField("image")
	}
	if r.Snapshot != "" {
		if _, err := lehr.ParseDigest(string(r.Snapshot)); err != nil {
			return errs.New(errs.Invalid, "%w", err).WithField("snapshot")
		}
	}
	if r.TTL < 0 {
		return errs.New(errs.Invalid, "a time-to-live cannot be negative").WithField("ttl")
	}
	if r.Resources.VCPUs <= 0 || r.Resources.MemoryMB <= 0 || r.Resources.DiskMB <= 0 {
		return errs.New(errs.Invalid, "processors, memory and disk must be positive").WithField("resources")
	}
	return nil
}

// reserve records a sandbox as being created, so that its id and artifacts are
// taken. The caller has its turn.
func (h *Host) reserve(r agent.CreateSandbox) (*sandbox, error) {
	s := newSandbox(record{
		ID: r.ID, TeamID: r.TeamID, TemplateID: r.TemplateID, VersionID: r.VersionID, Fence: r.Fence,
		Image: r.Image, Snapshot: r.Snapshot, Guest: h.opt.Guest.Rootfs.Digest, Resources: r.Resources, Workdir: cmp.Or(r.Config.Workdir, "/"),
		Secret: rand.Text(), AccessToken: r.AccessToken, State: lehr.SandboxCreating, CreatedAt: h.clock.Now(), ExpiresAt: h.expiry(r.TTL),
	})
	s.turn <- struct{}{}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sandboxes[r.ID] != nil {
		return nil, errs.New(errs.Exists, "sandbox %s exists already", r.ID).WithCode("sandbox_exists")
	}
	for _, d := range []lehr.Digest{r.Image, r.Snapshot} {
		if h.removing[d] {
			return nil, errs.New(errs.Conflict, "%s is being removed", d).WithCode("artifact_removing")
		}
	}
	if err := h.saveRecord(&s.rec); err != nil {
		return nil, err
	}
	h.sandboxes[r.ID] = s
	h.tell(s.rec.view())
	h.nudge()
	return s, nil
}

// make does the work of creating; what it made so far is discard's to remove.
func (h *Host) make(ctx context.Context, s *sandbox, r agent.CreateSandbox) error {
	spec, err := h.startSpec(ctx, s, r)
	if err != nil {
		return err
	}
	kind := engine.KindBoot
	if spec.Snapshot != nil {
		kind = engine.KindRestore
	}
	slot, err := h.pool.take(ctx, kind, r.Resources)
	if err != nil {
		return err
	}
	h.mu.Lock()
	s.rec.Slot = slot
	h.mu.Unlock()
	if err := failpoint.Hit(ctx, failpoint.HostCreateAfterSlot); err != nil {
		return err
	}
	if err := h.opt.Engine.Start(ctx, slot, spec); err != nil {
		return err
	}
	if err := failpoint.Hit(ctx, failpoint.HostCreateAfterStart); err != nil {
		return err
	}
	guest, err := h.greet(ctx, s, r)
	if err == nil {
		err = failpoint.Hit(ctx, failpoint.HostCreateAfterGreet)
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.guest = guest
	s.rec.ExpiresAt = h.expiry(r.TTL) // from when it can be used, however long its start took
	h.nudge()
	if context.Cause(ctx) != nil || !h.setStateLocked(s, lehr.SandboxRunning, "", "") {
		return errDestroyed
	}
	h.work.Go(func() { h.watch(s) })
	return nil
}

// startSpec gathers what goes into the slot.
func (h *Host) startSpec(ctx context.Context, s *sandbox, r agent.CreateSandbox) (engine.StartSpec, error) {
	if !h.opt.Images.Has(r.Image) {
		return engine.StartSpec{}, errs.New(errs.NotFound, "image %s is not on this host", r.Image).WithCode("image_missing")
	}
	path, err := h.opt.Images.Path(ctx, r.Image)
	if err != nil {
		return engine.StartSpec{}, err
	}
	snapshot, err := h.findSnapshot(ctx, r)
	if err != nil {
		return engine.StartSpec{}, err
	}
	sum := sha256.Sum256([]byte(s.rec.Secret))
	return engine.StartSpec{
		Image: engine.Rootfs{Path: path, Digest: r.Image}, Guest: h.opt.Guest.Rootfs,
		Snapshot: snapshot, Hostname: string(r.ID), Init: slices.Clone(h.opt.Guest.Init),
		Env:    []string{operatorEnv + "=" + hex.EncodeToString(sum[:])},
		Labels: map[string]string{labelSandbox: string(r.ID)},
	}, nil
}

// findSnapshot returns the snapshot of r, nil where it has none.
func (h *Host) findSnapshot(ctx context.Context, r agent.CreateSandbox) (*engine.Snapshot, error) {
	if r.Snapshot == "" {
		return nil, nil
	}
	dir, m, err := h.snapshots.open(ctx, r.Snapshot)
	if err != nil {
		return nil, err
	}
	own := h.opt.Engine.Info()
	switch {
	case m.Info.Engine != own.Digest, m.Info.CPUFeatures != own.CPUFeatures, m.Guest != string(h.opt.Guest.Rootfs.Digest):
		return nil, errs.New(errs.Unsupported, "snapshot %s was made by another engine, CPU or guest daemon", r.Snapshot).
			WithCode("snapshot_unfit").WithRemedy("build the template again, or make its snapshot again from image and plan")
	case m.Info.Image != r.Image:
		return nil, errs.New(errs.Invalid, "snapshot %s belongs to image %s", r.Snapshot, m.Info.Image).WithField("image")
	case m.Info.Resources != r.Resources:
		return nil, errs.New(errs.Invalid, "snapshot %s has %+v", r.Snapshot, m.Info.Resources).WithField("resources")
	}
	return &engine.Snapshot{Dir: dir, Info: m.Info}, nil
}

// greet waits for the guest daemon and tells it whom it serves.
func (h *Host) greet(ctx context.Context, s *sandbox, r agent.CreateSandbox) (Guest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit,
		errs.New(errs.Unavailable, "the guest daemon did not answer within %v", startLimit).WithCode("guest_silent"))
	defer cancel()
	guest := h.connect(s)
	err := h.awaitGuest(ctx, s, guest)
	if err == nil {
		err = guest.Init(ctx, h.identity(r))
	}
	if err != nil {
		_ = guest.Close()
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	return guest, nil
}

// connect returns a client of the sandbox's guest daemon.
func (h *Host) connect(s *sandbox) Guest {
	sb := h.opt.Engine.Sandbox(s.slot())
	return h.opt.Connect(GuestAddress{Slot: s.slot(), Dial: sb.Dial, Secret: s.rec.Secret})
}

// awaitGuest waits until the daemon answers, or the sandbox has ended.
func (h *Host) awaitGuest(ctx context.Context, s *sandbox, guest Guest) error {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		exit, err := h.opt.Engine.Sandbox(s.slot()).Wait(ctx)
		if err == nil {
			cancel(errs.New(errs.Unavailable, "the sandbox ended while it started: %s", exit.Reason).WithCode("start_failed"))
		}
	}()
	_, err := guest.Health(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	<-watched
	return err
}

// identity is what the sandbox is told about itself.
func (h *Host) identity(r agent.CreateSandbox) Identity {
	env := slices.Clone(r.Config.Env)
	for _, name := range slices.Sorted(maps.Keys(r.Env)) {
		env = slices.DeleteFunc(env, func(v lehr.EnvVar) bool { return v.Name == name })
		env = append(env, lehr.EnvVar{Name: name, Value: r.Env[name]})
	}
	return Identity{
		SandboxID: r.ID, AccessToken: r.AccessToken, Hostname: string(r.ID), Env: env, User: r.Config.User, Workdir: cmp.Or(r.Config.Workdir, "/"),
		ResolvConf: h.opt.ResolvConf,
		Hosts:      "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + string(r.ID) + "\n",
	}
}

// discard removes every trace of a creation that failed. It is detached from
// the caller and bounded; what it could not remove stays listed as killed, for
// DestroySandbox to try again.
func (h *Host) discard(s *sandbox) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupLimit)
	defer cancel()
	h.setState(s, lehr.SandboxKilled, "", "its creation failed")
	if err := h.remove(ctx, s); err != nil {
		h.log.Error("a half-made sandbox could not be taken away", "sandbox", s.rec.ID, "error", err)
	}
}
