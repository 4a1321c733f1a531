package failpoint

// Point names a place in the code where a failure can be injected.
type Point string

// The points, in the order a build passes them. Tests of crashes iterate All;
// a point that is passed nowhere is a fault of that test.
const (
	CreateAfterInsert     Point = "create.after-insert"     // the row is committed, no worker was woken
	QueueAfterPop         Point = "queue.after-pop"         // a wake-up was taken, nothing is claimed
	ClaimAfterCommit      Point = "claim.after-commit"      // the attempt exists, its worker did nothing
	PlaceAfterCommit      Point = "place.after-commit"      // host and sandbox are recorded, not made
	SandboxAfterCreate    Point = "sandbox.after-create"    // the build's sandbox runs
	StepBeforeStart       Point = "step.before-start"       // the step is recorded as running
	StepAfterEnd          Point = "step.after-end"          // the command ended, its result is not recorded
	LogAfterAppend        Point = "log.after-append"        // lines are durable, nobody was told
	HealthBeforeProbe     Point = "health.before-probe"     // the healthcheck phase is about to start
	PublishBeforeArtifact Point = "publish.before-artifact" // all steps ended, nothing is written
	PublishAfterArtifact  Point = "publish.after-artifact"  // the artifact is durable, not verified
	PublishBeforeCommit   Point = "publish.before-commit"   // the artifact is verified, no row names it
	PublishAfterCommit    Point = "publish.after-commit"    // success is recorded, nobody was told
	CancelAfterCommit     Point = "cancel.after-commit"     // cancelled is recorded, the worker is not told
	CleanBeforeDestroy    Point = "clean.before-destroy"    // the attempt ended, its sandbox runs
	CleanBeforeMark       Point = "clean.before-mark"       // nothing is left, which is not recorded
)

// All returns every point, in order.
func All() []Point {
	return []Point{
		CreateAfterInsert, QueueAfterPop, ClaimAfterCommit, PlaceAfterCommit, SandboxAfterCreate,
		StepBeforeStart, StepAfterEnd, LogAfterAppend, HealthBeforeProbe,
		PublishBeforeArtifact, PublishAfterArtifact, PublishBeforeCommit, PublishAfterCommit,
		CancelAfterCommit, CleanBeforeDestroy, CleanBeforeMark,
	}
}
