package failpoint

import "slices"

// Point names a place in the code where a failure can be injected.
type Point string

// The points of a control plane, in the order a build passes them.
const (
	CreateAfterInsert     Point = "create.after-insert"     // the row is committed, no worker was woken
	CreateAfterPush       Point = "create.after-push"       // a worker was woken, nobody was answered
	QueueAfterPop         Point = "queue.after-pop"         // a wake-up was taken, nothing is claimed
	ClaimAfterCommit      Point = "claim.after-commit"      // the attempt exists, its worker did nothing
	PlaceAfterCommit      Point = "place.after-commit"      // host and sandbox are recorded, not made
	HoldAfterCommit       Point = "hold.after-commit"       // an artifact is claimed, not used or looked for
	SandboxAfterCreate    Point = "sandbox.after-create"    // the build's sandbox runs
	StepBeforeStart       Point = "step.before-start"       // the step is recorded as running
	StepAfterEnd          Point = "step.after-end"          // the command ended, its result is not recorded
	StepAfterRecord       Point = "step.after-record"       // the result is recorded
	StartAfterBegin       Point = "start.after-begin"       // START is about to run beside what follows
	LogAfterAppend        Point = "log.after-append"        // lines are durable, nobody was told
	FlattenAfterMake      Point = "flatten.after-make"      // the image is durable, nobody claims it
	LiveBeforeOpen        Point = "live.before-open"        // the files' sandbox is gone, the fresh one not made
	HealthBeforeProbe     Point = "health.before-probe"     // the healthcheck phase is about to start
	HealthAfterPass       Point = "health.after-pass"       // a probe passed, nothing is snapshotted
	PublishBeforeArtifact Point = "publish.before-artifact" // all steps ended, nothing is written
	SnapshotAfterMake     Point = "snapshot.after-make"     // the snapshot is durable, nobody claims it
	PublishAfterArtifact  Point = "publish.after-artifact"  // the artifact is durable, not verified
	PublishBeforeCommit   Point = "publish.before-commit"   // the artifact is verified, no row names it
	PublishAfterCommit    Point = "publish.after-commit"    // success is recorded, nobody was told
	EndBeforeRecord       Point = "end.before-record"       // the attempt is over, which is not recorded
	EndAfterRecord        Point = "end.after-record"        // the end is recorded, nobody was told
	CancelAfterCommit     Point = "cancel.after-commit"     // cancelled is recorded, the worker is not told
	ReapAfterCommit       Point = "reap.after-commit"       // attempts are taken back, no worker was woken
	CleanBeforeDestroy    Point = "clean.before-destroy"    // the attempt ended, its sandbox runs
	CleanBeforeArtifacts  Point = "clean.before-artifacts"  // the sandbox is gone, what was made is there
	CleanBeforeMark       Point = "clean.before-mark"       // nothing is left, which is not recorded
	CleanAfterMark        Point = "clean.after-mark"        // the clean-up is recorded, nobody was told
)

// The points of a control plane that concern users' sandboxes and garbage.
const (
	BoxAfterInsert  Point = "box.after-insert"  // the sandbox is recorded, not made
	BoxAfterMake    Point = "box.after-make"    // the host has it, the record says creating
	BoxAfterRecord  Point = "box.after-record"  // the record says running, nobody was answered
	BoxAfterEnd     Point = "box.after-end"     // its end is recorded, the host has it still
	BoxAfterDestroy Point = "box.after-destroy" // the host has it no more, nobody was answered
	GCAfterForget   Point = "gc.after-forget"   // a version is forgotten, its artifacts are there
	GCAfterCondemn  Point = "gc.after-condemn"  // an artifact is to go and is there
	GCAfterRemove   Point = "gc.after-remove"   // an artifact is gone, its removal is not recorded as over
)

// The points of an agent.
const (
	HostCreateAfterRecord  Point = "host.create-after-record"  // the sandbox has a record and nothing else
	HostCreateAfterSlot    Point = "host.create-after-slot"    // it has a slot, which the record does not say
	HostCreateAfterStart   Point = "host.create-after-start"   // its processes run, nobody has greeted them
	HostCreateAfterGreet   Point = "host.create-after-greet"   // its guest daemon serves, the record says creating
	HostCreateAfterSave    Point = "host.create-after-save"    // the record says running, nobody was answered
	HostEndAfterSave       Point = "host.end-after-save"       // the record says ended, everything else is there
	HostEndAfterSlot       Point = "host.end-after-slot"       // the slot is gone, the record is there
	HostExpireBegin        Point = "host.expire-begin"         // the time-to-live is over, nothing is done
	HostFlattenBegin       Point = "host.flatten-begin"        // the processes ended, nothing is read
	HostFlattenEnd         Point = "host.flatten-end"          // the image is durable, nobody was answered
	HostSnapshotBeforeName Point = "host.snapshot-before-name" // the snapshot is written, it has no name
	HostSnapshotAfterName  Point = "host.snapshot-after-name"  // it is durable, nobody was answered
	HostRemoveBegin        Point = "host.remove-begin"         // an artifact is to go and is there
	HostRemoveEnd          Point = "host.remove-end"           // it is gone, nobody was answered
	ImageBeforeName        Point = "image.before-name"         // an image is written and synced, it has no name
	ImageAfterName         Point = "image.after-name"          // it has its name, which is not synced

	EnginePrepareAfterRecord  Point = "engine.prepare-after-record"  // a slot has a folder and a record
	EnginePrepareAfterGroup   Point = "engine.prepare-after-group"   // and a control group
	EnginePrepareAfterNetwork Point = "engine.prepare-after-network" // and a network
	EnginePrepareAfterSentry  Point = "engine.prepare-after-sentry"  // and a sentry, the record says preparing
	EngineStartAfterClaim     Point = "engine.start-after-claim"     // the slot is taken, nothing was started in it
	EngineStartAfterGuest     Point = "engine.start-after-guest"     // the guest runs, the record says starting
	EngineRemoveAfterHalt     Point = "engine.remove-after-halt"     // the sentry has ended
	EngineRemoveAfterGroup    Point = "engine.remove-after-group"    // the control group is gone
	EngineRemoveAfterNetwork  Point = "engine.remove-after-network"  // the network is gone, the folder is there
)

// Builds returns the points of a control plane that concern builds, in order.
// Tests of crashes iterate these lists; a point that is passed nowhere is a
// fault of that test.
func Builds() []Point {
	return []Point{
		CreateAfterInsert, CreateAfterPush, QueueAfterPop, ClaimAfterCommit, PlaceAfterCommit, HoldAfterCommit,
		SandboxAfterCreate, StepBeforeStart, StepAfterEnd, StepAfterRecord, StartAfterBegin, LogAfterAppend,
		FlattenAfterMake, LiveBeforeOpen, HealthBeforeProbe, HealthAfterPass, PublishBeforeArtifact, SnapshotAfterMake,
		PublishAfterArtifact, PublishBeforeCommit, PublishAfterCommit, EndBeforeRecord, EndAfterRecord,
		CancelAfterCommit, ReapAfterCommit, CleanBeforeDestroy, CleanBeforeArtifacts, CleanBeforeMark, CleanAfterMark,
	}
}

// Boxes returns the points of a control plane that concern users' sandboxes.
func Boxes() []Point {
	return []Point{BoxAfterInsert, BoxAfterMake, BoxAfterRecord, BoxAfterEnd, BoxAfterDestroy}
}

// Garbage returns the points of a control plane that concern garbage.
func Garbage() []Point { return []Point{GCAfterForget, GCAfterCondemn, GCAfterRemove} }

// Agents returns the points of an agent.
func Agents() []Point {
	return []Point{
		HostCreateAfterRecord, HostCreateAfterSlot, HostCreateAfterStart, HostCreateAfterGreet, HostCreateAfterSave,
		HostEndAfterSave, HostEndAfterSlot, HostExpireBegin, HostFlattenBegin, HostFlattenEnd,
		HostSnapshotBeforeName, HostSnapshotAfterName, HostRemoveBegin, HostRemoveEnd, ImageBeforeName, ImageAfterName,
		EnginePrepareAfterRecord, EnginePrepareAfterGroup, EnginePrepareAfterNetwork, EnginePrepareAfterSentry,
		EngineStartAfterClaim, EngineStartAfterGuest, EngineRemoveAfterHalt, EngineRemoveAfterGroup, EngineRemoveAfterNetwork,
	}
}

// All returns every point.
func All() []Point { return slices.Concat(Builds(), Boxes(), Garbage(), Agents()) }
