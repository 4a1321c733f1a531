package storetest

import (
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func reapScenarios() []scenario {
	return []scenario{
		{"ExpiredLease", reapExpired},
		{"RenewedLeaseStays", reapLeavesRenewed},
		{"AllAtStart", reapAll},
		{"FifthLossFails", reapFifthLoss},
		{"Unplaced", reapUnplaced},
	}
}

func (b *bench) reap(all bool) []lehr.Build {
	b.Helper()
	touched, err := b.Queue().Reap(b.ctx, all, 0)
	b.ok(err, "Reap(%v)", all)
	return touched
}

// expired claims a build whose lease has ended.
func (b *bench) expired() lehr.Fence {
	b.Helper()
	build, ok, err := b.Queue().Claim(b.ctx, "worker-2", instant)
	if err != nil || !ok {
		b.Fatalf("Claim() = %v, %v; want a build", ok, err)
	}
	return fenceOf(build)
}

func reapExpired(b *bench) {
	b.create(b.newBuild("app"))
	b.create(b.newBuild("app"))
	f := b.expired()
	alive := fenceOf(b.claim())
	touched := b.reap(false)
	if len(touched) != 1 || touched[0].ID != f.BuildID || touched[0].Status != lehr.BuildPending || touched[0].LostAttempts != 1 {
		b.Fatalf("Reap() = %+v, want %s pending with a lost attempt", touched, f.BuildID)
	}
	b.equal(len(b.reap(false)), 0, "the number of builds of a second Reap()")
	b.kind(b.Queue().Renew(b.ctx, f, lease), errs.Conflict, "Renew() of a reaped attempt")
	b.ok(b.Queue().Renew(b.ctx, alive, lease), "Renew() of the other")
	unclean, err := b.Queue().Unclean(b.ctx, 10)
	b.ok(err, "Unclean()")
	if len(unclean) != 1 || unclean[0].End != lehr.AttemptLost || unclean[0].Worker != "worker-2" {
		b.Errorf("Unclean() = %+v, want the lost attempt", unclean)
	}
	again := b.claim()
	if again.ID != f.BuildID || again.Attempt != 2 {
		b.Errorf("Claim() = %s attempt %d, want %s attempt 2", again.ID, again.Attempt, f.BuildID)
	}
}

func reapLeavesRenewed(b *bench) {
	b.create(b.newBuild("app"))
	f := b.expired()
	b.ok(b.Queue().Renew(b.ctx, f, lease), "Renew() of an attempt not yet reaped")
	b.equal(len(b.reap(false)), 0, "the number of reaped builds")
}

func reapAll(b *bench) {
	for range 3 {
		b.create(b.newBuild("app"))
	}
	b.claim()
	f := fenceOf(b.claim())
	_, err := b.Builds().Cancel(b.ctx, "", f.BuildID)
	b.ok(err, "Cancel()")
	b.claim()
	b.equal(len(b.reap(false)), 0, "the number of expired leases")
	touched := b.reap(true)
	b.equal(labels(touched, func(build lehr.Build) string { return string(build.Status) }), []string{"pending", "pending"}, "Reap(all)")
	b.equal(b.get(f.BuildID).Status, lehr.BuildCancelled, "the cancelled build")
}

func reapFifthLoss(b *bench) {
	n := b.create(b.newBuild("app"))
	for i := range lehr.MaxLostAttempts {
		b.expired()
		touched := b.reap(false)
		want := lehr.BuildPending
		if i == lehr.MaxLostAttempts-1 {
			want = lehr.BuildFailed
		}
		if len(touched) != 1 || touched[0].Status != want {
			b.Fatalf("loss %d: Reap() = %+v, want %s", i+1, touched, want)
		}
	}
	failed := b.get(n.ID)
	if failed.Error == nil || failed.Error.Code != "attempts_exhausted" || failed.Error.Fault != lehr.FaultPlatform {
		b.Errorf("error = %+v, want attempts_exhausted by the platform", failed.Error)
	}
	if _, ok, err := b.Queue().Claim(b.ctx, "w", lease); ok || err != nil {
		b.Errorf("Claim() = %v, %v; want nothing", ok, err)
	}
}

func reapUnplaced(b *bench) {
	b.create(b.newBuild("app"))
	running := b.claim()
	waiting := b.create(b.newBuild("app"))
	touched, err := b.Queue().Reap(b.ctx, false, lease)
	b.ok(err, "Reap()")
	b.equal(len(touched), 0, "the number of builds that waited an hour")
	touched, err = b.Queue().Reap(b.ctx, false, instant)
	b.ok(err, "Reap()")
	if len(touched) != 1 || touched[0].ID != waiting.ID || touched[0].Status != lehr.BuildFailed || touched[0].CompletedAt.IsZero() {
		b.Fatalf("Reap() = %+v, want %s failed", touched, waiting.ID)
	}
	if e := touched[0].Error; e == nil || e.Code != "unplaced" || e.Fault != lehr.FaultPlatform {
		b.Errorf("error = %+v, want unplaced by the platform", e)
	}
	b.equal(b.get(running.ID).Status, lehr.BuildRunning, "the running build")
}
