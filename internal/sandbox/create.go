package sandbox

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
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
}

// creation is one sandbox being made.
type creation struct {
	p         CreateParams
	ref       lehr.Ref
	template  lehr.Tagged
	resources lehr.Resources
	hostID    lehr.HostID
	host      agent.Agent
}

// Create answers when a command can run in the new sandbox. Nothing is left
// when it fails but a record that says so. Errors: Invalid, NotFound,
// Exhausted (no host has room), Unsupported (a snapshot that fits no host),
// Unavailable.
func (s *Service) Create(ctx context.Context, p CreateParams) (lehr.Sandbox, error) {
	c := creation{p: p}
	if err := c.check(); err != nil {
		return lehr.Sandbox{}, err
	}
	if err := s.find(ctx, &c); err != nil {
		return lehr.Sandbox{}, err
	}
	made, err := s.make(ctx, &c)
	if errs.CodeOf(err) == "image_missing" && c.minimal() {
		// The recorded minimal is another host's; this one makes its own.
		if c.template, err = s.o.Bases.Minimal(ctx, c.host); err == nil {
			made, err = s.make(ctx, &c)
		}
	}
	return made, err
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
	return checkTTL(c.p.TTL)
}

func checkTTL(ttl time.Duration) error {
	if ttl < 0 || ttl > maxTTL {
		return errs.New(errs.Invalid, "%v is not between 0 (none) and %v", ttl, maxTTL).WithField("timeout").WithCode("timeout_invalid")
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

func (s *Service) choose(ctx context.Context, c *creation, p lehr.Placement) (err error) {
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
			return errs.New(errs.Invalid, "%d is not between %d and %d", *f.given, f.smallest, f.largest).WithField(f.name).WithCode("size_invalid")
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
	v := c.template.Version
	id := lehr.NewSandboxID()
	s.setPending(id, true)
	defer s.setPending(id, false)
	box, _, err := s.o.Store.Sandboxes().Create(ctx, store.NewSandbox{Sandbox: lehr.Sandbox{
		ID: id, TeamID: c.p.TeamID, Template: c.template.Template.Name + ":" + c.template.Tag, VersionID: v.ID,
		HostID: c.hostID, State: lehr.SandboxCreating, Resources: c.resources,
	}})
	if err != nil {
		return lehr.Sandbox{}, err
	}
	_, err = c.host.CreateSandbox(ctx, agent.CreateSandbox{
		ID: id, TeamID: c.p.TeamID, TemplateID: v.TemplateID, VersionID: v.ID, Image: v.ImageDigest,
		Snapshot: v.SnapshotDigest, Resources: c.resources, Config: v.Config, Env: c.p.Env, TTL: c.p.TTL,
	})
	if err != nil {
		if _, endErr := s.end(ctx, box, lehr.SandboxFailed, lehr.ReasonEngine); endErr != nil {
			s.o.Log.Warn("recording a failed sandbox", "sandbox", id, "error", endErr)
		}
		if ctx.Err() != nil {
			return lehr.Sandbox{}, context.Cause(ctx)
		}
		return lehr.Sandbox{}, err
	}
	return s.begin(ctx, c, box)
}

// begin records that a sandbox runs, with its time-to-live. Where it was killed
// meanwhile, or cannot be recorded, it is taken away again.
func (s *Service) begin(ctx context.Context, c *creation, box lehr.Sandbox) (lehr.Sandbox, error) {
	row, cancel := s.rowContext(ctx)
	defer cancel()
	running, err := s.o.Store.Sandboxes().Move(row, box.ID, lehr.SandboxRunning, "")
	if err == nil && c.p.TTL > 0 {
		running, err = s.o.Store.Sandboxes().SetExpiry(row, box.ID, c.p.TTL)
	}
	if err == nil {
		return running, nil
	}
	if _, endErr := s.end(ctx, box, lehr.SandboxFailed, lehr.ReasonEngine); endErr != nil {
		s.o.Log.Warn("recording a failed sandbox", "sandbox", box.ID, "error", endErr)
	}
	if destroyErr := s.destroy(ctx, c.hostID, box.ID); destroyErr != nil {
		s.o.Log.Warn("taking a sandbox away", "sandbox", box.ID, "error", destroyErr)
	}
	return lehr.Sandbox{}, err
}

func (s *Service) setPending(id lehr.SandboxID, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on {
		s.pending[id] = struct{}{}
		return
	}
	delete(s.pending, id)
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
