package plan

import (
	"time"

	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// SchemaVersion is the version of the encoded plan. Decode refuses others.
const SchemaVersion = 1

// Input is everything a plan depends on.
type Input struct {
	Recipe recipe.Recipe
	// Base is the configuration that the base recorded; MinimalConfig for the
	// platform's minimal.
	Base lehr.ImageConfig
	// BaseDigest is the image that the first step runs on; it begins the chain of
	// cache keys. Empty while it is not known: see Plan.WithBase.
	BaseDigest lehr.Digest
	// AptCounted says that pre- and post-build steps were counted before it was
	// known whether the base has apt. Where it has none they are planned as left
	// out, so that the number of steps stays.
	AptCounted bool
	// Healthcheck is the build's parameter; nil leaves it to the recipe.
	Healthcheck *recipe.Healthcheck
	SkipPrePost bool
	BuildArgs   map[string]string
	Limits      lehr.Limits // zero members are the build's own limit
	Platform    string      // recipe.DefaultPlatform when empty
}

// Plan is what a build does. Treat it as immutable: steps share slices.
type Plan struct {
	// Steps in order of execution; Steps[i].N is i+1.
	Steps []Step
	// Boundary divides the steps: those before it make files and are cached one
	// by one; after them the root filesystem is flattened. Those from it on run
	// in one life of a fresh sandbox booted from that image. It is len(Steps)
	// when nothing runs after flattening.
	Boundary int
	// Healthcheck is the probe that ends the build, nil when there is none. With
	// it the version is a snapshot, without it a base image.
	Healthcheck *Healthcheck
	// EndProcesses is set when steps from Boundary on run without a healthcheck:
	// their processes are ended and the filesystem is flattened once more.
	EndProcesses bool
	// Config is what the version records for its sandboxes.
	Config lehr.ImageConfig
	// VersionKey is the cache key of the finished version, without its resources
	// and the engine that a snapshot depends on.
	VersionKey lehr.Digest
	// BaseDigest is the digest that the cache keys begin with.
	BaseDigest lehr.Digest
	// Warnings in order of the recipe; not part of any key.
	Warnings []recipe.Warning
}

// TotalSteps is the number of steps, which a build reports from its creation.
func (p Plan) TotalSteps() int { return len(p.Steps) }

// Snapshot reports whether the version is made with memory and CPU state.
func (p Plan) Snapshot() bool { return p.Healthcheck != nil }

// Before returns the steps that make the image.
func (p Plan) Before() []Step { return p.Steps[:p.Boundary] }

// After returns the steps of the one life: the first START and what follows.
func (p Plan) After() []Step { return p.Steps[p.Boundary:] }

// Kind says what a step does.
type Kind string

// The kinds of steps. Of these only KindRun, KindStart, KindWorkdir and
// KindUser do something in the sandbox; the others change what later steps
// inherit, and are done at once.
const (
	KindRun         Kind = "run"     // run Argv and wait; a non-zero exit fails the build
	KindStart       Kind = "start"   // run Argv and let it run; see Step.Argv
	KindWorkdir     Kind = "workdir" // make directory MakeDir with its parents, for Owner
	KindUser        Kind = "user"    // run Argv, which sees to the user, unless it is empty
	KindEnv         Kind = "env"
	KindArg         Kind = "arg"
	KindShell       Kind = "shell"
	KindCmd         Kind = "cmd"
	KindEntrypoint  Kind = "entrypoint"
	KindHealthcheck Kind = "healthcheck"
	KindLabel       Kind = "label"
	KindExpose      Kind = "expose"
	KindIgnored     Kind = "ignored" // VOLUME, STOPSIGNAL, MAINTAINER
	KindSkipped     Kind = "skipped" // left out, see Step.Skip
)

// Step is one step of a build.
type Step struct {
	N     int        // from 1
	Phase lehr.Phase // pre-build, recipe or post-build
	Kind  Kind
	Cmd   string // the instruction as written, for display; secrets are not masked
	// Skip says why the step is left out; empty for all others.
	Skip string
	// Line and EndLine are the instruction's place in the recipe, from 1; 0 for
	// pre- and post-build steps and the implicit start.
	Line, EndLine int
	// Implicit is set on the start of CMD or ENTRYPOINT that no instruction asked
	// for: there is a healthcheck and no START.
	Implicit bool
	// Argv is the command, nil when the step runs none. Argv[0] is looked up in
	// the PATH of Env. For KindStart an exit 0 means that it put itself into the
	// background; any other end before the snapshot fails the build.
	Argv []string
	// File is written before Argv is run and removed after it, or nil. Its folder
	// may be missing; it is on no part of the image.
	File *recipe.File
	// Env is the whole environment of Argv but for HOME, which is the user's own
	// unless it is in Env. Shared between steps.
	Env []lehr.EnvVar
	// Proxy is added to Env where it does not have the name; not in keys and not
	// encoded.
	Proxy []lehr.EnvVar
	// User is "name[:group]" or ids, never empty; "0" is root.
	User string
	// Workdir is the absolute directory that Argv runs in.
	Workdir string
	// MakeDir is the absolute directory that KindWorkdir makes, mode 0755, owned
	// by User. One that exists stays as it is. Empty for other kinds.
	MakeDir string
	// Timeout bounds Argv; 0 means no limit but the build's.
	Timeout time.Duration
	// Meaning is the digest of all that decides what the step does to files, apart
	// from those it begins with. Empty when it does nothing to files.
	Meaning lehr.Digest
	// CacheKey is the key of the files after the step: that of the step before it
	// chained with Meaning.
	CacheKey lehr.Digest
}

// Acts reports whether the step does something in the sandbox, rather than only
// changing what later steps inherit.
func (s Step) Acts() bool { return len(s.Argv) > 0 || s.MakeDir != "" }

// Healthcheck is a probe with all it needs.
type Healthcheck struct {
	Cmd         string        `json:"cmd"` // for display
	Argv        []string      `json:"argv"`
	Env         []lehr.EnvVar `json:"env"` // the version's default environment
	User        string        `json:"user"`
	Workdir     string        `json:"workdir"`
	Interval    time.Duration `json:"interval_ns"`
	Timeout     time.Duration `json:"timeout_ns"`
	StartPeriod time.Duration `json:"start_period_ns"`
	Retries     int           `json:"retries"`
}

// MinimalConfig is the configuration of the platform's minimal base, whichever
// way it was made; it is known before the base exists.
func MinimalConfig() lehr.ImageConfig {
	return lehr.ImageConfig{
		Env:    []lehr.EnvVar{{Name: "PATH", Value: recipe.DefaultPath}},
		Debian: true,
	}
}
