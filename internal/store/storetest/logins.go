package storetest

import (
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// registryLogin gives a build's login to its running attempt alone, and to
// nobody once the build has ended, however it did.
func registryLogin(b *bench) {
	sealed := []byte{1, 0, 255, 'x'}
	create := func(name string) lehr.BuildID {
		n := b.newBuild(name)
		n.RegistryLogin = sealed
		return b.create(n).ID
	}
	want := func(f lehr.Fence) {
		b.Helper()
		got, err := b.Builds().RegistryLogin(b.ctx, f)
		b.ok(err, "RegistryLogin()")
		b.equal(got, sealed, "the login")
	}
	gone := func(f lehr.Fence, what string) {
		b.Helper()
		got, err := b.Builds().RegistryLogin(b.ctx, f)
		b.kind(err, errs.Conflict, "RegistryLogin() %s", what)
		if got != nil {
			b.Errorf("RegistryLogin() %s = %q", what, got)
		}
	}
	claim := func(id lehr.BuildID) lehr.Fence {
		b.Helper()
		claimed, ok, err := b.Queue().Claim(b.ctx, "w", lease)
		b.ok(err, "Claim()")
		if !ok || claimed.ID != id {
			b.Fatalf("Claim() = %s, %v, want %s", claimed.ID, ok, id)
		}
		return lehr.Fence{BuildID: id, Attempt: claimed.Attempt}
	}

	failed := create("failed")
	f := claim(failed)
	want(f)
	status, err := b.Queue().GiveBack(b.ctx, f, lehr.AttemptLost, nil)
	b.ok(err, "GiveBack()")
	b.equal(status, lehr.BuildPending, "the status")
	gone(f, "of a lost attempt")
	f = claim(failed)
	want(f)
	b.ok(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildFailed, Error: failure()}), "Finish()")
	gone(f, "of a failed build")

	cancelled := create("cancelled")
	f = claim(cancelled)
	_, err = b.Builds().Cancel(b.ctx, b.team, cancelled)
	b.ok(err, "Cancel()")
	gone(f, "of a cancelled build")

	exhausted := create("exhausted")
	for range lehr.MaxLostAttempts {
		f = claim(exhausted)
		want(f)
		_, err = b.Queue().GiveBack(b.ctx, f, lehr.AttemptLost, nil)
		b.ok(err, "GiveBack()")
	}
	b.equal(b.get(exhausted).Status, lehr.BuildFailed, "the status")
	gone(f, "of a build whose attempts are used up")

	// The builds that the store itself ends.
	create("unplaced")
	ended, err := b.Queue().Reap(b.ctx, false, instant)
	b.ok(err, "Reap()")
	b.equal(len(ended), 1, "the builds that nobody could place")
	taken := create("taken back")
	for b.get(taken).Status == lehr.BuildPending {
		f = claim(taken)
		want(f)
		_, err = b.Queue().Reap(b.ctx, true, lease)
		b.ok(err, "Reap()")
	}
	gone(f, "of a build that was taken back too often")

	f = b.running("without")
	got, err := b.Builds().RegistryLogin(b.ctx, f)
	b.ok(err, "RegistryLogin() without one")
	if got != nil {
		b.Errorf("RegistryLogin() without one = %q", got)
	}
}
