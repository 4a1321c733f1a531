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
	"github.com/lehr-dev/lehr/internal/failpoint"
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

// Bases makes the platform's own bases where they are missing.
type Bases interface {
	// Minimal returns the version of the platform template "minimal" whose image
	// is on the host of a, which makes it first where it has none.
	Minimal(ctx context.Context, a agent.Agent) (lehr.Tagged, error)
}

// Options are the parts a BuildService works with; all are required but where
// a default is named.
type Options struct {
	Store     store.Store
	Bus       bus.Bus
	Scheduler HostScheduler
	Pool      HostClientPool
	Bases     Bases
	Vault     Vault        // of logins; nil: none are taken
	Clock     clock.Clock  // the machine's
	Log       *slog.Logger // discarded
	Timing    Timing       // DefaultTiming
}

// Timing is how long the service waits for things; zero fields take their
// value from DefaultTiming.
type Timing struct {
	Lease       time.Duration // of an attempt
	Renew       time.Duration // between renewals of the lease
	Poll        time.Duration // longest wait for a wake-up
	Reap        time.Duration // between looks for expired leases
	Sweep       time.Duration // between looks for attempts to clean up
	Grace       time.Duration // left to another process to clean up its attempts
	Unplaced    time.Duration // after which a build that no host takes fails
	Unfit       time.Duration // after which a build fails that is too large for every host
	Replace     time.Duration // between tries to place the next sandbox of an attempt
	Cool        time.Duration // of a worker that lost an attempt; doubled by each one the build lost before
	StartSettle time.Duration // that a START is given to fail in before the snapshot
	Follow      time.Duration // longest wait of a follower for a signal
	RowClean    time.Duration // limit of clean-up writes to the store
	HostClean   time.Duration // limit of clean-up calls to a host
	KeepLogs    time.Duration // of ended builds
	ExpireLogs  time.Duration // between deletions of old logs
}

// DefaultTiming is what the documentation promises.
var DefaultTiming = Timing{
	Lease: 15 * time.Second, Renew: 5 * time.Second, Poll: 2 * time.Second,
	Reap: 2 * time.Second, Sweep: time.Second, Grace: 20 * time.Second,
	Unplaced: 40 * time.Minute, Unfit: 30 * time.Second, Replace: 500 * time.Millisecond, Cool: 500 * time.Millisecond, StartSettle: 500 * time.Millisecond, Follow: time.Second,
	RowClean: 10 * time.Second, HostClean: 30 * time.Second,
	KeepLogs: 30 * 24 * time.Hour, ExpireLogs: time.Hour,
}

// BuildService creates, shows, cancels and runs builds. It is safe for
// concurrent use.
type BuildService struct {
	o Options
}

// New returns a service on o. It starts nothing.
func New(o Options) *BuildService {
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Timing.fill()
	return &BuildService{o: o}
}

// fill sets what is zero to its default.
func (t *Timing) fill() {
	d := DefaultTiming
	for _, f := range []struct{ field, value *time.Duration }{
		{&t.Lease, &d.Lease},
		{&t.Renew, &d.Renew},
		{&t.Poll, &d.Poll},
		{&t.Reap, &d.Reap},
		{&t.Sweep, &d.Sweep},
		{&t.Grace, &d.Grace},
		{&t.Unplaced, &d.Unplaced},
		{&t.Unfit, &d.Unfit},
		{&t.Replace, &d.Replace},
		{&t.Cool, &d.Cool},
		{&t.StartSettle, &d.StartSettle},
		{&t.Follow, &d.Follow},
		{&t.RowClean, &d.RowClean},
		{&t.HostClean, &d.HostClean},
		{&t.KeepLogs, &d.KeepLogs},
		{&t.ExpireLogs, &d.ExpireLogs},
	} {
		if *f.field <= 0 {
			*f.field = *f.value
		}
	}
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
	b, err := s.o.Store.Builds().Cancel(ctx, team, id)
	if err != nil {
		return lehr.Build{}, err
	}
	if err := failpoint.Hit(ctx, failpoint.CancelAfterCommit); err != nil {
		s.o.Log.Warn("a cancel was not signalled", "build", id, "error", err)
		return b, nil
	}
	s.signal(ctx, bus.CancelTopic(id))
	s.announce(ctx, id)
	return b, nil
}

// announce tells followers that a build or its log changed.
func (s *BuildService) announce(ctx context.Context, id lehr.BuildID) {
	s.signal(ctx, bus.BuildTopic(id))
}

// signalLimit bounds a signal: it is a hint, and polling makes up for it.
const signalLimit = 2 * time.Second

// signal publishes whatever became of ctx; a failure costs a poll interval.
func (s *BuildService) signal(ctx context.Context, topic bus.Topic) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signalLimit)
	defer cancel()
	if err := s.o.Bus.Publish(ctx, topic); err != nil {
		s.o.Log.Debug("a signal was lost", "topic", topic, "error", err)
	}
}

// push wakes a worker; a failure costs a poll interval.
func (s *BuildService) push(ctx context.Context, id lehr.BuildID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signalLimit)
	defer cancel()
	if err := s.o.Bus.PushBuild(ctx, id); err != nil {
		s.o.Log.Debug("a wake-up was lost", "build", id, "error", err)
	}
}
