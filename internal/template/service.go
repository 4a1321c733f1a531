// Package template is the template service: it lists, shows, imports and
// removes templates, makes the platform's own base, and frees the artifacts
// that no version refers to.
package template

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// HostScheduler chooses the host that an upload goes to.
type HostScheduler interface {
	// SelectHost returns the best host for p.
	SelectHost(ctx context.Context, p lehr.Placement) (lehr.HostID, error)
}

// HostClientPool knows how to reach hosts.
type HostClientPool interface {
	// GetForHost returns the agent of a host; Unavailable where it cannot be
	// reached now.
	GetForHost(host lehr.HostID) (agent.Agent, error)
}

// Options are the parts a Service works with.
type Options struct {
	Templates store.Templates
	Hosts     store.Hosts
	Scheduler HostScheduler
	Pool      HostClientPool
	Clock     clock.Clock   // the machine's
	Log       *slog.Logger  // discarded
	Collect   time.Duration // between garbage collections; 1 minute when zero
	Young     time.Duration // age below which what nobody claims is left alone; 10 minutes when zero
	Pressure  time.Duration // between looks at the hosts' disks; 5 s when zero
	// CacheIdle is how long a base from a registry stays that nobody uses; 7
	// days when zero. CacheBytes is what such bases may take together on a host; a
	// fifth of its disk when zero.
	CacheIdle  time.Duration
	CacheBytes int64
	// Embedded says that no other process works on the store: what is older than
	// this service and has no version belongs to nobody.
	Embedded bool
	// Held is told what a host holds whenever a collection looks, Freed what was
	// removed; nobody when nil.
	Held  func(lehr.HostID, agent.Info, []agent.Artifact)
	Freed func(lehr.HostID, agent.Artifact)
}

// Service is the template service. It is safe for concurrent use.
type Service struct {
	o       Options
	removed chan struct{} // capacity 1: there may be garbage
	began   time.Time

	mu sync.Mutex // one record of the minimal base at a time
}

// New returns a service on o. It starts nothing; Run collects garbage.
func New(o Options) *Service {
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Collect <= 0 {
		o.Collect = time.Minute
	}
	if o.Young <= 0 {
		o.Young = 10 * time.Minute
	}
	if o.Pressure <= 0 {
		o.Pressure = 5 * time.Second
	}
	if o.CacheIdle <= 0 {
		o.CacheIdle = 7 * 24 * time.Hour
	}
	if o.Held == nil {
		o.Held = func(lehr.HostID, agent.Info, []agent.Artifact) {}
	}
	if o.Freed == nil {
		o.Freed = func(lehr.HostID, agent.Artifact) {}
	}
	return &Service{o: o, removed: make(chan struct{}, 1), began: o.Clock.Now()}
}

// List returns the team's and the platform's templates, newest version first.
func (s *Service) List(ctx context.Context, q store.ListTemplates) ([]lehr.Tagged, error) {
	return s.o.Templates.List(ctx, q)
}

// Get finds one template version by NAME, NAME:TAG, TEAM/NAME:TAG or template
// id, in the team, then among the platform's; without a tag the default one,
// else the newest version that has a tag.
func (s *Service) Get(ctx context.Context, team lehr.TeamID, name string) (lehr.Tagged, error) {
	if id, err := lehr.ParseTemplateID(name); err == nil {
		return s.newest(ctx, team, string(id))
	}
	ref, err := parseRef(name)
	if err != nil {
		return lehr.Tagged{}, err
	}
	found, err := s.o.Templates.Resolve(ctx, team, ref)
	if errs.IsKind(err, errs.NotFound) && ref.Team == "" && !tagged(name) {
		return s.newest(ctx, team, ref.Name)
	}
	return found, err
}

// newest returns the default tag's version of a template, else the newest one.
func (s *Service) newest(ctx context.Context, team lehr.TeamID, idOrName string) (lehr.Tagged, error) {
	all, err := s.o.Templates.Get(ctx, team, idOrName)
	if errs.IsKind(err, errs.NotFound) {
		all, err = s.o.Templates.Get(ctx, lehr.PlatformTeam, idOrName)
	}
	if err != nil {
		return lehr.Tagged{}, err
	}
	best := all[0] // newest first, never empty
	for _, t := range all {
		if t.Tag == lehr.DefaultTag {
			return t, nil
		}
	}
	return best, nil
}

// Remove deletes a tag (NAME:TAG) or a whole template (NAME or id) of the team.
// Conflict names what would be orphaned. Artifacts go later, once nothing
// refers to them.
func (s *Service) Remove(ctx context.Context, team lehr.TeamID, name string) error {
	target, tag := name, ""
	if _, err := lehr.ParseTemplateID(name); err == nil {
		all, err := s.o.Templates.Get(ctx, team, name)
		if err != nil {
			return err
		}
		target = all[0].Template.Name
	} else {
		ref, err := parseRef(name)
		if err != nil {
			return err
		}
		if ref.Team != "" {
			return errs.New(errs.Invalid, "%q names a team: only the own team's templates can be removed", name).WithField("name")
		}
		target = ref.Name
		if tagged(name) {
			tag = ref.Tag
		}
	}
	if err := s.o.Templates.Remove(ctx, team, target, tag); err != nil {
		return err
	}
	select {
	case s.removed <- struct{}{}:
	default:
	}
	return nil
}

// Tag points a tag of one of the team's templates at the version that NAME,
// NAME:TAG or a template's id stands for; a tag that exists moves. The
// platform's templates are the platform's to tag.
func (s *Service) Tag(ctx context.Context, team lehr.TeamID, name, tag string) (lehr.Tagged, error) {
	found, err := s.Get(ctx, team, name)
	if err != nil {
		return lehr.Tagged{}, err
	}
	to, err := lehr.ParseRef(found.Template.Name + ":" + tag)
	if err != nil || tag == "" {
		return lehr.Tagged{}, errs.New(errs.Invalid, "%.140q is not a tag", tag).WithField("tag").WithCode("tag_invalid").
			WithRemedy("use up to 128 lower-case letters, digits, dots, hyphens and underscores")
	}
	if found.Template.TeamID != team {
		return lehr.Tagged{}, errs.New(errs.PermissionDenied, "%s is a template of the platform", found.Template.Name).WithField("name").
			WithCode("platform_template").WithRemedy("build a template of your own from it, with FROM %s", found.Template.Name)
	}
	return s.o.Templates.Tag(ctx, team, found.Template.Name, found.Tag, to.Tag)
}

func parseRef(name string) (lehr.Ref, error) {
	ref, err := lehr.ParseRef(name)
	if err != nil {
		return lehr.Ref{}, errs.New(errs.Invalid, "%w", err).WithField("name").WithCode("name_invalid").
			WithRemedy("write NAME or NAME:TAG")
	}
	return ref, nil
}

// tagged reports whether a reference that was parsed names a tag.
func tagged(name string) bool {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == ':' {
			return true
		}
	}
	return false
}

// uploadDigits is how much of an image's digest names an uploaded base.
const uploadDigits = 16

// Import makes a base template of the team from a stream. Its name is
// "upload-" and 16 hex digits of the image's digest, so the same content is the
// same template. Invalid names the offending entry.
func (s *Service) Import(ctx context.Context, team lehr.TeamID, kind agent.ImportKind, r io.Reader) (lehr.Tagged, error) {
	id, err := s.o.Scheduler.SelectHost(ctx, lehr.Placement{TeamID: team})
	if err != nil {
		return lehr.Tagged{}, err
	}
	host, err := s.o.Pool.GetForHost(id)
	if err != nil {
		return lehr.Tagged{}, err
	}
	info, err := host.Info(ctx)
	if err != nil {
		return lehr.Tagged{}, err
	}
	image, err := host.ImportImage(ctx, kind, r)
	if err != nil {
		return lehr.Tagged{}, err
	}
	name := "upload-" + image.Digest.Hex()[:uploadDigits]
	return s.record(ctx, host, name, version(team, info, image))
}

// Minimal returns the platform template "minimal" as it is on the host of a,
// which makes it first where it has none. Until artifacts are distributed each
// host makes its own; the record names the one that was asked for last.
func (s *Service) Minimal(ctx context.Context, a agent.Agent) (lehr.Tagged, error) {
	for try := 1; ; try++ {
		made, err := s.minimal(ctx, a)
		if errs.CodeOf(err) != codeRemoved || try == makeTries {
			return made, err
		}
	}
}

func (s *Service) minimal(ctx context.Context, a agent.Agent) (lehr.Tagged, error) {
	image, err := a.MakeMinimal(ctx)
	if err != nil {
		return lehr.Tagged{}, err
	}
	info, err := a.Info(ctx)
	if err != nil {
		return lehr.Tagged{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := version(lehr.PlatformTeam, info, image)
	v.BaseTemplate = image.Source
	return s.record(ctx, a, lehr.MinimalTemplate, v)
}

// version is the row of an image that no build made.
func version(team lehr.TeamID, info agent.Info, image agent.Image) lehr.Version {
	return lehr.Version{
		ID: lehr.NewVersionID(), TeamID: team, Type: lehr.TypeBase, Platform: info.Platform,
		ImageDigest: image.Digest, BaseDigest: image.Digest, SizeBytes: image.Bytes,
		Resources: lehr.DefaultResources, Config: image.Config,
	}
}
