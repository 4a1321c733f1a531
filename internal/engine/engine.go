// Package engine is the law of isolation: how sandboxes are prepared, started,
// stopped, paused, snapshotted, restored, flattened, listed and destroyed.
//
// A sandbox is made in two steps. Prepare makes a template-less slot of one
// shape (processes, network, cgroup), which may be done ahead of time; Start
// puts one template into it. A slot serves one sandbox, ever.
//
// The suite in enginetest defines what an engine must do; engine/fake and
// engine/gvisor pass it, in process and behind the host RPC. Every method may
// be called concurrently; calls for one slot are serialised by the engine.
package engine

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// SlotID names a slot and the sandbox in it: 26 lower-case characters, chosen
// by the engine.
type SlotID string

// Engine drives one kind of isolation on this machine.
type Engine interface {
	// Info describes the engine; it never changes while the process lives.
	Info() Info

	// Prepare makes a slot of the given shape. When ctx ends first nothing is
	// left behind. Errors: Exhausted, Unavailable.
	Prepare(ctx context.Context, spec PrepareSpec) (SlotID, error)

	// Start puts a template into a prepared slot: it boots the image, or
	// restores the snapshot. When it returns the sandbox's first process runs
	// (it need not answer yet). A failed Start leaves a slot that can only be
	// destroyed. Errors: NotFound (slot), Conflict (slot already used, or its
	// Kind does not fit), Corrupt, Unsupported (the snapshot belongs to another
	// engine or CPU), Unavailable.
	Start(ctx context.Context, slot SlotID, spec StartSpec) error

	// List returns every slot that exists, after a restart of the process too:
	// the engine re-adopts what it finds and lists it. A slot whose sandbox
	// died stays in the list, with its Exit, until it is destroyed.
	List(ctx context.Context) ([]Status, error)

	// Sandbox returns the handle of a started slot. It does no I/O; methods of
	// the handle return NotFound when the slot is gone.
	Sandbox(slot SlotID) Sandbox

	// Destroy removes a slot and everything of it: processes, mounts, network,
	// cgroup, files. It is idempotent, and returns only when all is gone. It
	// goes on in the background when ctx ends first.
	Destroy(ctx context.Context, slot SlotID) error

	// Close releases this process's hold. Started sandboxes keep running and
	// can be re-adopted by a new engine on the same state folder; slots that
	// were never started are destroyed.
	Close() error
}

// Sandbox is one started slot.
type Sandbox interface {
	// Status returns the sandbox's present state.
	Status(ctx context.Context) (Status, error)

	// Wait returns when the sandbox has ended, with the reason.
	Wait(ctx context.Context) (Exit, error)

	// Stop ends every process of the sandbox at once and returns when they are
	// gone. The slot stays, with Exit.Reason "user", until destroyed. Stopping
	// an ended sandbox is not an error.
	Stop(ctx context.Context) error

	// Pause freezes every process; Resume lets them go on. Both are idempotent.
	// Errors: Conflict when the sandbox has ended.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error

	// Snapshot writes memory and CPU state into dir, which exists and is empty,
	// and fsyncs it. The sandbox keeps running. The writable layer must be in
	// the snapshot's reach on restore: the engine stores what it needs in dir.
	Snapshot(ctx context.Context, dir string) (SnapshotInfo, error)

	// WritableLayer writes the changes since the image as an overlayfs-style
	// tar to w (whiteouts are character devices 0:0; opaque directories carry
	// trusted.overlay.opaque). The guest's caches are synced first. The sandbox
	// keeps running; callers stop its processes first when they need a still
	// picture.
	WritableLayer(ctx context.Context, w io.Writer) error

	// Dial connects to a TCP port of the sandbox. The connection breaks at once
	// when the sandbox ends.
	Dial(ctx context.Context, port uint16) (net.Conn, error)
}

// Info describes an engine.
type Info struct {
	Name        string      // "gvisor", "fake"
	Version     string      // of the isolation software
	Digest      lehr.Digest // of the file that runs the sandbox; snapshots fit only this
	CPUFeatures lehr.Digest // of the CPU's feature set; snapshots fit only this
	Platform    string      // "linux/amd64"
}

// Kind says what a slot is prepared for.
type Kind string

// The kinds of slots.
const (
	KindBoot    Kind = "boot"    // will boot an image
	KindRestore Kind = "restore" // will restore a snapshot
)

// PrepareSpec is the shape of a slot.
type PrepareSpec struct {
	Kind      Kind
	Resources lehr.Resources // all three are enforced, see Limits below
	Labels    map[string]string
}

// StartSpec is what goes into a slot. Labels join those of PrepareSpec and are
// returned by List, after a restart too; the agent keeps ids and fences there.
type StartSpec struct {
	Image    Rootfs
	Guest    Rootfs    // mounted read-only at GuestMount; holds the first process
	Snapshot *Snapshot // nil: boot
	Hostname string
	Init     []string // argv of the first process, an absolute path first
	Env      []string // "K=V" of the first process
	Labels   map[string]string
}

// GuestMount is where the guest daemon's own image is mounted in every sandbox.
// It is not part of the root image, of WritableLayer, or writable from inside.
const GuestMount = "/.lehr"

// Rootfs is the read-only image of a sandbox: an EROFS file on this machine
// whose path is derived from its digest and never changes (a restore refuses
// another path).
type Rootfs struct {
	Path   string
	Digest lehr.Digest
}

// Snapshot is memory and CPU state that Snapshot wrote.
type Snapshot struct {
	Dir  string // stays readable until the sandbox has ended
	Info SnapshotInfo
}

// SnapshotInfo says what a snapshot fits; it is stored with the version.
type SnapshotInfo struct {
	Engine      lehr.Digest    `json:"engine"`
	CPUFeatures lehr.Digest    `json:"cpu_features"`
	Image       lehr.Digest    `json:"image"`
	Resources   lehr.Resources `json:"resources"`
	Bytes       int64          `json:"bytes"`
}

// State is where a slot stands.
type State string

// The states of a slot.
const (
	StatePrepared State = "prepared"
	StateStarting State = "starting"
	StateRunning  State = "running"
	StatePaused   State = "paused"
	StateEnded    State = "ended"
)

// Status is one slot as List and Status see it.
type Status struct {
	Slot      SlotID
	State     State
	Exit      *Exit // set when State is ended
	Resources lehr.Resources
	Labels    map[string]string
	StartedAt time.Time
}

// Exit says how a sandbox ended.
//
// Limits are enforced by name: memory beyond Resources.MemoryMB ends the
// sandbox with ReasonOOM, too many processes fail fork in the guest and, past a
// backstop, end it with ReasonPids; a full disk is ENOSPC to the command and
// ends nothing; CPU time beyond Resources.VCPUs is throttled. Death of the
// first process is ReasonGuestLost; everything else is ReasonEngine.
type Exit struct {
	Reason lehr.SandboxReason
	Detail string // for the log, bounded
	At     time.Time
}
