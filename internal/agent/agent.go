// Package agent is the law between control plane and host: what a control plane
// asks of the agent on a host. internal/host implements it on an engine;
// internal/hostrpc carries it over Connect, as lehr.host.v1.HostAgentService.
//
// Everything that comes back from a sandbox is hostile: sizes are bounded and
// no path is trusted. Methods are safe for concurrent use. No call has a hidden
// time cap; ctx and the Timeout fields are the only limits.
package agent

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// Agent is everything a host offers.
type Agent interface {
	// Info describes the host as it is now.
	Info(ctx context.Context) (Info, error)
	Sandboxes
	Commands
	Files
	Ports
	Artifacts
	Bases
}

// Info describes a host.
type Info struct {
	HostID       lehr.HostID
	Platform     string
	Engine       string
	EngineDigest lehr.Digest
	CPUFeatures  lehr.Digest
	Guest        string // guest daemon's version
	Capacity     lehr.Resources
	Free         lehr.Resources
	Disk         Disk
	Pool         Pool
}

// Disk is how full a host's disk is; all zero where that is not known.
type Disk struct {
	TotalBytes   int64
	FreeBytes    int64
	ReserveBytes int64 // with less than that free, new work is refused
}

// Low reports whether the disk is near its end.
func (d Disk) Low() bool { return d.TotalBytes > 0 && d.FreeBytes < d.ReserveBytes }

// Pool is the slots that a host keeps ready.
type Pool struct {
	Ready int32
	Size  int32
}

// Sandboxes makes and ends sandboxes.
type Sandboxes interface {
	// CreateSandbox answers when a command can run. The id is chosen by the
	// caller; creating an existing id is Exists. When it fails or ctx ends
	// nothing is left. Errors: NotFound with code "image_missing" or
	// "snapshot_missing", Exhausted, Unsupported (snapshot does not fit),
	// Corrupt, Unavailable.
	CreateSandbox(ctx context.Context, r CreateSandbox) (Sandbox, error)
	// DestroySandbox removes a sandbox and everything of it; idempotent.
	DestroySandbox(ctx context.Context, id lehr.SandboxID) error
	// RenewSandbox sets the time-to-live counted from now; 0 removes it. The
	// agent destroys an expired sandbox by itself, so a build's sandbox does not
	// outlive a lost control plane.
	RenewSandbox(ctx context.Context, id lehr.SandboxID, ttl time.Duration) error
	PauseSandbox(ctx context.Context, id lehr.SandboxID) error
	ResumeSandbox(ctx context.Context, id lehr.SandboxID) error
	GetSandbox(ctx context.Context, id lehr.SandboxID) (Sandbox, error)
	// ListSandboxes returns all sandboxes, ended ones until they are destroyed.
	ListSandboxes(ctx context.Context) ([]Sandbox, error)
	// WatchSandboxes calls f with every sandbox once, then again after each
	// change of state, until ctx ends or f fails.
	WatchSandboxes(ctx context.Context, f func(Sandbox) error) error
}

// CreateSandbox is a request for a sandbox.
type CreateSandbox struct {
	ID         lehr.SandboxID
	TeamID     lehr.TeamID
	TemplateID lehr.TemplateID
	VersionID  lehr.VersionID
	Fence      lehr.Fence // of a build's sandbox; zero otherwise
	Image      lehr.Digest
	Snapshot   lehr.Digest // empty: boot the image
	Resources  lehr.Resources
	Config     lehr.ImageConfig  // default environment, user and directory
	Env        map[string]string // added to the default environment
	TTL        time.Duration     // 0: none
	// AccessToken admits users to the guest daemon's port; empty admits only the
	// agent. It stays the sandbox's for its life.
	AccessToken string
}

// Sandbox is a sandbox as its host sees it.
type Sandbox struct {
	ID        lehr.SandboxID
	TeamID    lehr.TeamID
	Fence     lehr.Fence
	State     lehr.SandboxState
	Reason    lehr.SandboxReason
	Resources lehr.Resources
	ExpiresAt time.Time
}

// Commands runs commands in sandboxes.
type Commands interface {
	// Exec runs one command and streams its output to out as it arrives; out's
	// error ends the call. The exit is data: the error says only that the
	// command could not be run or was not seen to end. Codes: "command_not_found"
	// and "command_not_executable" (Invalid), "user_unknown", "workdir_missing"
	// (Invalid), "sandbox_ended" (Conflict, the message names the reason).
	Exec(ctx context.Context, r Exec, out Output) (Exit, error)
	// Environment returns the default environment as the guest daemon sees it,
	// completed by PATH and HOME.
	Environment(ctx context.Context, id lehr.SandboxID) ([]lehr.EnvVar, error)
}

// Exec is one command.
type Exec struct {
	SandboxID lehr.SandboxID
	Args      []string // argv; Args[0] is looked up in PATH
	Env       []lehr.EnvVar
	CleanEnv  bool   // Env is all there is, instead of added to the defaults
	User      string // "" is the default user
	Workdir   string // "" is the default directory
	Timeout   time.Duration
	Stdin     []byte // at most 1 MiB; nil closes standard input at once
	// Linger lets the command live on when the call ends before it; without it
	// the end of ctx or of the connection kills the command and its children.
	Linger bool
}

// Output receives output in order; b is valid only during the call.
type Output func(stream lehr.LogStream, b []byte) error

// Exit is how a command ended.
type Exit struct {
	Code     int32 // 128 + signal when a signal ended it
	Signal   int32 // 0 when it exited by itself
	TimedOut bool  // Timeout ended it
}

// Files moves files in and out of sandboxes, with the rights of a user of the
// sandbox.
type Files interface {
	ReadFile(ctx context.Context, f File, w io.Writer) error
	// WriteFile creates or replaces a file and its missing parents. A full disk
	// is Exhausted with code "disk_full".
	WriteFile(ctx context.Context, f File, r io.Reader) error
	MakeDir(ctx context.Context, f File) error
}

// File names a file or directory in a sandbox.
type File struct {
	SandboxID lehr.SandboxID
	User      string // "" is the default user
	Path      string // absolute, or relative to the default directory
}

// Ports reaches servers in sandboxes.
type Ports interface {
	// Dial connects to a TCP port of a running sandbox; ctx bounds the dialling
	// only. The connection breaks at once when the sandbox ends or is paused to
	// disk, and is not tied to the agent's other calls. Half-closing works
	// (CloseWrite). Errors: NotFound, Conflict with code "sandbox_ended" or
	// "sandbox_paused", Unavailable with code "port_closed" when nothing listens.
	Dial(ctx context.Context, id lehr.SandboxID, port uint16) (net.Conn, error)
}

// Bases makes images from outside.
type Bases interface {
	// MakeMinimal returns the host's minimal base, making it when it is missing;
	// concurrent calls share the work.
	MakeMinimal(ctx context.Context) (Image, error)
	// ResolveImage asks the registry (or the host's aliases) what a reference
	// means now, without fetching layers. Errors: Invalid (the reference),
	// NotFound with code "base_not_found", PermissionDenied with code
	// "registry_denied", Unavailable with code "registry_unreachable".
	ResolveImage(ctx context.Context, r RegistryImage) (ResolvedImage, error)
	// PullImage returns the image of a reference that ResolveImage pinned,
	// fetching what is missing; every byte is verified against the digest.
	// Concurrent calls share the work, a later one finds it made. Errors as
	// ResolveImage; Invalid names what of the image cannot be used.
	PullImage(ctx context.Context, r RegistryImage) (Image, error)
	// PullProgress says how far a PullImage of the reference has come that is
	// under way; zero where there is none.
	PullProgress(ctx context.Context, reference string) (PullProgress, error)
	// ImportImage makes an image from a stream. Errors: Invalid names the entry.
	ImportImage(ctx context.Context, kind ImportKind, r io.Reader) (Image, error)
}

// RegistryImage names an image in a registry. A login given here goes before
// the host's own for that registry; it is used for that registry alone and
// written nowhere.
type RegistryImage struct {
	Reference string // "[HOST[:PORT]/]NAME[:TAG][@sha256:…]", Docker's defaults
	Auth      RegistryAuth
}

// RegistryAuth is a login: user name and password, or a token.
type RegistryAuth struct {
	Username, Password, Token string
}

// String hides the login from texts.
func (RegistryAuth) String() string { return "agent.RegistryAuth" }

// GoString hides the login from %#v.
func (RegistryAuth) GoString() string { return "agent.RegistryAuth" }

// ResolvedImage is what a reference means.
type ResolvedImage struct {
	Reference string           // complete, with the digest of the manifest for this platform
	Config    lehr.ImageConfig // as the image says it; Debian is not known yet
	Template  string           // a template stands in for the image; the rest is empty
}

// PullProgress is how far a pull has come.
type PullProgress struct {
	Layers, LayersDone int32
	Bytes, BytesDone   int64 // as they are fetched
}

// Artifacts makes and removes images and snapshots.
type Artifacts interface {
	// HasArtifact reports whether an image or snapshot is on the host.
	HasArtifact(ctx context.Context, d lehr.Digest) (bool, error)
	// FlattenRootfs ends the sandbox's processes except the guest daemon, syncs,
	// and merges image and writable layer into a new, durable, verified image.
	FlattenRootfs(ctx context.Context, id lehr.SandboxID) (Image, error)
	// CreateSnapshot writes a durable, verified snapshot of the running sandbox.
	CreateSnapshot(ctx context.Context, id lehr.SandboxID) (Snapshot, error)
	// ListArtifacts returns every image and snapshot on the host that
	// RemoveArtifact may delete, for garbage collection.
	ListArtifacts(ctx context.Context) ([]Artifact, error)
	// RemoveArtifact deletes an image or snapshot; idempotent. Conflict while a
	// sandbox uses it.
	RemoveArtifact(ctx context.Context, d lehr.Digest) error
}

// Artifact is an image or snapshot on a host. Age counts from when it was last
// made, imported, or made again with the same content; a collector leaves young
// ones alone because their version may not be recorded yet.
type Artifact struct {
	Digest lehr.Digest
	Bytes  int64
	Age    time.Duration
	Kind   ArtifactKind
	Idle   time.Duration // since it was last made, pulled or used by a sandbox
	Cached bool          // can be had again without loss: a base from a registry
}

// ArtifactKind is what an artifact is.
type ArtifactKind string

// The kinds of artifacts.
const (
	KindImage    ArtifactKind = "image"
	KindSnapshot ArtifactKind = "snapshot"
)

// ImportKind is the format of an imported stream.
type ImportKind string

// The import formats.
const (
	ImportTar ImportKind = "tar" // a root filesystem, plain, gzip or zstd
	ImportOCI ImportKind = "oci" // a tar of an OCI image layout or docker archive
)

// Image is an image on a host.
type Image struct {
	Digest lehr.Digest
	Bytes  int64
	Config lehr.ImageConfig // of imports and minimal; zero for flattened images
	Source string           // what minimal was made from, for provenance
}

// Snapshot is a snapshot on a host. Its digest covers every file of it.
type Snapshot struct {
	Digest       lehr.Digest
	Image        lehr.Digest
	Bytes        int64
	EngineDigest lehr.Digest
	CPUFeatures  lehr.Digest
	Guest        string // guest daemon's version
}
