// Package agenttest has a scripted host for tests of the control plane: it
// keeps sandboxes and artifacts in memory, runs commands with a function of the
// test, and fails, blocks or breaks off where a test says so.
package agenttest

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Script plays the part of a command.
type Script func(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error)

// Hook is called at the begin of every call with the method's name; its error
// is the call's. It may block.
type Hook func(ctx context.Context, method string, id lehr.SandboxID) error

// Host is an agent.Agent in memory. Set the exported fields before use.
type Host struct {
	ID       lehr.HostID
	Capacity lehr.Resources
	Minimal  lehr.ImageConfig
	Run      Script // commands; nil: all succeed silently
	Hook     Hook   // may be nil
	// Connect reaches a port of a running sandbox; nil: nothing listens.
	Connect func(ctx context.Context, id lehr.SandboxID, port uint16) (net.Conn, error)

	ArtifactAge time.Duration                  // what ListArtifacts says of each
	Details     map[lehr.Digest]agent.Artifact // what it says of these
	Disk        agent.Disk                     // what Info says
	Repeat      int                            // so many artifacts of a kind, then the same again; 0: never the same

	mu        sync.Mutex
	boxes     map[lehr.SandboxID]*box
	artifacts map[lehr.Digest]bool
	offers    map[string]RegistryBase // by reference
	calls     []string
	changed   chan struct{}
	made      int
}

// box is a sandbox; its fields are guarded by Host.mu.
type box struct {
	agent.Sandbox
	request agent.CreateSandbox
	ended   chan struct{} // closed when the sandbox ends
	files   map[string][]byte
}

var _ agent.Agent = (*Host)(nil)

// NewHost returns an empty host of a common size whose minimal base has apt.
func NewHost() *Host {
	return &Host{
		ID:        lehr.NewHostID(),
		Capacity:  lehr.Resources{VCPUs: 8, MemoryMB: 16384, DiskMB: 200000},
		Minimal:   lehr.ImageConfig{Debian: true},
		boxes:     map[lehr.SandboxID]*box{},
		artifacts: map[lehr.Digest]bool{},
		changed:   make(chan struct{}),
	}
}

// Calls returns the methods called so far, "Method" or "Method sandbox".
func (h *Host) Calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// SetDisk says what Info tells of the disk from now on.
func (h *Host) SetDisk(d agent.Disk) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Disk = d
}

func (h *Host) disk() agent.Disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.Disk
}

// Live returns the sandboxes that exist, in order of their ids.
func (h *Host) Live() []agent.Sandbox {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []agent.Sandbox
	for _, id := range slices.Sorted(maps.Keys(h.boxes)) {
		all = append(all, h.boxes[id].Sandbox)
	}
	return all
}

// Request returns what a sandbox was created with.
func (h *Host) Request(id lehr.SandboxID) agent.CreateSandbox {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.boxes[id]; ok {
		return b.request
	}
	return agent.CreateSandbox{}
}

// ArtifactList returns the digests of what the host holds.
func (h *Host) ArtifactList() []lehr.Digest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.artifacts))
}

// AddArtifact makes the host hold d.
func (h *Host) AddArtifact(d lehr.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.artifacts[d] = true
}

// End ends a sandbox by itself, as an exceeded limit does; commands in it break
// off.
func (h *Host) End(id lehr.SandboxID, reason lehr.SandboxReason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.boxes[id]; ok && b.State.Live() {
		b.State, b.Reason = lehr.SandboxFailed, reason
		close(b.ended)
		h.announce()
	}
}

// Lose forgets a sandbox without a trace.
func (h *Host) Lose(id lehr.SandboxID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(id)
}

func (h *Host) announce() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *Host) enter(ctx context.Context, method string, id lehr.SandboxID) error {
	h.mu.Lock()
	h.calls = append(h.calls, method)
	hook := h.Hook
	h.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, method, id); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Info describes the host.
func (h *Host) Info(ctx context.Context) (agent.Info, error) {
	if err := h.enter(ctx, "Info", ""); err != nil {
		return agent.Info{}, err
	}
	return agent.Info{
		HostID: h.ID, Platform: "linux/amd64", Engine: "scripted", EngineDigest: lehr.DigestOf([]byte("engine")),
		Capacity: h.Capacity, Free: h.Capacity, Disk: h.disk(),
	}, nil
}

// CreateSandbox makes a sandbox of an artifact that the host holds.
func (h *Host) CreateSandbox(ctx context.Context, r agent.CreateSandbox) (agent.Sandbox, error) {
	if err := h.enter(ctx, "CreateSandbox", r.ID); err != nil {
		return agent.Sandbox{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.boxes[r.ID]; ok {
		return agent.Sandbox{}, errs.New(errs.Exists, "sandbox %s exists", r.ID)
	}
	if !h.artifacts[r.Image] {
		return agent.Sandbox{}, errs.New(errs.NotFound, "image %s is not on this host", r.Image).WithCode("image_missing")
	}
	if r.Snapshot != "" && !h.artifacts[r.Snapshot] {
		return agent.Sandbox{}, errs.New(errs.NotFound, "snapshot %s is not on this host", r.Snapshot).WithCode("snapshot_missing")
	}
	b := &box{request: r, ended: make(chan struct{}), files: map[string][]byte{}}
	b.Sandbox = agent.Sandbox{ID: r.ID, TeamID: r.TeamID, Fence: r.Fence, State: lehr.SandboxRunning, Resources: r.Resources}
	h.boxes[r.ID] = b
	h.announce()
	return b.Sandbox, nil
}

// DestroySandbox removes a sandbox; commands in it break off.
func (h *Host) DestroySandbox(ctx context.Context, id lehr.SandboxID) error {
	if err := h.enter(ctx, "DestroySandbox", id); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(id)
	return nil
}

func (h *Host) remove(id lehr.SandboxID) {
	b, ok := h.boxes[id]
	if !ok {
		return
	}
	if b.State.Live() {
		close(b.ended)
	}
	delete(h.boxes, id)
	h.announce()
}

// RenewSandbox records the time-to-live; nothing expires by itself here.
func (h *Host) RenewSandbox(ctx context.Context, id lehr.SandboxID, ttl time.Duration) error {
	return h.with(ctx, "RenewSandbox", id, func(b *box) error {
		b.ExpiresAt = time.Time{}
		if ttl > 0 {
			b.ExpiresAt = time.Now().Add(ttl)
		}
		return nil
	})
}

// PauseSandbox moves a sandbox to paused.
func (h *Host) PauseSandbox(ctx context.Context, id lehr.SandboxID) error {
	return h.with(ctx, "PauseSandbox", id, func(b *box) error { return h.move(b, lehr.SandboxPaused) })
}

// ResumeSandbox moves a sandbox to running.
func (h *Host) ResumeSandbox(ctx context.Context, id lehr.SandboxID) error {
	return h.with(ctx, "ResumeSandbox", id, func(b *box) error { return h.move(b, lehr.SandboxRunning) })
}

func (h *Host) move(b *box, to lehr.SandboxState) error {
	if !b.State.Live() {
		return errs.New(errs.Conflict, "sandbox %s is %s", b.ID, b.State).WithCode("sandbox_ended")
	}
	b.State = to
	h.announce()
	return nil
}

// GetSandbox returns one sandbox.
func (h *Host) GetSandbox(ctx context.Context, id lehr.SandboxID) (agent.Sandbox, error) {
	var s agent.Sandbox
	err := h.with(ctx, "GetSandbox", id, func(b *box) error { s = b.Sandbox; return nil })
	return s, err
}

func (h *Host) with(ctx context.Context, method string, id lehr.SandboxID, f func(*box) error) error {
	if err := h.enter(ctx, method, id); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	b, ok := h.boxes[id]
	if !ok {
		return errs.New(errs.NotFound, "sandbox %s is not on this host", id)
	}
	return f(b)
}

// ListSandboxes returns all sandboxes.
func (h *Host) ListSandboxes(ctx context.Context) ([]agent.Sandbox, error) {
	if err := h.enter(ctx, "ListSandboxes", ""); err != nil {
		return nil, err
	}
	return h.Live(), nil
}

// WatchSandboxes reports every sandbox after each change of any.
func (h *Host) WatchSandboxes(ctx context.Context, f func(agent.Sandbox) error) error {
	if err := h.enter(ctx, "WatchSandboxes", ""); err != nil {
		return err
	}
	last := map[lehr.SandboxID]lehr.SandboxState{}
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		for _, s := range h.Live() {
			if state, known := last[s.ID]; known && state == s.State {
				continue
			}
			last[s.ID] = s.State
			if err := f(s); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
