// Package enginetest defines the engine law: Exercise runs every behaviour that
// an engine must show. Each implementation calls it from a test of its own; the
// fake passes the same suite as the real ones.
//
// A sandbox of the suite boots the tree of RootTar, with the probe (see
// BuildProbe) as its first process. After every subtest, when its slots are
// destroyed, nothing may be left: no process, mount, namespace, cgroup,
// descriptor or file.
package enginetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
)

// Subject is one engine under test, on a state folder of its own. Open makes
// one per subtest and releases it through t.Cleanup.
type Subject struct {
	Engine engine.Engine
	Image  engine.Rootfs // made from RootTar
	Guest  engine.Rootfs // made from GuestTar: holds the probe

	// Run runs one verb of the probe in a sandbox. Nil means Run over Dial.
	Run func(ctx context.Context, sb engine.Sandbox, verb string, args ...string) (string, error)

	// Crash abandons Engine as kill -9 of its process would, without Close, and
	// opens another engine on the same state.
	Crash func(t *testing.T) engine.Engine
	// Reopen opens another engine on the same state after Engine.Close.
	Reopen func(t *testing.T) engine.Engine

	// Leaks names everything of this subject that exists now: processes,
	// mounts, namespaces, interfaces, cgroups, descriptors, files of slots. The
	// suite compares it with what Leaks returned before the subtest.
	Leaks func(ctx context.Context) ([]string, error)

	// KillSandbox ends a sandbox abruptly, as kill -9 of its isolation process
	// from outside would. Nil: the subtests that need it are skipped.
	KillSandbox func(ctx context.Context, slot engine.SlotID) error
	// ForeignDescriptors names every descriptor that a process of one sandbox
	// holds and that belongs to another sandbox or to the engine's process.
	// Nil: not proven.
	ForeignDescriptors func(ctx context.Context) ([]string, error)
	// CPUTime returns the CPU time that the host charged to a sandbox so far.
	// Nil: the probe's own figure is used.
	CPUTime func(ctx context.Context, slot engine.SlotID) (time.Duration, error)

	// Processes is how many processes a sandbox can certainly not have; the
	// process limit must show before.
	Processes int
}

// patience bounds every call of the suite, so that a hanging engine fails a
// subtest instead of the test binary. It asserts nothing about speed.
const patience = 90 * time.Second

// Exercise runs the suite. open is called once per subtest.
func Exercise(t *testing.T, open func(t *testing.T) Subject) { exercise(t, open, nil) }

// ExerciseOnly runs the named subtests ("group/name"), for a subject that offers
// a part of the law, such as a host behind its RPC. A name that is no subtest
// fails.
func ExerciseOnly(t *testing.T, open func(t *testing.T) Subject, only ...string) {
	unknown := map[string]bool{}
	for _, name := range only {
		unknown[name] = true
	}
	for _, g := range groups() {
		for _, st := range g.tests {
			delete(unknown, g.name+"/"+st.name)
		}
	}
	if len(unknown) > 0 {
		t.Fatalf("these are no subtests: %v", unknown)
	}
	exercise(t, open, only)
}

// group is the subtests about one thing.
type group struct {
	name  string
	tests []subtest
}

func groups() []group {
	return []group{
		{"lifecycle", lifecycleTests},
		{"exec", execTests},
		{"limits", limitTests},
		{"pause", pauseTests},
		{"snapshot", snapshotTests},
		{"layer", layerTests},
		{"adopt", adoptTests},
		{"race", raceTests},
	}
}

func exercise(t *testing.T, open func(t *testing.T) Subject, only []string) {
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			for _, st := range g.tests {
				if only != nil && !slices.Contains(only, g.name+"/"+st.name) {
					continue
				}
				t.Run(st.name, func(t *testing.T) { runOne(t, open, st) })
			}
		})
	}
}

// subtest is one behaviour.
type subtest struct {
	name string
	run  func(t *testing.T, b *bench)
}

// runOne runs one behaviour on a fresh subject and checks that it left nothing.
func runOne(t *testing.T, open func(t *testing.T) Subject, st subtest) {
	b := newBench(t, open(t))
	before := b.leaks(t)
	st.run(t, b)
	b.destroyAll(t)
	b.checkLeaks(t, before)
}
