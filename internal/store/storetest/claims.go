package storetest

import (
	"strings"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func claimScenarios() []scenario {
	return []scenario{
		{"Protects", claimProtects},
		{"EndsWithCleanUp", claimEndsWithCleanUp},
		{"OfAnEndedAttempt", claimOfAnEndedAttempt},
		{"Condemned", claimOfTheCondemned},
		{"Version", versionOfTheCondemned},
		{"Unfinished", unfinishedRemovals},
		{"Invalid", claimInvalid},
		{"BaseOfABuild", baseOfABuild},
		{"Census", census},
		{"Races", claimAgainstCondemn},
	}
}

const heldHost = lehr.HostID("host-1")

func held(name string, made bool) store.Held {
	return store.Held{Host: heldHost, Digest: lehr.DigestOf([]byte(name)), Made: made}
}

// claims claims h for the attempt.
func (b *bench) claims(f lehr.Fence, h store.Held) {
	b.Helper()
	b.ok(b.Templates().Claim(b.ctx, f, h), "Claim(%s)", h.Digest)
}

// inUse wants the removal of h refused.
func (b *bench) inUse(h store.Held, by lehr.Fence, why string) {
	b.Helper()
	err := b.Templates().Condemn(b.ctx, h, by)
	b.kind(err, errs.Conflict, "Condemn() %s", why)
	b.equal(errs.CodeOf(err), "artifact_in_use", "the code %s", why)
}

func claimProtects(b *bench) {
	first, second := b.running("one"), b.running("two")
	h := held("image", true)
	b.claims(first, h)
	b.claims(first, h) // again is no error
	b.claims(second, held("image", false))
	b.inUse(h, lehr.Fence{}, "while two attempts claim it")
	b.inUse(h, first, "while another attempt claims it")
	other := h
	other.Host = "host-2"
	b.ok(b.Templates().Condemn(b.ctx, other, lehr.Fence{}), "Condemn(on another host)")
	b.ok(b.Templates().Absolve(b.ctx, other), "Absolve()")
	got, err := b.Templates().Claimed(b.ctx, second)
	b.ok(err, "Claimed()")
	b.equal(got, []store.Held{held("image", false)}, "Claimed()")
}

func claimEndsWithCleanUp(b *bench) {
	f := b.running("app")
	h := held("image", true)
	b.claims(f, h)
	b.ok(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildFailed, Error: failure()}), "Finish(failed)")
	b.inUse(h, lehr.Fence{}, "before the clean-up")
	b.ok(b.Templates().Condemn(b.ctx, h, f), "Condemn() by the claimer")
	b.ok(b.Templates().Absolve(b.ctx, h), "Absolve()")
	other := b.running("other")
	b.claims(other, h)
	b.ok(b.Queue().Finish(b.ctx, other, store.Finish{Status: lehr.BuildFailed, Error: failure()}), "Finish(failed)")
	b.ok(b.Queue().MarkClean(b.ctx, other), "MarkClean()")
	b.ok(b.Templates().Condemn(b.ctx, h, lehr.Fence{}), "Condemn() after the clean-up")
	got, err := b.Templates().Claimed(b.ctx, other)
	b.ok(err, "Claimed()")
	b.equal(got, []store.Held{}, "Claimed() after the clean-up")
}

func claimOfAnEndedAttempt(b *bench) {
	f := b.running("app")
	_, err := b.Builds().Cancel(b.ctx, b.team, f.BuildID)
	b.ok(err, "Cancel()")
	b.kind(b.Templates().Claim(b.ctx, f, held("image", true)), errs.Conflict, "Claim(cancelled)")
	b.kind(b.Templates().Claim(b.ctx, lehr.Fence{BuildID: lehr.NewBuildID(), Attempt: 1}, held("image", true)), errs.NotFound, "Claim(unknown build)")
}

func claimOfTheCondemned(b *bench) {
	f := b.running("app")
	h := held("image", true)
	b.ok(b.Templates().Condemn(b.ctx, h, lehr.Fence{}), "Condemn()")
	for what, err := range map[string]error{
		"Claim()":         b.Templates().Claim(b.ctx, f, h),
		"Condemn() again": b.Templates().Condemn(b.ctx, h, lehr.Fence{}),
	} {
		b.kind(err, errs.Conflict, "%s of the condemned", what)
		b.equal(errs.CodeOf(err), "artifact_condemned", "the code of %s", what)
	}
	b.ok(b.Templates().Absolve(b.ctx, h), "Absolve()")
	b.ok(b.Templates().Absolve(b.ctx, h), "Absolve() again")
	b.claims(f, h)
}

func versionOfTheCondemned(b *bench) {
	v := version(b.team)
	for _, d := range []lehr.Digest{v.ImageDigest, v.SnapshotDigest} {
		h := store.Held{Host: heldHost, Digest: d}
		b.ok(b.Templates().Condemn(b.ctx, h, lehr.Fence{}), "Condemn()")
		_, err := b.Templates().PutVersion(b.ctx, "app", "default", *v)
		b.kind(err, errs.Conflict, "PutVersion(condemned)")
		f := b.running("built")
		err = b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: v})
		b.equal(errs.CodeOf(err), "artifact_condemned", "the code of Finish(condemned)")
		b.equal(b.get(f.BuildID).Status, lehr.BuildRunning, "the build after a refused Finish()")
		b.ok(b.Templates().Absolve(b.ctx, h), "Absolve()")
	}
	_, err := b.Templates().PutVersion(b.ctx, "app", "default", *v)
	b.ok(err, "PutVersion()")
	b.inUse(store.Held{Host: heldHost, Digest: v.SnapshotDigest}, lehr.Fence{}, "while a version names it")
}

func unfinishedRemovals(b *bench) {
	h := held("image", false)
	b.ok(b.Templates().Condemn(b.ctx, h, lehr.Fence{}), "Condemn()")
	for age, want := range map[time.Duration][]store.Held{0: {h}, lease: {}} {
		got, err := b.Templates().Condemned(b.ctx, age, 10)
		b.ok(err, "Condemned()")
		b.equal(got, want, "Condemned(%v)", age)
	}
}

func claimInvalid(b *bench) {
	f := b.running("app")
	for _, h := range []store.Held{{Host: heldHost}, {Digest: lehr.DigestOf(nil)}} {
		b.kind(b.Templates().Claim(b.ctx, f, h), errs.Invalid, "Claim(%+v)", h)
		b.kind(b.Templates().Condemn(b.ctx, h, f), errs.Invalid, "Condemn(%+v)", h)
	}
	_, err := b.Templates().Condemned(b.ctx, 0, 0)
	b.kind(err, errs.Invalid, "Condemned(limit 0)")
}

// baseOfABuild wants live builds named that still have to begin with what is
// to be removed.
func baseOfABuild(b *bench) {
	b.publish("base")
	b.publish("base-2")
	// More than a store looks at in one go only seem to.
	for i := range 300 {
		n := b.newBuild("elsewhere")
		n.Spec.BaseTemplate = []string{"base-2", "xbase"}[i%2]
		b.create(n)
	}
	image := b.newBuild("pulled")
	image.Spec.BaseTemplate, image.Spec.BaseImage = "base", "docker.io/library/base:latest"
	b.create(image)
	var in []lehr.Build
	for _, base := range []string{"base", "team-a/base:default"} {
		n := b.newBuild("on")
		n.Spec.BaseTemplate = base
		in = append(in, b.create(n))
	}
	for _, tag := range []string{"", lehr.DefaultTag} {
		err := b.Templates().Remove(b.ctx, b.team, "base", tag)
		b.kind(err, errs.Conflict, "Remove(base:%s)", tag)
		for _, build := range in {
			if !strings.Contains(err.Error(), string(build.ID)) {
				b.Errorf("Remove() = %v, want %s named", err, build.ID)
			}
		}
		if got := strings.Count(err.Error(), "bld-"); got != len(in) {
			b.Errorf("Remove() = %v names %d builds, want %d", err, got, len(in))
		}
	}
	for _, build := range in {
		_, err := b.Builds().Cancel(b.ctx, b.team, build.ID)
		b.ok(err, "Cancel()")
	}
	b.ok(b.Templates().Remove(b.ctx, b.team, "base", ""), "Remove() after the builds' end")
}

func census(b *bench) {
	v := b.publish("app")
	b.newSandbox(v.ID)
	b.running("running")
	b.create(b.newBuild("pending"))
	got, err := b.Templates().Census(b.ctx)
	b.ok(err, "Census()")
	b.equal(got.Builds[lehr.BuildPending], int64(1), "pending builds")
	b.equal(got.Builds[lehr.BuildRunning], int64(1), "running builds")
	b.equal(got.Sandboxes[lehr.SandboxCreating], int64(1), "sandboxes being created")
}

// claimAgainstCondemn has one winner each time.
func claimAgainstCondemn(b *bench) {
	f := b.running("app")
	for i := range 30 {
		h := held(strings.Repeat("x", i+1), true)
		var race sync.WaitGroup
		var claim, condemn error
		race.Go(func() { claim = b.Templates().Claim(b.ctx, f, h) })
		race.Go(func() { condemn = b.Templates().Condemn(b.ctx, h, lehr.Fence{}) })
		race.Wait()
		if (claim == nil) == (condemn == nil) {
			b.Fatalf("Claim() = %v, Condemn() = %v, want exactly one success", claim, condemn)
		}
	}
}
