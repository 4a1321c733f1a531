// Package template is the template service: it lists, shows, imports and
// removes templates, and frees the artifacts that no version refers to.
package template

import (
	"context"
	"io"
	"log/slog"
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
}

// Service is the template service. It is safe for concurrent use.
type Service struct {
	o Options
}

// New returns a service on o. It starts nothing; Run collects garbage.
func New(o Options) *Service { return &Service{o: o} }

// List returns the team's and the platform's templates, newest version first.
func (s *Service) List(ctx context.Context, q store.ListTemplates) ([]lehr.Tagged, error) {
	return s.o.Templates.List(ctx, q)
}

// Get finds one template version by NAME, NAME:TAG or template id; without a
// tag the default one, else the newest version.
func (s *Service) Get(ctx context.Context, team lehr.TeamID, name string) (lehr.Tagged, error) {
	return lehr.Tagged{}, errs.New(errs.Unsupported, "not built yet")
}

// Remove deletes a tag (NAME:TAG) or a whole template (NAME or id). Conflict
// names what would be orphaned.
func (s *Service) Remove(ctx context.Context, team lehr.TeamID, name string) error {
	return errs.New(errs.Unsupported, "not built yet")
}

// Import makes a base template of the team from a stream. Its name is
// "upload-" and 16 hex digits of the image's digest, so the same content is the
// same template. Invalid names the offending entry.
func (s *Service) Import(ctx context.Context, team lehr.TeamID, kind agent.ImportKind, r io.Reader) (lehr.Tagged, error) {
	return lehr.Tagged{}, errs.New(errs.Unsupported, "not built yet")
}

// Run frees the artifacts of versions that nothing refers to, again and again,
// until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	return errs.New(errs.Unsupported, "not built yet")
}
