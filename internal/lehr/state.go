package lehr

// BuildStatus is where a build stands.
type BuildStatus string

// The states of a build.
const (
	BuildPending   BuildStatus = "pending"   // created, waiting for a worker
	BuildRunning   BuildStatus = "running"   // claimed by an attempt
	BuildSuccess   BuildStatus = "success"   // published a version
	BuildFailed    BuildStatus = "failed"    // ended with an error
	BuildCancelled BuildStatus = "cancelled" // ended by request
)

// BuildMoves is the table of legal moves of a build; each is one
// compare-and-set in the store, and nothing else changes a status.
var BuildMoves = map[BuildStatus][]BuildStatus{
	BuildPending: {BuildRunning, BuildCancelled, BuildFailed},
	BuildRunning: {BuildSuccess, BuildFailed, BuildCancelled, BuildPending},
}

// Terminal reports whether s has no legal move left.
func (s BuildStatus) Terminal() bool { return len(BuildMoves[s]) == 0 }

// CanMove reports whether from → to is a legal move.
func (s BuildStatus) CanMove(to BuildStatus) bool {
	for _, t := range BuildMoves[s] {
		if t == to {
			return true
		}
	}
	return false
}

// Phase is a part of a build.
type Phase string

// The phases of a build, in order.
const (
	PhasePreBuild    Phase = "pre-build"
	PhaseRecipe      Phase = "recipe"
	PhasePostBuild   Phase = "post-build"
	PhaseHealthcheck Phase = "healthcheck"
	PhasePublish     Phase = "publish"
)

// Fault says whose fault a failed build is.
type Fault string

// The faults. A user's fault is never retried.
const (
	FaultUser     Fault = "user"
	FaultPlatform Fault = "platform"
)

// AttemptEnd says why an attempt ended.
type AttemptEnd string

// The ends of an attempt.
const (
	AttemptSucceeded AttemptEnd = "success"
	AttemptFailed    AttemptEnd = "failed"
	AttemptCancelled AttemptEnd = "cancelled"
	AttemptLost      AttemptEnd = "lost"     // its lease expired, or its platform broke; counts towards MaxAttempts
	AttemptGivenBack AttemptEnd = "returned" // its worker stopped gracefully; does not count
)

// MaxLostAttempts is how many lost attempts fail a build as a platform fault.
const MaxLostAttempts = 5

// MaxTakenBack is how many starts of an embedded control plane may take a build
// back before it fails as a platform fault: such a loss does not count towards
// MaxLostAttempts, but a build that brings its control plane down must end.
const MaxTakenBack = 20

// SandboxState is where a sandbox stands.
type SandboxState string

// The states of a sandbox.
const (
	SandboxCreating SandboxState = "creating" // recorded, not yet able to run a command
	SandboxRunning  SandboxState = "running"
	SandboxPausing  SandboxState = "pausing"
	SandboxPaused   SandboxState = "paused"
	SandboxResuming SandboxState = "resuming"
	SandboxKilled   SandboxState = "killed" // ended by request or time-to-live
	SandboxFailed   SandboxState = "failed" // ended by itself; the reason says how
)

// SandboxMoves is the table of legal moves of a sandbox.
var SandboxMoves = map[SandboxState][]SandboxState{
	SandboxCreating: {SandboxRunning, SandboxKilled, SandboxFailed},
	SandboxRunning:  {SandboxPausing, SandboxPaused, SandboxKilled, SandboxFailed},
	SandboxPausing:  {SandboxPaused, SandboxRunning, SandboxKilled, SandboxFailed},
	SandboxPaused:   {SandboxResuming, SandboxRunning, SandboxKilled, SandboxFailed},
	SandboxResuming: {SandboxRunning, SandboxPaused, SandboxKilled, SandboxFailed},
}

// Live reports whether s is not an end.
func (s SandboxState) Live() bool { return len(SandboxMoves[s]) > 0 }

// SandboxReason says why a sandbox is where it is.
type SandboxReason string

// The reasons. The empty reason means nothing to explain.
const (
	ReasonTTL       SandboxReason = "ttl"        // its time-to-live ended
	ReasonUser      SandboxReason = "user"       // killed by request
	ReasonOOM       SandboxReason = "oom"        // it exceeded its memory limit
	ReasonPids      SandboxReason = "pids"       // it exceeded its process limit
	ReasonGuestLost SandboxReason = "guest_lost" // its guest daemon died or stopped answering
	ReasonHostLost  SandboxReason = "host_lost"  // its host is gone
	ReasonEngine    SandboxReason = "engine"     // the engine could not start it or lost it for no nameable reason
)

// TemplateType says how sandboxes start from a version.
type TemplateType string

// The types of a template version.
const (
	TypeBase     TemplateType = "base"     // a flattened image; sandboxes boot fresh
	TypeSnapshot TemplateType = "snapshot" // image and memory; sandboxes resume running processes
)
