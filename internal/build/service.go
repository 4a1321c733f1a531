// Package build is the build service: it validates requests, queues them, and
// runs workers that claim builds, place them on hosts and carry out their plan
// until a version is published.
//
// The service keeps nothing that matters in memory: claims, states, leases and
// logs are the store's, wake-ups and cancels the bus's, sandboxes the hosts'.
// Any number of processes run it side by side over one store.
package build

import (
	"context"
	"log/slog"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/bus"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// HostScheduler chooses hosts.
type HostScheduler interface {
	// SelectHost returns the best host for p. Exhausted names the reason of
	// every refusal.
	SelectHost(ctx context.Context, p lehr.Placement) (lehr.HostID, error)
}

// HostClientPool knows how to reach hosts.
type HostClientPool interface {
	// GetForHost returns the agent of a host; Unavailable where it cannot be
	// reached now.
	GetForHost(host lehr.HostID) (agent.Agent, error)
}

// Options are the parts a BuildService works with; all are required but where
// a default is named.
type Options struct {
	Store     store.Store
	Bus       bus.Bus
	Scheduler HostScheduler
	Pool      HostClientPool
	Clock     clock.Clock  // the machine's
	Log       *slog.Logger // discarded
	Timing    Timing       // DefaultTiming
}

// Timing is how long the service waits for things; zero fields take their
// value from DefaultTiming.
type Timing struct {
	Lease     time.Duration // of an attempt
	Renew     time.Duration // between renewals of the lease
	Poll      time.Duration // longest wait for a wake-up
	Reap      time.Duration // between looks for expired leases
	Sweep     time.Duration // between looks for attempts to clean up
	Unplaced  time.Duration // after which a pending build fails
	Follow    time.Duration // longest wait of a follower for a signal
	RowClean  time.Duration // limit of clean-up writes to the store
	HostClean time.Duration // limit of clean-up calls to a host
}

// DefaultTiming is what DESIGN promises.
var DefaultTiming = Timing{
	Lease: 15 * time.Second, Renew: 5 * time.Second, Poll: 2 * time.Second,
	Reap: 2 * time.Second, Sweep: time.Second, Unplaced: 40 * time.Minute,
	Follow: time.Second, RowClean: 10 * time.Second, HostClean: 30 * time.Second,
}

// BuildService creates, shows, cancels and runs builds. It is safe for
// concurrent use.
type BuildService struct {
	o Options
}

// New returns a service on o. It starts nothing.
func New(o Options) *BuildService { return &BuildService{o: o} }

// CreateParams is a request for a build, before defaults. Pointers and zero
// values mean "not given".
type CreateParams struct {
	TeamID         lehr.TeamID
	Name           string // NAME or NAME:TAG
	BaseTemplate   string // FROM, else minimal
	Recipe         []string
	Healthcheck    string
	VCPUs          *int32
	MemoryMB       *int32
	DiskMB         *int32
	SkipPrePost    bool
	BuildArgs      map[string]string
	NoCache        bool
	Limits         LimitParams
	Priority       int32
	IdempotencyKey string
}

// LimitParams are time limits; nil means the default, 0 the build's own limit.
type LimitParams struct {
	Run, PrePost, Healthcheck, Build *time.Duration
}

// LogQuery selects log lines of a build.
type LogQuery struct {
	TeamID  lehr.TeamID // empty: any team
	BuildID lehr.BuildID
	After   int64 // lines with a greater seq
	Follow  bool  // go on until the build has ended and everything was delivered
}

// Create validates p, records a pending build and wakes a worker. created is
// false where the idempotency key named an earlier build, which is returned.
// Invalid names every problem at once; nothing exists then.
func (s *BuildService) Create(ctx context.Context, p CreateParams) (build lehr.Build, created bool, err error) {
	return lehr.Build{}, false, errs.New(errs.Unsupported, "not built yet")
}

// Get returns a build with the steps of its current attempt. An empty team
// means any.
func (s *BuildService) Get(ctx context.Context, team lehr.TeamID, id lehr.BuildID) (lehr.Build, error) {
	return s.o.Store.Builds().Get(ctx, team, id)
}

// List returns builds newest first, without steps and logs.
func (s *BuildService) List(ctx context.Context, q store.ListBuilds) ([]lehr.Build, error) {
	return s.o.Store.Builds().List(ctx, q)
}

// Cancel ends a pending or running build from any control-plane process; it is
// cancelled when Cancel returns, and its sandbox goes soon after. A finished
// build is Conflict, its state named.
func (s *BuildService) Cancel(ctx context.Context, team lehr.TeamID, id lehr.BuildID) (lehr.Build, error) {
	return lehr.Build{}, errs.New(errs.Unsupported, "not built yet")
}
