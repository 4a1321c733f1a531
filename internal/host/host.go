// Package host is one machine that runs sandboxes: it implements the agent law
// on an engine, a guest daemon and an image store.
//
// Every sandbox has a record on disk, written before the engine is asked for
// anything, so that a restarted host finds what it made: complete sandboxes are
// adopted, half-made ones and slots that nobody knows are destroyed. A sandbox
// that ended by itself gives its resources back at once and stays listed, with
// its reason, until it is destroyed or a day has passed.
package host

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Images is what a host needs of an image store. Paths depend on the digest
// alone and never change.
type Images interface {
	// Has reports whether the image is there.
	Has(d lehr.Digest) bool
	// List returns every image.
	List() ([]agent.Artifact, error)
	// Path returns the image's file, verified once per process. Errors:
	// NotFound, Corrupt.
	Path(ctx context.Context, d lehr.Digest) (string, error)
	// Import makes an image from a stream. Errors: Invalid names the entry.
	Import(ctx context.Context, kind agent.ImportKind, r io.Reader) (agent.Image, error)
	// Resolve says what a reference to a registry's image means now, and Pull
	// makes an image of one that it pinned, or finds it made; tell hears how far
	// it is. Errors as for agent.Bases.
	Resolve(ctx context.Context, r agent.RegistryImage) (agent.ResolvedImage, error)
	Pull(ctx context.Context, r agent.RegistryImage, tell func(agent.PullProgress)) (agent.Image, error)
	// Minimal makes the minimal base where it is missing.
	Minimal(ctx context.Context) (agent.Image, error)
	// Flatten merges an image and an overlayfs-style tar into a durable image.
	Flatten(ctx context.Context, base lehr.Digest, layer io.Reader) (agent.Image, error)
	// Remove deletes an image; idempotent.
	Remove(d lehr.Digest) error
}

// Guest is what a host needs of a sandbox's guest daemon. The sandbox ids in
// requests are the host's business, a Guest ignores them, and all paths of
// files are absolute. Errors of commands
// and files have the codes of the agent law; one that says only that the daemon
// cannot be reached has kind Unavailable.
type Guest interface {
	agent.Commands
	agent.Files
	// Health returns the daemon's version once it answers, asking again until
	// ctx ends.
	Health(ctx context.Context) (version string, err error)
	// Init says whom the daemon serves; a later call replaces an earlier one.
	Init(ctx context.Context, id Identity) error
	// Quiesce ends every process but the daemon and writes out all caches.
	Quiesce(ctx context.Context) error
	// Close ends the connections; the daemon goes on.
	Close() error
}

// Identity is what a sandbox is told about itself.
type Identity struct {
	SandboxID lehr.SandboxID
	// AccessToken admits users; "" admits only the operator.
	AccessToken string
	Hostname    string
	Env         []lehr.EnvVar // default environment, in order
	User        string        // default user, "" is root
	Workdir     string        // default directory
	ResolvConf  string        // content of /etc/resolv.conf, "": left as it is
	Hosts       string        // content of /etc/hosts
}

// GuestAddress is how a guest daemon is reached.
type GuestAddress struct {
	Slot   engine.SlotID
	Dial   func(ctx context.Context, port uint16) (net.Conn, error)
	Secret string // of this sandbox's operator
}

// GuestImage is the image that holds the guest daemon.
type GuestImage struct {
	Rootfs engine.Rootfs
	Init   []string // argv of the daemon in the sandbox
}

// Options of a Host; all are required but where a default is named.
type Options struct {
	ID          lehr.HostID
	Engine      engine.Engine // closed by the caller, after Close
	Images      Images
	Guest       GuestImage
	Connect     func(GuestAddress) Guest              // reaches a guest daemon; does no I/O
	StateDir    string                                // records of sandboxes, mode 0700; made when missing
	SnapshotDir string                                // snapshots by digest; made when missing
	ResolvConf  string                                // of every sandbox; default: the image's own
	Capacity    lehr.Resources                        // what Info reports
	Disk        func() (total, free int64, err error) // of the disk that everything is on, bytes; default: not looked at
	Pool        Pool                                  // default: none
	Clock       clock.Clock                           // default: the machine's
	Log         *slog.Logger                          // default: discarded
}

// Time limits of what a host does by itself; no call is capped by them but the
// start of a sandbox, which ends with the guest daemon's answer.
const (
	startLimit   = 60 * time.Second // from Start to the guest daemon's first answer
	cleanupLimit = 30 * time.Second // of taking one sandbox away
	retention    = 24 * time.Hour   // of the record of an ended sandbox
)

// Host implements agent.Agent. Make it with Open, end it with Close.
type Host struct {
	opt       Options
	log       *slog.Logger
	clock     clock.Clock
	snapshots *snapshotStore
	pool      *pool
	minimal   shared[agent.Image]
	pulls     flights[agent.Image]
	progress  sync.Map // of pulls that are under way: reference to agent.PullProgress

	life context.Context //nolint:containedctx // the host's own life, ended by Close
	end  context.CancelCauseFunc
	work sync.WaitGroup // every goroutine of the host

	mu        sync.Mutex
	sandboxes map[lehr.SandboxID]*sandbox
	removing  map[lehr.Digest]bool // artifacts that are being deleted
	watchers  map[*watcher]bool
	timesUp   chan struct{} // capacity 1: the timekeeper looks again
}

var _ agent.Agent = (*Host)(nil)

var errClosed = errs.New(errs.Unavailable, "the host agent is stopping")

// Open opens a host on its folders and the engine: it adopts the sandboxes that
// are there and destroys what is half-made. Errors: Unavailable, Internal.
func Open(ctx context.Context, o Options) (*Host, error) {
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	snapshots, err := openSnapshots(o.SnapshotDir)
	if err != nil {
		return nil, err
	}
	h := &Host{
		opt: o, log: o.Log, clock: o.Clock, snapshots: snapshots,
		sandboxes: map[lehr.SandboxID]*sandbox{}, removing: map[lehr.Digest]bool{},
		watchers: map[*watcher]bool{}, timesUp: make(chan struct{}, 1),
	}
	h.life, h.end = context.WithCancelCause(context.Background())
	if err := h.adopt(ctx); err != nil {
		_ = h.Close()
		return nil, err
	}
	h.pool = newPool(h.life, o.Engine, o.Pool, h.log)
	h.work.Go(h.keepTime)
	return h, nil
}

// Close ends the host's work and waits for it. Sandboxes keep running and are
// adopted by the next Open; half-made ones are taken away. Calls that are under
// way end with Unavailable.
func (h *Host) Close() error {
	h.mu.Lock()
	h.end(errClosed) // under mu, so that nobody enters any more
	h.mu.Unlock()
	h.work.Wait()
	if h.pool != nil {
		h.pool.wait()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sandboxes {
		s.ports.cut()
		s.closeGuest()
	}
	return nil
}

// enter joins ctx with the host's life; the caller calls leave at the end.
func (h *Host) enter(ctx context.Context) (joined context.Context, leave func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life.Err() != nil {
		return nil, nil, context.Cause(h.life)
	}
	h.work.Add(1)
	joined, release := join(ctx, h.life)
	return joined, func() { release(); h.work.Done() }, nil
}

// spawn runs f as work of the host, unless it is closing.
func (h *Host) spawn(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life.Err() != nil {
		return false
	}
	h.work.Go(f)
	return true
}

// join returns a context with ctx's values that ends with ctx or with life,
// with the cause of whichever ended.
func join(ctx, life context.Context) (context.Context, func()) {
	joined, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(life, func() { cancel(context.Cause(life)) })
	return joined, func() { stop(); cancel(nil) }
}

// Info describes the host as it is now.
func (h *Host) Info(context.Context) (agent.Info, error) {
	e := h.opt.Engine.Info()
	return agent.Info{
		HostID: h.opt.ID, Platform: e.Platform, Engine: e.Name, EngineDigest: e.Digest,
		CPUFeatures: e.CPUFeatures, Guest: string(h.opt.Guest.Rootfs.Digest),
		Capacity: h.opt.Capacity, Free: h.free(),
		Disk: h.disk(), Pool: h.pool.state(),
	}, nil
}

// free is the capacity without what live sandboxes were promised; it may be
// negative where placement overcommits.
func (h *Host) free() lehr.Resources {
	h.mu.Lock()
	defer h.mu.Unlock()
	free := h.opt.Capacity
	for _, s := range h.sandboxes {
		if s.rec.State.Live() {
			free.VCPUs -= s.rec.Resources.VCPUs
			free.MemoryMB -= s.rec.Resources.MemoryMB
			free.DiskMB -= s.rec.Resources.DiskMB
		}
	}
	return free
}
