// Package storetest is the suite that defines what a store must do. An
// implementation passes Exercise; what the suite does not ask for, callers
// must not rely on.
package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// Open returns a new, empty store that ends with the test. Its database counts
// by the machine's clock.
type Open func(t *testing.T) store.Store

// Exercise runs the suite. Every test opens a store of its own, and they run
// in parallel.
func Exercise(t *testing.T, open Open) {
	t.Helper()
	for _, group := range []struct {
		name  string
		cases []scenario
	}{
		{"Builds", buildScenarios()},
		{"Queue", queueScenarios()},
		{"Fence", fenceScenarios()},
		{"Finish", finishScenarios()},
		{"Reap", reapScenarios()},
		{"Logs", logScenarios()},
		{"Templates", templateScenarios()},
		{"Versions", versionScenarios()},
		{"Claims", claimScenarios()},
		{"Sandboxes", sandboxScenarios()},
		{"Accounts", accountScenarios()},
		{"Hosts", hostScenarios()},
		{"Limits", limitScenarios()},
		{"Filters", filterScenarios()},
		{"Once", onceScenarios()},
		{"Races", raceScenarios()},
		{"Store", storeScenarios()},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range group.cases {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.run(newBench(t, open))
				})
			}
		})
	}
}

// scenario is one test of the suite.
type scenario struct {
	name string
	run  func(b *bench)
}

// bench is a store under test with a team of its own.
type bench struct {
	*testing.T
	store.Store
	ctx  context.Context
	team lehr.TeamID
}

func newBench(t *testing.T, open Open) *bench {
	t.Helper()
	b := &bench{T: t, Store: open(t), ctx: t.Context()}
	b.team = b.newTeam("team-a")
	return b
}

// lease is longer than any test; instant is a lease, or a limit, that is over
// by the next statement.
const (
	lease   = time.Hour
	instant = time.Microsecond
)

func (b *bench) newTeam(name string) lehr.TeamID {
	b.Helper()
	team, err := b.Accounts().EnsureTeam(b.ctx, name)
	b.ok(err, "EnsureTeam(%s)", name)
	return team.ID
}

// ok ends the test where err is not nil.
func (b *bench) ok(err error, format string, args ...any) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s = %v, want no error", fmt.Sprintf(format, args...), err)
	}
}

// kind fails the test where err is not of kind want.
func (b *bench) kind(err error, want errs.Kind, format string, args ...any) {
	b.Helper()
	if got := errs.KindOf(err); got != want {
		b.Errorf("%s = %v (%s), want %s", fmt.Sprintf(format, args...), err, got, want)
	}
}

// equal fails the test where got is not want.
func (b *bench) equal(got, want any, format string, args ...any) {
	b.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		b.Errorf("%s differs (-want +got):\n%s", fmt.Sprintf(format, args...), diff)
	}
}

// spec returns a full specification: no field has its zero value.
func spec(name string) lehr.BuildSpec {
	return lehr.BuildSpec{
		Name: name, Tag: lehr.DefaultTag, BaseTemplate: "minimal", Recipe: []string{"RUN echo 'ä\n\"'", "ENV A=1"},
		Healthcheck: "--interval=1s true", Resources: lehr.Resources{VCPUs: 2, MemoryMB: 1024, DiskMB: 2048},
		SkipPrePost: true, BuildArgs: map[string]string{"A": "1", "B": ""}, NoCache: true, Limits: lehr.DefaultLimits, Priority: 0,
	}
}

func (b *bench) newBuild(name string) store.NewBuild {
	return store.NewBuild{
		ID: lehr.NewBuildID(), TeamID: b.team, Spec: spec(name), RecipeSchema: 3, TotalSteps: 4,
		BaseDigest: lehr.DigestOf([]byte("base")), SpecDigest: lehr.DigestOf([]byte(name)),
	}
}

// create records a pending build.
func (b *bench) create(n store.NewBuild) lehr.Build {
	b.Helper()
	build, created, err := b.Builds().Create(b.ctx, n)
	b.ok(err, "Create(%s)", n.ID)
	if !created {
		b.Fatalf("Create(%s) found an earlier build", n.ID)
	}
	return build
}

// claim claims the next build, which must exist.
func (b *bench) claim() lehr.Build {
	b.Helper()
	build, ok, err := b.Queue().Claim(b.ctx, "worker-1", lease)
	b.ok(err, "Claim()")
	if !ok {
		b.Fatal("Claim() found nothing")
	}
	return build
}

// running creates and claims a build.
func (b *bench) running(name string) lehr.Fence {
	b.Helper()
	made := b.create(b.newBuild(name))
	claimed := b.claim()
	b.equal(claimed.ID, made.ID, "the claimed build")
	return fenceOf(claimed)
}

func fenceOf(build lehr.Build) lehr.Fence {
	return lehr.Fence{BuildID: build.ID, Attempt: build.Attempt}
}

// get reads a build of any team.
func (b *bench) get(id lehr.BuildID) lehr.Build {
	b.Helper()
	build, err := b.Builds().Get(b.ctx, "", id)
	b.ok(err, "Get(%s)", id)
	return build
}

// version returns a full version.
func version(team lehr.TeamID) *lehr.Version {
	id := lehr.NewVersionID()
	return &lehr.Version{
		ID: id, TeamID: team, Type: lehr.TypeSnapshot, Platform: "linux/amd64",
		ImageDigest: lehr.DigestOf([]byte("image" + id)), SnapshotDigest: lehr.DigestOf([]byte("snapshot" + id)),
		EngineDigest: lehr.DigestOf([]byte("engine")), SizeBytes: 5 << 30,
		Resources: lehr.Resources{VCPUs: 2, MemoryMB: 256, DiskMB: 512}, BaseTemplate: "minimal:default",
		BaseDigest: lehr.DigestOf([]byte("base")),
		Config: lehr.ImageConfig{
			Env: []lehr.EnvVar{{Name: "PATH", Value: "/bin"}, {Name: "A", Value: "1\n2"}}, User: "u", Workdir: "/w",
			Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Shell: []string{"/bin/sh", "-c"},
			Labels: []lehr.EnvVar{{Name: "l", Value: "v"}}, Exposed: []string{"80/tcp"}, Debian: true,
		},
		Plan: []byte(`{"steps":[]}`),
	}
}

// publish runs a build of name to success and returns its version.
func (b *bench) publish(name string) lehr.Version {
	b.Helper()
	f := b.running(name)
	v := version(b.team)
	b.ok(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: v}), "Finish(success)")
	stored, err := b.Templates().Version(b.ctx, v.ID)
	b.ok(err, "Version(%s)", v.ID)
	return stored
}

func failure() *lehr.BuildError {
	return &lehr.BuildError{
		Code: "step_failed", Message: "recipe step 2 failed: exit 1", Remedy: "fix it",
		Fault: lehr.FaultUser, Phase: lehr.PhaseRecipe, Step: 2,
	}
}
