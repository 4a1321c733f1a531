// Package store is the law of durable state: builds with their attempts, steps
// and logs, templates with versions and tags, sandboxes, hosts, teams and keys.
//
// Every state move is one compare-and-set; what an attempt writes carries its
// fence (build, attempt) and is refused with Conflict once another attempt has
// taken over. Times are UTC with microsecond precision. Leases are counted by
// the database's clock. Methods are safe for concurrent use and return *errs.Error
// with the kinds NotFound, Conflict, Exists, Exhausted, Invalid and Unavailable.
//
// The suite in storetest defines what a store must do; sqlstore/lite and
// sqlstore/pg pass it.
package store

import (
	"context"
	"time"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// Store is all durable state.
type Store interface {
	Builds() Builds
	Queue() Queue
	Logs() Logs
	Templates() Templates
	Sandboxes() Sandboxes
	Accounts() Accounts
	Hosts() Hosts
	// Close ends all connections. It may be called twice.
	Close() error
}

// Builds is what callers see and ask of builds.
type Builds interface {
	// Create records a pending build in one transaction: the template row is
	// found or made by (team, name), the idempotency key is honoured (the same
	// key and team returns the earlier build with created=false; the same key
	// with another SpecDigest is Conflict). The row carries its template id and
	// step count from the start. Exhausted says which limit of the team is used
	// up; limits and the insert are one transaction, so creates at the same time
	// do not pass together.
	Create(ctx context.Context, b NewBuild) (build lehr.Build, created bool, err error)
	// ByKey finds the build of an idempotency key: Conflict where digest is
	// another request's, NotFound where the key is new.
	ByKey(ctx context.Context, team lehr.TeamID, key string, digest lehr.Digest) (lehr.Build, error)
	// Get returns a build with its current attempt's steps. An empty team means
	// any team.
	Get(ctx context.Context, team lehr.TeamID, id lehr.BuildID) (lehr.Build, error)
	// List returns builds newest first, without steps and logs.
	List(ctx context.Context, q ListBuilds) ([]lehr.Build, error)
	// Cancel moves a pending or running build to cancelled. A finished build is
	// Conflict, its state named in the message.
	Cancel(ctx context.Context, team lehr.TeamID, id lehr.BuildID) (lehr.Build, error)
	// RegistryLogin returns the sealed login that the build of a running attempt
	// was made with, nil where there was none. It is deleted when the build ends,
	// and Conflict once the attempt is over.
	RegistryLogin(ctx context.Context, f lehr.Fence) ([]byte, error)
}

// NewBuild is a validated request.
type NewBuild struct {
	ID             lehr.BuildID
	TeamID         lehr.TeamID
	Spec           lehr.BuildSpec
	RecipeSchema   int32
	TotalSteps     int32
	BaseDigest     lehr.Digest // of the base as resolved at create; may be empty
	IdempotencyKey string
	SpecDigest     lehr.Digest // of the request, compared for the same key
	// RegistryLogin is sealed, and in nothing that is read but by RegistryLogin.
	RegistryLogin []byte
	// MaxPending bounds the pending builds of a team that has no limit of its
	// own; 0 is no bound. Creates at the same time may pass it together.
	MaxPending int32
}

// ListBuilds selects a page of builds.
type ListBuilds struct {
	TeamID   lehr.TeamID       // empty: every team
	Name     string            // empty: every template
	Status   lehr.BuildStatus  // empty: every status
	Metadata map[string]string // all of these; at most MaxPairs, and only with TeamID
	Before   lehr.BuildID      // exclusive cursor; empty: from the newest
	Limit    int               // 1 to 1000
}

// MaxPairs bounds the names and values that a filter asks for.
const MaxPairs = 8

// Queue is what workers and reapers ask of builds.
type Queue interface {
	// Claim moves the next pending build in order (priority, then the team with
	// fewest running builds, then oldest) to running under a new attempt whose
	// lease ends after lease. Builds that are deferred, and those of a team that
	// runs as many as it may, are passed over. ok is false when none is left.
	Claim(ctx context.Context, worker string, lease time.Duration) (build lehr.Build, ok bool, err error)
	// Renew extends the attempt's lease. Conflict says the attempt is over:
	// cancelled, reaped, or taken over.
	Renew(ctx context.Context, f lehr.Fence, lease time.Duration) error
	// Place records host and sandbox of the attempt before the sandbox is made.
	Place(ctx context.Context, f lehr.Fence, host lehr.HostID, sandbox lehr.SandboxID) error
	// PutStep writes one step result (insert, then update by step) and the
	// build's current step. Accepted until the attempt's clean-up is recorded.
	PutStep(ctx context.Context, f lehr.Fence, s lehr.StepResult) error
	// Finish moves running to success or failed in one transaction; with
	// success, version row and tag become visible in the same transaction.
	Finish(ctx context.Context, f lehr.Fence, end Finish) error
	// GiveBack moves running to pending and ends the attempt: AttemptGivenBack
	// on a graceful stop, AttemptLost after a platform fault, which counts; the
	// MaxLostAttempts-th lost one moves the build to failed with last as error.
	GiveBack(ctx context.Context, f lehr.Fence, end lehr.AttemptEnd, last *lehr.BuildError) (lehr.BuildStatus, error)
	// Defer is GiveBack(AttemptGivenBack) for a build that no host could take:
	// it is not claimed again before wait is over.
	Defer(ctx context.Context, f lehr.Fence, wait time.Duration) error
	// Reap does the same as GiveBack(AttemptLost) for every attempt whose lease
	// has ended. Where all is true (the embedded default at start, which holds a
	// lock on its folder) it takes back all running builds: their attempts are
	// lost, but the cause is known, so they do not count towards
	// MaxLostAttempts; the MaxTakenBack-th fails the build. Pending builds older
	// than unplaced fail. It returns the builds it touched.
	Reap(ctx context.Context, all bool, unplaced time.Duration) ([]lehr.Build, error)
	Cleaner
}

// Cleaner keeps track of what ended attempts may have left behind.
type Cleaner interface {
	// Unclean lists ended attempts whose clean-up is not recorded, oldest first,
	// at most limit.
	Unclean(ctx context.Context, limit int) ([]lehr.Attempt, error)
	// MarkClean records that nothing of the attempt is left; afterwards its log
	// rows and step results are refused. Idempotent.
	MarkClean(ctx context.Context, f lehr.Fence) error
}

// Finish is the end of an attempt's build.
type Finish struct {
	Status  lehr.BuildStatus // success or failed
	Error   *lehr.BuildError // with failed
	Version *lehr.Version    // with success
}

// Logs is the log of builds.
type Logs interface {
	// Append stores lines under the fence and allots their seqs, which are
	// gapless; Seq and Attempt of the given lines are set. The log of a build is
	// capped at MaxLogBytes of text: what goes beyond is dropped after one
	// system line that says so. Conflict when the fence is over and clean.
	Append(ctx context.Context, f lehr.Fence, lines []lehr.LogLine) ([]lehr.LogLine, error)
	// Read returns up to limit lines with seq > after, in order.
	Read(ctx context.Context, id lehr.BuildID, after int64, limit int) ([]lehr.LogLine, error)
	// Expire deletes the logs of builds that ended before t; it returns the
	// number of rows.
	Expire(ctx context.Context, t time.Time) (int64, error)
}

// MaxLogBytes caps the text of one build's log.
const MaxLogBytes = 16 << 20

// Templates is names, tags and versions.
type Templates interface {
	// Resolve finds what a reference means for a team: a named team's template
	// when r.Team is set (a team's name; only the caller's own or the platform's
	// is visible), else the team's own, else the platform's. NotFound names the
	// reference.
	Resolve(ctx context.Context, team lehr.TeamID, r lehr.Ref) (lehr.Tagged, error)
	// Get finds a template by id or name within team, with one Tagged per tag.
	Get(ctx context.Context, team lehr.TeamID, idOrName string) ([]lehr.Tagged, error)
	// List returns one entry per (template, version that has tags), newest
	// version first: the team's and the platform's.
	List(ctx context.Context, q ListTemplates) ([]lehr.Tagged, error)
	// PutVersion records an imported base as a version under name:tag in one
	// transaction (builds publish through Queue.Finish).
	PutVersion(ctx context.Context, name, tag string, v lehr.Version) (lehr.Tagged, error)
	// Version returns one version by id.
	Version(ctx context.Context, id lehr.VersionID) (lehr.Version, error)
	// Tag points the tag to at the version that the tag from of the team's
	// template points to; a tag that exists moves, in one transaction. NotFound
	// when from is gone, Exhausted beyond MaxTags.
	Tag(ctx context.Context, team lehr.TeamID, name, from, to string) (lehr.Tagged, error)
	// Remove deletes a tag, or with an empty tag the whole template. Versions
	// without tags stay while live sandboxes use them. Conflict names the live
	// sandboxes that use it and the live builds that have it as their base.
	Remove(ctx context.Context, team lehr.TeamID, name, tag string) error
	Garbage
}

// Garbage tells which versions and artifacts are still needed.
type Garbage interface {
	// Unreferenced lists versions that no tag and no live sandbox refers to, at
	// most limit; Forget deletes such a row and says whether its digests are
	// used by no other version.
	Unreferenced(ctx context.Context, limit int) ([]lehr.Version, error)
	Forget(ctx context.Context, id lehr.VersionID) (freeImage, freeSnapshot bool, err error)
	// Referenced reports whether any version has d as its image or snapshot.
	Referenced(ctx context.Context, d lehr.Digest) (bool, error)
	// Census counts pending and running builds and live sandboxes, of all teams.
	Census(ctx context.Context) (Census, error)
	Claims
}

// Claims keeps artifacts from being removed while a build works with them and
// no version names them yet, and keeps what is being removed from being claimed
// or named. Whoever claims an artifact after it was made looks at the host once
// more: it may have been removed before the claim, never after it.
type Claims interface {
	// Claim protects an artifact until the attempt's clean-up is recorded.
	// Idempotent. Conflict when the attempt is over, and with code
	// "artifact_condemned" while the artifact is being removed.
	Claim(ctx context.Context, f lehr.Fence, h Held) error
	// Claimed lists what an attempt has claimed, in order.
	Claimed(ctx context.Context, f lehr.Fence) ([]Held, error)
	// Condemn begins the removal of an artifact: nobody can claim or name it until
	// Absolve. The claim of the attempt by is given up with it. Conflict while a
	// version names it or another attempt claims it, and with code
	// "artifact_condemned" where its removal has begun already.
	Condemn(ctx context.Context, h Held, by lehr.Fence) error
	// Condemned lists removals that began at least age ago, oldest first, at most
	// limit: whoever began them may have died.
	Condemned(ctx context.Context, age time.Duration, limit int) ([]Held, error)
	// Absolve ends a removal; idempotent.
	Absolve(ctx context.Context, h Held) error
}

// Held is an artifact on a host.
type Held struct {
	Host   lehr.HostID
	Digest lehr.Digest
	Made   bool // by the attempt that claims it, which removes it if it fails
}

// Census is how much is alive.
type Census struct {
	Builds    map[lehr.BuildStatus]int64
	Sandboxes map[lehr.SandboxState]int64
}

// MaxTags bounds the tags of one template that Tag makes.
const MaxTags = 1000

// MaxLabels bounds the labels of a version that a filter finds; what a version
// has beyond is shown, not found.
const MaxLabels = 512

// ListTemplates selects a page of templates.
type ListTemplates struct {
	TeamID lehr.TeamID
	Name   string            // empty: all
	Type   lehr.TemplateType // empty: all
	Labels map[string]string // all of these; at most MaxPairs, and only with TeamID
	Before lehr.VersionID    // exclusive cursor
	Limit  int               // 1 to 1000
}

// Sandboxes is the record of sandboxes.
type Sandboxes interface {
	// Create records a sandbox in state creating, before it is made. The version
	// is protected from removal from here on; NotFound when it is gone. The
	// idempotency key is honoured as in Builds.Create, for as long as the record
	// is kept. Exhausted says which limit of the team is used up, in one
	// transaction with the insert; a build's own sandbox counts towards none.
	Create(ctx context.Context, n NewSandbox) (box lehr.Sandbox, created bool, err error)
	// ByKey finds the sandbox of an idempotency key: Conflict where digest is
	// another request's, NotFound where the key is new.
	ByKey(ctx context.Context, team lehr.TeamID, key string, digest lehr.Digest) (lehr.Sandbox, error)
	// Move is a compare-and-set along lehr.SandboxMoves from any state that has
	// the move; Conflict names the present state. An end sets EndedAt.
	Move(ctx context.Context, id lehr.SandboxID, to lehr.SandboxState, reason lehr.SandboxReason) (lehr.Sandbox, error)
	// Fail is Move to failed with the error that the sandbox could not be made
	// for, which is kept with it.
	Fail(ctx context.Context, id lehr.SandboxID, reason lehr.SandboxReason, why lehr.SandboxError) (lehr.Sandbox, error)
	Get(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, error)
	List(ctx context.Context, q ListSandboxes) ([]lehr.Sandbox, error)
	// SetExpiry sets or, with a zero ttl, removes the end of a live sandbox,
	// counted from now by the database's clock.
	SetExpiry(ctx context.Context, id lehr.SandboxID, ttl time.Duration) (lehr.Sandbox, error)
	// Expire moves live sandboxes past their end to killed with the reason ttl,
	// oldest end first, at most limit, and returns them. Of it and a SetExpiry
	// at the same moment one wins. A build's own sandboxes are left alone.
	Expire(ctx context.Context, limit int) ([]lehr.Sandbox, error)
	// Forget deletes records that ended before t and returns their number.
	Forget(ctx context.Context, t time.Time) (int64, error)
}

// NewSandbox is a validated request.
type NewSandbox struct {
	lehr.Sandbox
	RequestDigest lehr.Digest // of the request, compared for the same key
}

// ListSandboxes selects a page of sandboxes, newest first; builds' own are
// left out unless Builds is set.
type ListSandboxes struct {
	TeamID   lehr.TeamID       // empty: every team
	HostID   lehr.HostID       // empty: every host
	State    lehr.SandboxState // empty: every state; an end needs All
	Template string            // empty: every template; NAME or NAME:TAG, as recorded
	Metadata map[string]string // all of these; at most MaxPairs, and only with TeamID
	All      bool              // ended ones too
	Builds   bool
	Before   lehr.SandboxID
	Limit    int // 1 to 1000
}

// Accounts is teams and keys.
type Accounts interface {
	// EnsureTeam finds or makes a team by name.
	EnsureTeam(ctx context.Context, name string) (lehr.Team, error)
	Team(ctx context.Context, id lehr.TeamID) (lehr.Team, error)
	// CreateKey stores a key with the SHA-256 of its 40 hex digits.
	CreateKey(ctx context.Context, k lehr.Key, secretHash lehr.Digest) error
	// KeyByHash finds a valid key; NotFound when unknown or revoked.
	KeyByHash(ctx context.Context, secretHash lehr.Digest) (lehr.Key, error)
	ListKeys(ctx context.Context, team lehr.TeamID, before lehr.KeyID, limit int) ([]lehr.Key, error)
	// RevokeKey is idempotent for a known key.
	RevokeKey(ctx context.Context, team lehr.TeamID, id lehr.KeyID) (lehr.Key, error)
	Teams
}

// Teams is what administrators ask of teams.
type Teams interface {
	// TeamByName finds a team.
	TeamByName(ctx context.Context, name string) (lehr.Team, error)
	// ListTeams returns teams by name, those after a name.
	ListTeams(ctx context.Context, after string, limit int) ([]lehr.Team, error)
	// SetLimits replaces a team's limits. What the team holds beyond them stays.
	SetLimits(ctx context.Context, id lehr.TeamID, l lehr.TeamLimits) (lehr.Team, error)
	// RoomForSandbox says as Sandboxes.Create would, with Exhausted, that a limit
	// of the team has no room for a sandbox now. It counts nothing and promises
	// nothing: it spares the work before a create that would be refused.
	RoomForSandbox(ctx context.Context, id lehr.TeamID, need lehr.Resources) error
	// RoomForBuild is RoomForSandbox for Builds.Create; usual is NewBuild's
	// MaxPending.
	RoomForBuild(ctx context.Context, id lehr.TeamID, usual int32) error
	// Usage counts what a team holds now.
	Usage(ctx context.Context, id lehr.TeamID) (lehr.TeamUsage, error)
}

// Hosts is the fleet.
type Hosts interface {
	// Put inserts or updates a host by id; SeenAt is set by the database.
	Put(ctx context.Context, h lehr.Host) (lehr.Host, error)
	Get(ctx context.Context, id lehr.HostID) (lehr.Host, error)
	List(ctx context.Context) ([]lehr.Host, error)
}
