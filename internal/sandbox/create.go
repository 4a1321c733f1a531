package sandbox

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// Bounds of a request.
const (
	maxTTL      = 366 * 24 * time.Hour
	maxEnvBytes = 128 << 10 // of all names and values together
)

// CreateParams is a request for a sandbox; nil resources are the template's.
type CreateParams struct {
	TeamID   lehr.TeamID
	Template string // NAME, NAME:TAG, TEAM/NAME:TAG
	VCPUs    *int32
	MemoryMB *int32
	DiskMB   *int32
	Env      map[string]string
	TTL      time.Duration // 0: none
	Metadata map[string]string

	// IdempotencyKey names the request within the team: the same key and request
	// give the same sandbox. Empty: none.
	IdempotencyKey string
	NoWait         bool // answer once the sandbox is recorded, in state creating
}

// creation is one sandbox being made.
type creation struct {
	id        lehr.SandboxID
	p         CreateParams
	digest    lehr.Digest // of the request, where it has a key
	ref       lehr.Ref
	template  lehr.Tagged
	resources lehr.Resources
	hostID    lehr.HostID
	host      agent.Agent
}

// Create answers when a command can run in the new sandbox. Nothing is left
// when it fails but a record that says so. Errors: Invalid, NotFound,
// Exhausted (no host has room, or a limit of the team), Unsupported (a snapshot
// that fits no host), Unavailable.
//
// A request with an idempotency key that was asked before answers as the first
// did, with created=false: with the sandbox, waiting until it runs, or with the
// error that it could not be made for. A key is used up once a sandbox was
// recorded for it: what is refused before (a request that is not valid, no room,
// a limit) may be asked again. A creation with a key goes on when its caller
// leaves, so that whoever comes again finds it.
func (s *Service) Create(ctx context.Context, p CreateParams) (box lehr.Sandbox, created bool, err error) {
	c := creation{p: p}
	if err := c.check(); err != nil {
		return lehr.Sandbox{}, false, err
	}
	if p.IdempotencyKey != "" {
		c.digest = s.requestDigest(p)
		if box, ok, err := s.replayed(ctx, &c); ok || err != nil {
			return box, false, err
		}
	}
	if err := s.find(ctx, &c); err != nil {
		if p.IdempotencyKey != "" && errs.IsKind(err, errs.Exhausted) {
			// The room may have gone to the same request, sent at the same time.
			if box, ok, again := s.replayed(ctx, &c); ok || again != nil {
				return box, false, again
			}
		}
		return lehr.Sandbox{}, false, err
	}
	if p.IdempotencyKey != "" || p.NoWait {
		if err := s.ownMinimal(ctx, &c); err != nil {
			return lehr.Sandbox{}, false, err
		}
		return s.makeDetached(ctx, &c)
	}
	box, err = s.make(ctx, &c)
	if errs.CodeOf(err) == "image_missing" && c.minimal() {
		// The recorded minimal is another host's; this one makes its own.
		if c.template, err = s.o.Bases.Minimal(ctx, c.host); err == nil {
			box, err = s.make(ctx, &c)
		}
	}
	return box, err == nil, err
}

// ownMinimal makes the minimal base of the chosen host where it has none: a
// creation that is recorded under a key is not tried twice.
func (s *Service) ownMinimal(ctx context.Context, c *creation) error {
	if !c.minimal() {
		return nil
	}
	has, err := c.host.HasArtifact(ctx, c.template.Version.ImageDigest)
	if err == nil && !has {
		c.template, err = s.o.Bases.Minimal(ctx, c.host)
	}
	return err
}

func (c *creation) check() (err error) {
	c.ref, err = lehr.ParseRef(c.p.Template)
	if err != nil {
		return errs.New(errs.Invalid, "%w", err).WithField("template").WithCode("template_invalid").
			WithRemedy("write NAME or NAME:TAG")
	}
	size := 0
	for name, value := range c.p.Env {
		size += len(name) + len(value)
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return errs.New(errs.Invalid, "%.80q is not a variable that an environment can hold", name).WithField("env").WithCode("env_invalid")
		}
	}
	if size > maxEnvBytes {
		return errs.New(errs.Invalid, "holds %d bytes, want at most %d", size, maxEnvBytes).WithField("env").WithCode("env_invalid")
	}
	if err := lehr.CheckMetadata(c.p.Metadata); err != nil {
		return errs.New(errs.Invalid, "%w", err).WithField("metadata").WithCode("metadata_invalid").
			WithRemedy("shorten names and values, or keep what is large in a file of the sandbox")
	}
	if err := lehr.CheckIdempotencyKey(c.p.IdempotencyKey); err != nil {
		return errs.New(errs.Invalid, "%w", err).WithField("idempotency_key").WithCode("idempotency_key_invalid").
			WithRemedy("use a UUID or another short name")
	}
	return checkTTL(c.p.TTL)
}

func checkTTL(ttl time.Duration) error {
	if ttl < 0 || ttl > maxTTL {
		return errs.New(errs.Invalid, "%v is not between 0 (none) and %v", ttl, maxTTL).WithField("timeout").WithCode("timeout_invalid").
			WithRemedy("write a duration such as 90s or 2h; 0 is no time-to-live")
	}
	return nil
}

func (c *creation) minimal() bool { return c.ref.Name == lehr.MinimalTemplate && c.ref.Team == "" }

// find resolves the template and chooses a host for it.
func (s *Service) find(ctx context.Context, c *creation) (err error) {
	c.template, err = s.o.Store.Templates().Resolve(ctx, c.p.TeamID, c.ref)
	if errs.IsKind(err, errs.NotFound) && c.minimal() && c.ref.Tag == lehr.DefaultTag {
		return s.findMinimal(ctx, c)
	}
	if err != nil {
		return err
	}
	v := c.template.Version
	if err := c.size(); err != nil {
		return err
	}
	place := lehr.Placement{TeamID: c.p.TeamID, Resources: c.resources, Artifacts: []lehr.Digest{v.ImageDigest}}
	if v.Type == lehr.TypeSnapshot {
		place.Artifacts, place.Engine = append(place.Artifacts, v.SnapshotDigest), v.EngineDigest
	}
	if c.minimal() {
		place.Artifacts = nil // every host can make it
	}
	return s.choose(ctx, c, place)
}

// findMinimal is for the first sandbox of an installation whose minimal base
// is still being made: it waits for it.
func (s *Service) findMinimal(ctx context.Context, c *creation) (err error) {
	c.template.Version.Resources = lehr.DefaultResources
	if err := c.size(); err != nil {
		return err
	}
	if err := s.choose(ctx, c, lehr.Placement{TeamID: c.p.TeamID, Resources: c.resources}); err != nil {
		return err
	}
	c.template, err = s.o.Bases.Minimal(ctx, c.host)
	return err
}

// choose asks for a host only where the team has room: a place that is chosen
// counts against the host for a while, and whoever is refused takes none from
// others.
func (s *Service) choose(ctx context.Context, c *creation, p lehr.Placement) (err error) {
	if err := s.o.Store.Accounts().RoomForSandbox(ctx, c.p.TeamID, p.Resources); err != nil {
		return err
	}
	if c.hostID, err = s.o.Scheduler.SelectHost(ctx, p); err != nil {
		return err
	}
	c.host, err = s.o.Pool.GetForHost(c.hostID)
	return err
}

// size settles the resources: the template's where the request names none. A
// snapshot has those it was made with.
func (c *creation) size() error {
	v := c.template.Version
	c.resources = v.Resources
	for _, f := range []struct {
		name              string
		given             *int32
		have              *int32
		smallest, largest int32
	}{
		{"vcpus", c.p.VCPUs, &c.resources.VCPUs, lehr.MinResources.VCPUs, lehr.MaxResources.VCPUs},
		{"memory_mb", c.p.MemoryMB, &c.resources.MemoryMB, lehr.MinResources.MemoryMB, lehr.MaxResources.MemoryMB},
		{"disk_mb", c.p.DiskMB, &c.resources.DiskMB, lehr.MinResources.DiskMB, lehr.MaxResources.DiskMB},
	} {
		switch {
		case f.given == nil || *f.given == *f.have:
		case *f.given < f.smallest || *f.given > f.largest:
			return errs.New(errs.Invalid, "%d is not between %d and %d", *f.given, f.smallest, f.largest).WithField(f.name).WithCode("size_invalid").
				WithRemedy("ask for a size between the two, or leave it out for the template's own")
		case v.Type == lehr.TypeSnapshot:
			return errs.New(errs.Invalid, "%d differs from the %d that the snapshot was made with", *f.given, *f.have).
				WithField(f.name).WithCode("size_fixed").WithRemedy("leave it out, or build the template with that size")
		default:
			*f.have = *f.given
		}
	}
	return nil
}

// make records the sandbox, makes it, and records that it runs.
func (s *Service) make(ctx context.Context, c *creation) (lehr.Sandbox, error) {
	box, _, err := s.record(ctx, c)
	defer s.setPending(c.id, nil)
	if err != nil {
		return lehr.Sandbox{}, err
	}
	return s.finish(ctx, c, box)
}

// record writes the sandbox down under a new id, before it exists. created is
// false where the key's sandbox was there already. The caller ends the pending
// work.
func (s *Service) record(ctx context.Context, c *creation) (box lehr.Sandbox, created bool, err error) {
	c.id = lehr.NewSandboxID()
	s.setPending(c.id, &work{})
	box, created, err = s.o.Store.Sandboxes().Create(ctx, store.NewSandbox{RequestDigest: c.digest, Sandbox: lehr.Sandbox{
		ID: c.id, TeamID: c.p.TeamID, Template: c.template.Template.Name + ":" + c.template.Tag, VersionID: c.template.Version.ID,
		HostID: c.hostID, State: lehr.SandboxCreating, Resources: c.resources,
		Metadata: c.p.Metadata, IdempotencyKey: c.p.IdempotencyKey,
	}})
	if err != nil {
		s.setPending(c.id, nil)
	}
	return box, created, err
}

// finish makes a recorded sandbox and records that it runs.
func (s *Service) finish(ctx context.Context, c *creation, box lehr.Sandbox) (lehr.Sandbox, error) {
	v := c.template.Version
	s.hit(ctx, failpoint.BoxAfterInsert)
	token := ""
	if s.o.AccessToken != nil {
		token = s.o.AccessToken(box.ID)
	}
	_, err := c.host.CreateSandbox(ctx, agent.CreateSandbox{
		ID: box.ID, TeamID: c.p.TeamID, TemplateID: v.TemplateID, VersionID: v.ID, Image: v.ImageDigest,
		Snapshot: v.SnapshotDigest, Resources: c.resources, Config: v.Config, Env: c.p.Env, TTL: c.p.TTL, AccessToken: token,
	})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		s.fail(ctx, box, err)
		return lehr.Sandbox{}, err
	}
	return s.begin(ctx, c, box)
}

// fail records why a sandbox could not be made, and takes away what there is.
func (s *Service) fail(ctx context.Context, box lehr.Sandbox, why error) {
	row, cancel := s.rowContext(ctx)
	defer cancel()
	_, err := s.o.Store.Sandboxes().Fail(row, box.ID, lehr.ReasonEngine, sandboxError(why))
	if err != nil && !errs.IsKind(err, errs.Conflict) {
		s.o.Log.Warn("recording a failed sandbox", "sandbox", box.ID, "error", err)
	}
	if err := s.destroy(ctx, box.HostID, box.ID); err != nil {
		s.o.Log.Warn("taking a sandbox away", "sandbox", box.ID, "error", err)
	}
}

// begin records that a sandbox runs, with its time-to-live. Where it was killed
// meanwhile, or cannot be recorded, it is taken away again.
func (s *Service) begin(ctx context.Context, c *creation, box lehr.Sandbox) (lehr.Sandbox, error) {
	s.hit(ctx, failpoint.BoxAfterMake)
	row, cancel := s.rowContext(ctx)
	defer cancel()
	var running lehr.Sandbox
	var err error
	if c.p.TTL > 0 { // first: once the sandbox runs it may be given another
		_, err = s.o.Store.Sandboxes().SetExpiry(row, box.ID, c.p.TTL)
	}
	if err == nil {
		running, err = s.o.Store.Sandboxes().Move(row, box.ID, lehr.SandboxRunning, "")
	}
	if err == nil {
		s.hit(ctx, failpoint.BoxAfterRecord)
		return running, nil
	}
	s.fail(ctx, box, err)
	return lehr.Sandbox{}, err
}

// setPending says that this process works on a creation; nil: no more.
func (s *Service) setPending(id lehr.SandboxID, w *work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.pending[id]; w == nil && known.done != nil {
		close(known.done)
	}
	if w == nil {
		delete(s.pending, id)
		return
	}
	s.pending[id] = *w
}

func (s *Service) isPending(id lehr.SandboxID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.pending[id]
	return ok
}

// envVars returns a map's variables sorted by name.
func envVars(env map[string]string) []lehr.EnvVar {
	vars := make([]lehr.EnvVar, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		vars = append(vars, lehr.EnvVar{Name: name, Value: env[name]})
	}
	return vars
}
