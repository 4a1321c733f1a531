// Package sandbox is the sandbox service: it creates sandboxes from templates,
// runs commands in them, ends them by request or time-to-live, and keeps the
// record in step with what their hosts report.
//
// The store's record says what a caller may rely on; a host may know more or
// less for a moment. Sandboxes of builds are the build service's own and are
// left alone here.
package sandbox

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
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

// Options are the parts a Service works with.
type Options struct {
	Store     store.Store
	Scheduler HostScheduler
	Pool      HostClientPool
	Bases     Bases
	Clock     clock.Clock  // the machine's
	Log       *slog.Logger // discarded
	Timing    Timing       // DefaultTiming
	// AccessToken returns the token of a sandbox's users; nil: they have none.
	AccessToken func(lehr.SandboxID) string
	// Digest makes the digest by which a repeated request is known; it is stored
	// and the request may hold secrets, so it should be keyed. nil: plain SHA-256.
	Digest func([]byte) lehr.Digest
	// Embedded says that no other process works on the store: creations that
	// began before this service are nobody's.
	Embedded bool
}

// Timing is how long the service waits for things; zero fields take their
// value from DefaultTiming.
type Timing struct {
	Expire    time.Duration // between looks for expired sandboxes
	Reconnect time.Duration // between tries to watch a host
	Creating  time.Duration // after which an unfinished creation is an orphan
	Keep      time.Duration // how long records of ended sandboxes are kept
	Forget    time.Duration // between deletions of old records
	RowClean  time.Duration // limit of clean-up writes to the store
	HostClean time.Duration // limit of clean-up calls to a host
}

// DefaultTiming is what the documentation promises.
var DefaultTiming = Timing{
	Expire: time.Second, Reconnect: time.Second, Creating: 2 * time.Minute,
	Keep: 24 * time.Hour, Forget: time.Hour, RowClean: 10 * time.Second, HostClean: 30 * time.Second,
}

// Service is the sandbox service. It is safe for concurrent use.
type Service struct {
	o Options

	began    time.Time
	detached sync.WaitGroup // creations that nobody waits for; Run's end ends them

	// changing keeps changes of one sandbox's time-to-live, on its host and in
	// the record, from overtaking one another; chosen by the id. Who has put one
	// in has its turn.
	changing [64]chan struct{}

	mu      sync.Mutex
	pending map[lehr.SandboxID]work // creations that this process works on
	stopped bool                    // Run has ended: creations that nobody waits for cannot begin
}

// New returns a service on o. It starts nothing; Run keeps the record.
func New(o Options) *Service {
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Digest == nil {
		o.Digest = lehr.DigestOf
	}
	t, d := &o.Timing, DefaultTiming
	for _, f := range []struct{ field, value *time.Duration }{
		{&t.Expire, &d.Expire},
		{&t.Reconnect, &d.Reconnect},
		{&t.Creating, &d.Creating},
		{&t.Keep, &d.Keep},
		{&t.Forget, &d.Forget},
		{&t.RowClean, &d.RowClean},
		{&t.HostClean, &d.HostClean},
	} {
		if *f.field <= 0 {
			*f.field = *f.value
		}
	}
	s := &Service{o: o, began: o.Clock.Now(), pending: map[lehr.SandboxID]work{}}
	for i := range s.changing {
		s.changing[i] = make(chan struct{}, 1)
	}
	return s
}

// Get returns a sandbox. An empty team means any.
func (s *Service) Get(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, error) {
	return s.o.Store.Sandboxes().Get(ctx, team, id)
}

// List returns sandboxes newest first.
func (s *Service) List(ctx context.Context, q store.ListSandboxes) ([]lehr.Sandbox, error) {
	return s.o.Store.Sandboxes().List(ctx, q)
}

// Kill ends a sandbox and everything of it. Killing an ended one is no error.
// Where its host cannot be reached now the record says killed all the same, and
// the host is told when it is back.
func (s *Service) Kill(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, error) {
	box, err := s.Get(ctx, team, id)
	if err != nil || !box.State.Live() {
		return box, err
	}
	return s.end(ctx, box, lehr.SandboxKilled, lehr.ReasonUser)
}

// end records the end of a sandbox, then takes it away from its host. Whoever
// recorded another end first has the last word.
func (s *Service) end(ctx context.Context, box lehr.Sandbox, to lehr.SandboxState, reason lehr.SandboxReason) (lehr.Sandbox, error) {
	row, cancel := s.rowContext(ctx)
	defer cancel()
	ended, err := s.o.Store.Sandboxes().Move(row, box.ID, to, reason)
	if errs.IsKind(err, errs.Conflict) {
		return s.Get(row, "", box.ID)
	}
	if err != nil {
		return lehr.Sandbox{}, err
	}
	s.hit(ctx, failpoint.BoxAfterEnd)
	if err := s.destroy(ctx, box.HostID, box.ID); err != nil {
		s.o.Log.Warn("an ended sandbox is still on its host", "sandbox", box.ID, "host", box.HostID, "error", err)
	}
	s.hit(ctx, failpoint.BoxAfterDestroy)
	return ended, nil
}

// hit passes a failpoint; its error changes nothing.
func (s *Service) hit(ctx context.Context, p failpoint.Point) {
	if err := failpoint.Hit(ctx, p); err != nil {
		s.o.Log.Warn("a failpoint acts", "error", err)
	}
}

// destroy takes a sandbox away from its host, whatever became of ctx.
func (s *Service) destroy(ctx context.Context, hostID lehr.HostID, id lehr.SandboxID) error {
	host, err := s.o.Pool.GetForHost(hostID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Timing.HostClean)
	defer cancel()
	return host.DestroySandbox(ctx, id)
}

func (s *Service) rowContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), s.o.Timing.RowClean)
}

// SetTimeout sets the time-to-live of a live sandbox counted from now; 0
// removes it. Host and record both keep it, the host first: where the second
// fails, the earlier of the two ends counts. Against an end in the same moment
// one wins, and a sandbox that ended is Conflict.
func (s *Service) SetTimeout(ctx context.Context, team lehr.TeamID, id lehr.SandboxID, ttl time.Duration) (lehr.Sandbox, error) {
	if err := checkTTL(ttl); err != nil {
		return lehr.Sandbox{}, err
	}
	turn := s.changing[shard(id)]
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return lehr.Sandbox{}, context.Cause(ctx)
	}
	box, host, err := s.reach(ctx, team, id)
	if err != nil {
		return lehr.Sandbox{}, err
	}
	if box.State == lehr.SandboxCreating {
		return lehr.Sandbox{}, errs.New(errs.Conflict, "sandbox %s is still being made", id).WithCode("sandbox_not_running").
			WithRemedy("try again in a moment")
	}
	if err := host.RenewSandbox(ctx, id, ttl); err != nil {
		return lehr.Sandbox{}, s.explainGone(ctx, box, err)
	}
	set, err := s.o.Store.Sandboxes().SetExpiry(ctx, id, ttl)
	if errs.IsKind(err, errs.Conflict) {
		return lehr.Sandbox{}, s.explainGone(ctx, box, err)
	}
	return set, err
}

// shard spreads ids over the locks of changing.
func shard(id lehr.SandboxID) byte {
	var sum byte
	for i := range len(id) {
		sum = sum*31 + id[i]
	}
	return sum % 64
}

// explainGone says how a sandbox ended where err means that its host, or the
// record, has it as live no more.
func (s *Service) explainGone(ctx context.Context, box lehr.Sandbox, err error) error {
	if !errs.IsKind(err, errs.NotFound) && !errs.IsKind(err, errs.Conflict) {
		return err
	}
	now, getErr := s.Get(ctx, "", box.ID)
	switch {
	case getErr != nil:
		return getErr
	case !now.State.Live():
		return endedError(now)
	}
	return errs.New(errs.Conflict, "sandbox %s has just ended", box.ID).WithCode("sandbox_ended").WithRemedy("create another one")
}

// Pause freezes a running sandbox. Pausing a paused one is no error.
func (s *Service) Pause(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, error) {
	return s.swap(ctx, team, id, swap{
		via: lehr.SandboxPausing, to: lehr.SandboxPaused, back: lehr.SandboxRunning,
		call: agent.Agent.PauseSandbox,
	})
}

// Resume lets a paused sandbox go on. Resuming a running one is no error.
func (s *Service) Resume(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, error) {
	return s.swap(ctx, team, id, swap{
		via: lehr.SandboxResuming, to: lehr.SandboxRunning, back: lehr.SandboxPaused,
		call: agent.Agent.ResumeSandbox,
	})
}

// swap is a move to another live state, by way of one that says so.
type swap struct {
	via, to, back lehr.SandboxState
	call          func(agent.Agent, context.Context, lehr.SandboxID) error
}

func (s *Service) swap(ctx context.Context, team lehr.TeamID, id lehr.SandboxID, w swap) (lehr.Sandbox, error) {
	box, host, err := s.reach(ctx, team, id)
	if err != nil || box.State == w.to {
		return box, err
	}
	boxes := s.o.Store.Sandboxes()
	if _, err := boxes.Move(ctx, id, w.via, ""); err != nil {
		return lehr.Sandbox{}, err
	}
	callErr := w.call(host, ctx, id)
	row, cancel := s.rowContext(ctx)
	defer cancel()
	to := w.to
	if callErr != nil {
		to = w.back
	}
	moved, err := boxes.Move(row, id, to, "")
	if callErr != nil {
		return lehr.Sandbox{}, callErr
	}
	if errs.IsKind(err, errs.Conflict) { // the host's own report was faster, or it ended
		moved, err = s.Get(row, team, id)
		if err == nil && moved.State != w.to {
			err = endedError(moved)
		}
	}
	return moved, err
}

// reach returns a live sandbox and its host.
func (s *Service) reach(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, agent.Agent, error) {
	box, err := s.Get(ctx, team, id)
	if err != nil {
		return lehr.Sandbox{}, nil, err
	}
	if !box.State.Live() {
		return box, nil, endedError(box)
	}
	host, err := s.o.Pool.GetForHost(box.HostID)
	return box, host, err
}

// endedError names how a sandbox ended.
func endedError(box lehr.Sandbox) error {
	how := string(box.State)
	if box.Reason != "" {
		how += " (" + string(box.Reason) + ")"
	}
	return errs.New(errs.Conflict, "sandbox %s is %s", box.ID, how).WithCode("sandbox_ended").
		WithRemedy("create another one")
}
