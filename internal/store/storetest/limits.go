package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func limitScenarios() []scenario {
	return []scenario{
		{"Teams", limitTeams},
		{"Sandboxes", limitSandboxes},
		{"SandboxesAtOnce", limitSandboxesAtOnce},
		{"PendingBuilds", limitPending},
		{"PendingBuildsAtOnce", limitPendingAtOnce},
		{"RunningBuilds", limitRunning},
		{"RunningBuildsAtOnce", limitRunningAtOnce},
		{"CreatesPerMinute", limitCreates},
		{"CreatesPerMinuteAtOnce", limitCreatesAtOnce},
		{"RepeatsPass", limitRepeatsPass},
		{"LoweredEndsNothing", limitLowered},
	}
}

// limit sets the limits of the bench's team.
func (b *bench) limit(l lehr.TeamLimits) {
	b.Helper()
	team, err := b.Accounts().SetLimits(b.ctx, b.team, l)
	b.ok(err, "SetLimits(%+v)", l)
	b.equal(team.Limits, l, "the limits set")
}

func (b *bench) usage() lehr.TeamUsage {
	b.Helper()
	u, err := b.Accounts().Usage(b.ctx, b.team)
	b.ok(err, "Usage()")
	return u
}

// exhausted wants a refusal by the limit's name.
func (b *bench) exhausted(err error, code, format string, args ...any) {
	b.Helper()
	if !errs.IsKind(err, errs.Exhausted) || errs.CodeOf(err) != code {
		b.Errorf("%s = %v (%s), want %s", fmt.Sprintf(format, args...), err, errs.CodeOf(err), code)
	}
}

func (b *bench) trySandbox(v lehr.VersionID, change func(*store.NewSandbox)) (lehr.Sandbox, error) {
	s := b.sandboxOf(v)
	if change != nil {
		change(&s)
	}
	box, _, err := b.Sandboxes().Create(b.ctx, s)
	return box, err
}

func limitTeams(b *bench) {
	l := lehr.TeamLimits{Sandboxes: 1, VCPUs: 2, MemoryMB: 3, RunningBuilds: 4, PendingBuilds: 5, CreatesPerMinute: 6}
	b.limit(l)
	team, err := b.Accounts().TeamByName(b.ctx, "team-a")
	b.ok(err, "TeamByName()")
	b.equal(team.Limits, l, "the limits kept")
	b.limit(lehr.TeamLimits{})
	_, err = b.Accounts().SetLimits(b.ctx, lehr.NewTeamID(), l)
	b.kind(err, errs.NotFound, "SetLimits(unknown)")
	_, err = b.Accounts().SetLimits(b.ctx, b.team, lehr.TeamLimits{VCPUs: -1})
	b.kind(err, errs.Invalid, "SetLimits(negative)")
	_, err = b.Accounts().TeamByName(b.ctx, "nobody")
	b.kind(err, errs.NotFound, "TeamByName(unknown)")
	b.newTeam("team-b")
	names := func(after string, limit int) []string {
		b.Helper()
		found, err := b.Accounts().ListTeams(b.ctx, after, limit)
		b.ok(err, "ListTeams(%q)", after)
		return labels(found, func(t lehr.Team) string { return t.Name })
	}
	b.equal(names("", 10), []string{"default", "platform", "team-a", "team-b"}, "ListTeams()")
	b.equal(names("platform", 1), []string{"team-a"}, "a page of teams")
	_, err = b.Accounts().ListTeams(b.ctx, "", 0)
	b.kind(err, errs.Invalid, "ListTeams(limit 0)")
}

func limitSandboxes(b *bench) {
	v := b.put(b.team, "app", "default")
	big := func(s *store.NewSandbox) { s.Resources = lehr.Resources{VCPUs: 4, MemoryMB: 4096, DiskMB: 64} }
	b.limit(lehr.TeamLimits{Sandboxes: 2, VCPUs: 5, MemoryMB: 4200})
	first, err := b.trySandbox(v, big)
	b.ok(err, "the first")
	_, err = b.trySandbox(v, func(s *store.NewSandbox) { s.Resources.VCPUs = 2 })
	b.exhausted(err, "limit_vcpus", "two more processors")
	_, err = b.trySandbox(v, func(s *store.NewSandbox) { s.Resources.MemoryMB = 105 })
	b.exhausted(err, "limit_memory_mb", "105 MB more")
	_, err = b.trySandbox(v, func(s *store.NewSandbox) { s.Resources.MemoryMB = 104 })
	b.ok(err, "what just fits")
	b.exhausted(b.Accounts().RoomForSandbox(b.ctx, b.team, lehr.MinResources), "limit_sandboxes", "RoomForSandbox()")
	b.ok(b.Accounts().RoomForSandbox(b.ctx, b.newTeam("team-c"), lehr.MaxResources), "RoomForSandbox(no limits)")
	b.kind(b.Accounts().RoomForSandbox(b.ctx, lehr.NewTeamID(), lehr.MinResources), errs.NotFound, "RoomForSandbox(unknown team)")
	_, err = b.trySandbox(v, func(s *store.NewSandbox) { s.Metadata = map[string]string{"a": "b"} })
	b.exhausted(err, "limit_sandboxes", "the third")
	b.equal(b.usage(), lehr.TeamUsage{Sandboxes: 2, VCPUs: 5, MemoryMB: 4200}, "Usage()")
	s := b.sandboxOf(v)
	s.BuildID = b.create(b.newBuild("app")).ID
	_, _, err = b.Sandboxes().Create(b.ctx, s)
	b.ok(err, "a build's own sandbox")
	_, err = b.trySandbox(v, func(s *store.NewSandbox) { s.TeamID = b.newTeam("team-b") })
	b.ok(err, "another team's")
	_, err = b.Sandboxes().Move(b.ctx, first.ID, lehr.SandboxKilled, lehr.ReasonUser)
	b.ok(err, "Move(killed)")
	_, err = b.trySandbox(v, big)
	b.ok(err, "one in the place of an ended one")
}

// atOnce runs create from many goroutines and wants exactly pass of them to
// succeed and the others refused by the limit.
func (b *bench) atOnce(total, pass int, code string, create func() error) {
	b.Helper()
	var passed atomic.Int64
	parallel(total, func(int) {
		err := create()
		if err == nil {
			passed.Add(1)
			return
		}
		b.exhausted(err, code, "a create at the same time")
	})
	b.equal(passed.Load(), int64(pass), "the number of creates that passed %s", code)
}

func limitSandboxesAtOnce(b *bench) {
	v := b.put(b.team, "app", "default")
	b.limit(lehr.TeamLimits{Sandboxes: 7})
	b.atOnce(50, 7, "limit_sandboxes", func() error {
		_, err := b.trySandbox(v, nil)
		return err
	})
	b.equal(b.usage().Sandboxes, int32(7), "the live sandboxes")
}

func limitPending(b *bench) {
	try := func(usual int32) error {
		n := b.newBuild("app")
		n.MaxPending = usual
		_, _, err := b.Builds().Create(b.ctx, n)
		return err
	}
	b.ok(try(2), "the first")
	b.ok(try(2), "the second")
	b.exhausted(try(2), "limit_pending_builds", "the third, with the usual bound")
	b.exhausted(b.Accounts().RoomForBuild(b.ctx, b.team, 2), "limit_pending_builds", "RoomForBuild()")
	b.ok(b.Accounts().RoomForBuild(b.ctx, b.team, 3), "RoomForBuild(a larger bound)")
	b.limit(lehr.TeamLimits{PendingBuilds: 3})
	b.ok(try(2), "the third, with a limit of the team's own")
	b.exhausted(try(0), "limit_pending_builds", "the fourth")
	b.claim()
	b.ok(try(2), "one in the place of a running one")
	b.equal(b.usage(), lehr.TeamUsage{RunningBuilds: 1, PendingBuilds: 3}, "Usage()")
}

func limitPendingAtOnce(b *bench) {
	b.limit(lehr.TeamLimits{PendingBuilds: 5})
	b.atOnce(50, 5, "limit_pending_builds", func() error {
		_, _, err := b.Builds().Create(b.ctx, b.newBuild("app"))
		return err
	})
}

// limitRunning has a team at its limit that the others pass.
func limitRunning(b *bench) {
	b.limit(lehr.TeamLimits{RunningBuilds: 1})
	var own []lehr.BuildID
	for range 3 {
		own = append(own, b.create(b.newBuild("app")).ID)
	}
	b.equal(b.claim().ID, own[0], "the first claim")
	if _, ok, err := b.Queue().Claim(b.ctx, "w", lease); ok || err != nil {
		b.Errorf("Claim() beyond the limit = %v, %v; want nothing", ok, err)
	}
	n := b.newBuild("app")
	n.TeamID = b.newTeam("team-b")
	other := b.create(n).ID
	b.equal(b.claim().ID, other, "the claim of another team's")
	f := fenceOf(b.get(own[0]))
	b.ok(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildFailed, Error: failure()}), "Finish()")
	b.equal(b.claim().ID, own[1], "the claim once one has ended")
	b.limit(lehr.TeamLimits{})
	b.equal(b.claim().ID, own[2], "the claim without a limit")
}

func limitRunningAtOnce(b *bench) {
	b.limit(lehr.TeamLimits{RunningBuilds: 3})
	for range 20 {
		b.create(b.newBuild("app"))
	}
	var claimed atomic.Int64
	parallel(16, func(int) {
		_, ok, err := b.Queue().Claim(b.ctx, "w", lease)
		if err != nil {
			b.Errorf("Claim() = %v", err)
		}
		if ok {
			claimed.Add(1)
		}
	})
	// Claims that met each other may all have stepped back.
	for {
		_, ok, err := b.Queue().Claim(b.ctx, "last", lease)
		b.ok(err, "Claim()")
		if !ok {
			break
		}
		claimed.Add(1)
	}
	b.equal(claimed.Load(), int64(3), "the builds claimed")
	b.equal(b.usage().RunningBuilds, int32(3), "the running builds")
}

func limitCreates(b *bench) {
	v := b.put(b.team, "app", "default")
	b.limit(lehr.TeamLimits{CreatesPerMinute: 3})
	_, err := b.trySandbox(v, nil)
	b.ok(err, "a sandbox")
	b.create(b.newBuild("app"))
	_, err = b.trySandbox(v, nil)
	b.ok(err, "another sandbox")
	b.exhausted(b.Accounts().RoomForSandbox(b.ctx, b.team, lehr.MinResources), "limit_creates_per_minute", "RoomForSandbox()")
	_, err = b.trySandbox(v, nil)
	b.exhausted(err, "limit_creates_per_minute", "the fourth create")
	var e *errs.Error
	if errorsAs(err, &e); e == nil || e.RetryAfter <= 0 || e.RetryAfter > 20*time.Second {
		b.Errorf("the fourth create = %+v, want a wait of at most a third of a minute", e)
	}
	_, _, err = b.Builds().Create(b.ctx, b.newBuild("app"))
	b.exhausted(err, "limit_creates_per_minute", "a build")
	b.equal(b.usage().Sandboxes, int32(2), "the live sandboxes")
	b.limit(lehr.TeamLimits{CreatesPerMinute: 3})
	_, err = b.trySandbox(v, nil)
	b.ok(err, "a sandbox after the limits were set anew")
}

func limitCreatesAtOnce(b *bench) {
	v := b.put(b.team, "app", "default")
	b.limit(lehr.TeamLimits{CreatesPerMinute: 10})
	b.atOnce(50, 10, "limit_creates_per_minute", func() error {
		_, err := b.trySandbox(v, nil)
		return err
	})
}

// limitRepeatsPass repeats requests at a limit that their first used up.
func limitRepeatsPass(b *bench) {
	v := b.put(b.team, "app", "default")
	b.limit(lehr.TeamLimits{Sandboxes: 1, PendingBuilds: 1, CreatesPerMinute: 2})
	var mu sync.Mutex
	ids := map[string]bool{}
	add := func(id string) {
		mu.Lock()
		defer mu.Unlock()
		ids[id] = true
	}
	parallel(12, func(i int) {
		if i%2 == 0 {
			box, err := b.trySandbox(v, func(s *store.NewSandbox) { s.IdempotencyKey, s.RequestDigest = "key", lehr.DigestOf(nil) })
			if err != nil {
				b.Errorf("a repeated create of a sandbox = %v", err)
			}
			add(string(box.ID))
			return
		}
		n := b.newBuild("app")
		n.IdempotencyKey = "key"
		build, _, err := b.Builds().Create(b.ctx, n)
		if err != nil {
			b.Errorf("a repeated create of a build = %v", err)
		}
		add(string(build.ID))
	})
	b.equal(len(ids), 2, "the objects of two keys")
}

func limitLowered(b *bench) {
	v := b.put(b.team, "app", "default")
	for range 3 {
		b.newSandbox(v)
		b.create(b.newBuild("app"))
	}
	b.claim()
	b.limit(lehr.TeamLimits{Sandboxes: 1, PendingBuilds: 1, RunningBuilds: 1})
	b.equal(b.usage(), lehr.TeamUsage{Sandboxes: 3, VCPUs: 3, MemoryMB: 3 * 128, RunningBuilds: 1, PendingBuilds: 2}, "Usage()")
	_, err := b.trySandbox(v, nil)
	b.exhausted(err, "limit_sandboxes", "one more")
}
