package lehr

import "time"

// BuildSpec is what a caller asks for, after defaults were filled in.
type BuildSpec struct {
	Name         string   // template name, validated
	Tag          string   // template tag, validated
	BaseTemplate string   // reference of the base, "minimal" by default
	BaseImage    string   // a base from a registry, pinned to its digest; empty otherwise
	Recipe       []string // one instruction per element, as given
	Healthcheck  string   // empty when the build has none; the effective one
	Resources    Resources
	SkipPrePost  bool
	BuildArgs    map[string]string
	NoCache      bool
	Limits       Limits
	Priority     int32             // higher first
	Metadata     map[string]string // the caller's; nil where none was given
}

// Build is one run of a plan for a template, with attempts.
type Build struct {
	ID             BuildID
	TeamID         TeamID
	TemplateID     TemplateID
	Spec           BuildSpec
	RecipeSchema   int32 // version of the recipe language the spec was written in
	IdempotencyKey string
	Status         BuildStatus
	Attempt        int32 // number of the current or last attempt, 0 before the first
	LostAttempts   int32 // attempts that count towards MaxLostAttempts
	BaseDigest     Digest
	HostID         HostID
	SandboxID      SandboxID
	CurrentStep    int32
	TotalSteps     int32
	Error          *BuildError
	Artifact       *Artifact
	Steps          []StepResult // only where asked for; never in lists
	CreatedAt      time.Time
	StartedAt      time.Time // zero until the first claim
	CompletedAt    time.Time // zero until terminal
}

// BuildError is why a build failed.
type BuildError struct {
	Code    string // stable machine code, e.g. "step_failed", "disk_full", "oom"
	Message string // "<phase> step <n> failed: <stderr tail or exit code>"
	Remedy  string
	Fault   Fault
	Phase   Phase
	Step    int32 // 1-based, 0 when no step is to blame
}

// StepResult is the outcome of one step within one attempt. Tails hold at most
// StepTailBytes.
type StepResult struct {
	Attempt     int32
	Step        int32 // 1-based in order of execution
	Phase       Phase
	Cmd         string // the instruction as written, secrets masked
	Status      StepStatus
	Exit        *int32 // nil when the step ran no command or was not finished
	OK          bool
	Elapsed     time.Duration
	Cached      bool
	CacheReason string
	StdoutTail  string
	StderrTail  string
}

// StepTailBytes bounds the output tails kept in a step result.
const StepTailBytes = 4 << 10

// StepStatus is where a step stands.
type StepStatus string

// The states of a step.
const (
	StepRunning   StepStatus = "running"
	StepSuccess   StepStatus = "success"
	StepFailed    StepStatus = "failed"
	StepCancelled StepStatus = "cancelled"
)

// Artifact is what a successful build published.
type Artifact struct {
	Type           TemplateType
	ImageDigest    Digest
	SnapshotDigest Digest // empty for base versions
	SizeBytes      int64
	Version        VersionID
}

// LogStream tells where a log line came from.
type LogStream string

// The streams of a log line.
const (
	StreamStdout LogStream = "stdout"
	StreamStderr LogStream = "stderr"
	StreamSystem LogStream = "system" // Lehr's own words
)

// LogLine is one row of a build's log. Seq is gapless from 1 within a build.
type LogLine struct {
	Seq     int64
	Attempt int32
	Time    time.Time
	Phase   Phase
	Step    int32
	Stream  LogStream
	Text    string // without the line's end; valid UTF-8
}

// Attempt is one try of a build by a worker.
type Attempt struct {
	BuildID   BuildID
	Number    int32 // from 1
	Worker    string
	HostID    HostID
	SandboxID SandboxID
	LeaseEnds time.Time // by the database's clock
	StartedAt time.Time
	EndedAt   time.Time // zero while it runs
	End       AttemptEnd
	CleanedAt time.Time // zero until its sandbox and partial artifacts are gone
}

// Fence identifies the attempt on whose behalf something is done.
type Fence struct {
	BuildID BuildID
	Attempt int32
}
