// Package sandbox is the sandbox service: it creates sandboxes from templates,
// runs commands in them, ends them by request or time-to-live, and keeps the
// record in step with what their hosts report.
package sandbox

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

// Bases makes sure that the platform's own bases exist.
type Bases interface {
	// Minimal waits for the platform template "minimal" and returns it.
	Minimal(ctx context.Context) (lehr.Tagged, error)
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
}

// Timing is how long the service waits for things; zero fields take their
// value from DefaultTiming.
type Timing struct {
	Expire    time.Duration // between looks for expired sandboxes
	Reconnect time.Duration // between tries to watch a host
	Keep      time.Duration // how long records of ended sandboxes are kept
	RowClean  time.Duration // limit of clean-up writes to the store
	HostClean time.Duration // limit of clean-up calls to a host
}

// DefaultTiming is what DESIGN promises.
var DefaultTiming = Timing{
	Expire: time.Second, Reconnect: time.Second, Keep: 24 * time.Hour,
	RowClean: 10 * time.Second, HostClean: 30 * time.Second,
}

// Service is the sandbox service. It is safe for concurrent use.
type Service struct {
	o Options
}

// New returns a service on o. It starts nothing; Run keeps the record.
func New(o Options) *Service { return &Service{o: o} }

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

// ExecParams is one command in a sandbox.
type ExecParams struct {
	TeamID    lehr.TeamID // empty: any team
	SandboxID lehr.SandboxID
	Args      []string // empty: the template's default start command
	Env       map[string]string
	User      string
	Workdir   string
	Timeout   time.Duration // 0: none
	Stdin     []byte        // at most 1 MiB
}

// FileParams names a file of a sandbox.
type FileParams struct {
	TeamID    lehr.TeamID // empty: any team
	SandboxID lehr.SandboxID
	User      string
	Path      string
}

// Create answers when a command can run in the new sandbox. Nothing is left
// when it fails but a record that says so.
func (s *Service) Create(ctx context.Context, p CreateParams) (lehr.Sandbox, error) {
	return lehr.Sandbox{}, errs.New(errs.Unsupported, "not built yet")
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
func (s *Service) Kill(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, error) {
	return lehr.Sandbox{}, errs.New(errs.Unsupported, "not built yet")
}

// SetTimeout sets the time-to-live of a live sandbox counted from now; 0
// removes it.
func (s *Service) SetTimeout(ctx context.Context, team lehr.TeamID, id lehr.SandboxID, ttl time.Duration) (lehr.Sandbox, error) {
	return lehr.Sandbox{}, errs.New(errs.Unsupported, "not built yet")
}

// Pause freezes a running sandbox.
func (s *Service) Pause(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, error) {
	return lehr.Sandbox{}, errs.New(errs.Unsupported, "not built yet")
}

// Resume lets a paused sandbox go on.
func (s *Service) Resume(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, error) {
	return lehr.Sandbox{}, errs.New(errs.Unsupported, "not built yet")
}

// Exec runs a command and streams its output to out as it arrives; out's error
// ends it. The exit is data. The end of ctx kills the command.
func (s *Service) Exec(ctx context.Context, p ExecParams, out agent.Output) (agent.Exit, error) {
	return agent.Exit{}, errs.New(errs.Unsupported, "not built yet")
}

// ReadFile streams a file out of a sandbox.
func (s *Service) ReadFile(ctx context.Context, f FileParams, w io.Writer) error {
	return errs.New(errs.Unsupported, "not built yet")
}

// WriteFile streams a file into a sandbox; missing parents are made.
func (s *Service) WriteFile(ctx context.Context, f FileParams, r io.Reader) error {
	return errs.New(errs.Unsupported, "not built yet")
}

// Run watches the hosts and ends expired sandboxes until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	return errs.New(errs.Unsupported, "not built yet")
}
