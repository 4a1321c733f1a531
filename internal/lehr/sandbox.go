package lehr

import "time"

// Sandbox is one isolated Linux machine.
type Sandbox struct {
	ID        SandboxID
	TeamID    TeamID
	Template  string // "name:tag" as resolved at creation
	VersionID VersionID
	HostID    HostID
	State     SandboxState
	Reason    SandboxReason
	Resources Resources
	Metadata  map[string]string // the caller's; nil where none was given
	// IdempotencyKey is the caller's name of the request, unique within the team.
	IdempotencyKey string
	Error          *SandboxError // why it could not be made; nil otherwise
	BuildID        BuildID       // set for a build's own sandbox, which lists do not show
	CreatedAt      time.Time
	ExpiresAt      time.Time // zero: no time-to-live
	EndedAt        time.Time // zero while live
}

// SandboxError is why a sandbox could not be made, in the parts of an API error.
type SandboxError struct {
	Kind    string `json:"kind"`
	Code    string `json:"code"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

// Key is an API key without its secret, of which only the hash is stored.
type Key struct {
	ID        KeyID
	TeamID    TeamID
	Name      string
	Prefix    string // first characters of the secret, for recognition
	Admin     bool   // may manage keys and every team
	CreatedAt time.Time
	RevokedAt time.Time // zero while valid
}

// Team owns templates, builds, sandboxes and keys.
type Team struct {
	ID        TeamID
	Name      string // matches the pattern of template names; used in "team/name"
	Limits    TeamLimits
	CreatedAt time.Time
}

// TeamLimits bound what a team may hold at once; 0 is no limit.
type TeamLimits struct {
	Sandboxes        int32 `json:"sandboxes,omitempty"`          // live ones
	VCPUs            int32 `json:"vcpus,omitempty"`              // of live sandboxes together
	MemoryMB         int32 `json:"memory_mb,omitempty"`          // of live sandboxes together
	RunningBuilds    int32 `json:"running_builds,omitempty"`     // what is beyond waits
	PendingBuilds    int32 `json:"pending_builds,omitempty"`     // what is beyond is refused
	CreatesPerMinute int32 `json:"creates_per_minute,omitempty"` // of builds and sandboxes together
}

// TeamUsage is what a team holds now, counted as TeamLimits does.
type TeamUsage struct {
	Sandboxes, VCPUs, MemoryMB   int32
	RunningBuilds, PendingBuilds int32
}

// HostState is where a host stands.
type HostState string

// The states of a host.
const (
	HostJoining     HostState = "joining"
	HostReady       HostState = "ready"
	HostDraining    HostState = "draining"
	HostUnreachable HostState = "unreachable"
	HostRemoved     HostState = "removed"
)

// Host is a machine with an agent on it.
type Host struct {
	ID           HostID
	Name         string
	State        HostState
	Platform     string // "linux/amd64"
	EngineDigest Digest // SHA-256 of its sentry file
	Capacity     Resources
	SeenAt       time.Time
}
