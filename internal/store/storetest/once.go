package storetest

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// onceScenarios are idempotent creates of sandboxes, their failures, tags,
// expiry against its change, and builds that are put back.
func onceScenarios() []scenario {
	return []scenario{
		{"SandboxKey", sandboxKey},
		{"SandboxKeyAtOnce", sandboxKeyAtOnce},
		{"SandboxFail", sandboxFail},
		{"ExpireAgainstSetExpiry", expireAgainstSet},
		{"Tag", tagMoves},
		{"TagAgainstRemove", tagAgainstRemove},
		{"TagAgainstForget", tagAgainstForget},
		{"Defer", deferBuild},
		{"TakenBackDoesNotCount", takenBack},
	}
}

func keyed(key, request string) func(*store.NewSandbox) {
	return func(s *store.NewSandbox) { s.IdempotencyKey, s.RequestDigest = key, lehr.DigestOf([]byte(request)) }
}

func sandboxKey(b *bench) {
	v := b.put(b.team, "app", "default")
	first, err := b.trySandbox(v, keyed("key", "request"))
	b.ok(err, "Create()")
	b.equal(first.IdempotencyKey, "key", "the key")
	s := b.sandboxOf(v)
	keyed("key", "request")(&s)
	again, created, err := b.Sandboxes().Create(b.ctx, s)
	b.ok(err, "Create() again")
	if created || again.ID != first.ID {
		b.Errorf("Create() again = %s, created %v; want %s, false", again.ID, created, first.ID)
	}
	found, err := b.Sandboxes().ByKey(b.ctx, b.team, "key", s.RequestDigest)
	b.ok(err, "ByKey()")
	b.equal(found, again, "ByKey()")
	_, err = b.trySandbox(v, keyed("key", "another"))
	b.mismatch(err, "Create(another request)")
	_, err = b.Sandboxes().ByKey(b.ctx, b.team, "key", lehr.DigestOf([]byte("another")))
	b.mismatch(err, "ByKey(another request)")
	for team, key := range map[lehr.TeamID]string{b.team: "other", b.newTeam("team-b"): "key"} {
		_, err = b.Sandboxes().ByKey(b.ctx, team, key, s.RequestDigest)
		b.kind(err, errs.NotFound, "ByKey(%s)", key)
		next, err := b.trySandbox(v, func(s *store.NewSandbox) { keyed(key, "request")(s); s.TeamID = team })
		b.ok(err, "Create(%s)", key)
		if next.ID == first.ID {
			b.Errorf("Create(%s, %s) = %s, want another one", team, key, next.ID)
		}
	}
}

func (b *bench) mismatch(err error, what string) {
	b.Helper()
	if !errs.IsKind(err, errs.Conflict) || errs.CodeOf(err) != "idempotency_mismatch" {
		b.Errorf("%s = %v, want idempotency_mismatch", what, err)
	}
}

func sandboxKeyAtOnce(b *bench) {
	v := b.put(b.team, "app", "default")
	const callers = 20
	for round := range 5 {
		if round == 3 {
			b.limit(lehr.TeamLimits{Sandboxes: 10}) // the other way through
		}
		var created atomic.Int64
		ids := make([]lehr.SandboxID, callers)
		parallel(callers, func(i int) {
			s := b.sandboxOf(v)
			keyed(fmt.Sprint("key-", round), "request")(&s)
			if i%2 == 0 {
				s.Metadata = pairs("a=1")
			}
			box, isNew, err := b.Sandboxes().Create(b.ctx, s)
			if err != nil {
				b.Errorf("Create() = %v", err)
			}
			if isNew {
				created.Add(1)
			}
			ids[i] = box.ID
		})
		b.equal(created.Load(), int64(1), "the number of sandboxes made for one key")
		for _, id := range ids {
			b.equal(id, ids[0], "the sandbox of the key")
		}
	}
}

func sandboxFail(b *bench) {
	v := b.put(b.team, "app", "default")
	id := b.newSandbox(v)
	why := lehr.SandboxError{Kind: "exhausted", Code: "no_room", Field: "memory_mb", Message: "nothing is\x00free", Remedy: "wait"}
	failed, err := b.Sandboxes().Fail(b.ctx, id, lehr.ReasonEngine, why)
	b.ok(err, "Fail()")
	why.Message = "nothing is\uFFFDfree"
	if failed.State != lehr.SandboxFailed || failed.Reason != lehr.ReasonEngine || failed.EndedAt.IsZero() {
		b.Errorf("Fail() = %+v, want failed (engine) with an end", failed)
	}
	b.equal(failed.Error, &why, "the error")
	got, err := b.Sandboxes().Get(b.ctx, b.team, id)
	b.ok(err, "Get()")
	b.equal(got, failed, "Get()")
	_, err = b.Sandboxes().Fail(b.ctx, id, lehr.ReasonEngine, why)
	b.kind(err, errs.Conflict, "Fail(ended)")
	_, err = b.Sandboxes().Fail(b.ctx, lehr.NewSandboxID(), lehr.ReasonEngine, why)
	b.kind(err, errs.NotFound, "Fail(unknown)")
	b.put(b.team, "app", "default")
	_, _, err = b.Templates().Forget(b.ctx, v)
	b.ok(err, "Forget(version of a failed sandbox)")
}

// expireAgainstSet puts the end of an expired sandbox off while it is ended.
func expireAgainstSet(b *bench) {
	v := b.put(b.team, "app", "default")
	for range rounds / 3 {
		id := b.newSandbox(v)
		_, err := b.Sandboxes().SetExpiry(b.ctx, id, instant)
		b.ok(err, "SetExpiry()")
		var expired []lehr.Sandbox
		var expireErr, setErr error
		parallel(2, func(i int) {
			if i == 0 {
				expired, expireErr = b.Sandboxes().Expire(b.ctx, 10)
				return
			}
			_, setErr = b.Sandboxes().SetExpiry(b.ctx, id, lease)
		})
		b.ok(expireErr, "Expire()")
		if (len(expired) == 1) == (setErr == nil) {
			b.Fatalf("Expire() ended %d and SetExpiry() = %v, want one winner", len(expired), setErr)
		}
		if setErr != nil {
			b.kind(setErr, errs.Conflict, "SetExpiry()")
		}
		got, err := b.Sandboxes().Get(b.ctx, b.team, id)
		b.ok(err, "Get()")
		b.equal(got.State.Live(), setErr == nil, "live")
	}
}

func tagMoves(b *bench) {
	first, second := b.put(b.team, "app", "v1"), b.put(b.team, "app", "v2")
	for from, want := range map[string]lehr.VersionID{"v1": first, "v2": second} {
		for range 2 { // the second time says nothing new
			got, err := b.Templates().Tag(b.ctx, b.team, "app", from, "prod")
			b.ok(err, "Tag(%s)", from)
			b.equal(got.Version.ID, want, "Tag(%s)", from)
			b.equal(got.Tags, []string{"prod", from}, "the version's tags")
			b.equal(got.Tag, "prod", "the tag")
		}
		found, err := b.Templates().Resolve(b.ctx, b.team, lehr.Ref{Name: "app", Tag: "prod"})
		b.ok(err, "Resolve()")
		b.equal(found.Version.ID, want, "Resolve(prod)")
	}
	_, err := b.Templates().Tag(b.ctx, b.team, "app", "v1", "v1")
	b.ok(err, "Tag(itself)")
	for name, args := range map[string][3]string{
		"unknown tag": {string(b.team), "app", "v3"}, "unknown template": {string(b.team), "none", "v1"},
		"another team's": {string(b.newTeam("team-b")), "app", "v1"},
	} {
		_, err := b.Templates().Tag(b.ctx, lehr.TeamID(args[0]), args[1], args[2], "x")
		b.kind(err, errs.NotFound, "Tag(%s)", name)
	}
	_, err = b.Templates().Tag(b.ctx, b.team, "app", "v1", "")
	b.kind(err, errs.Invalid, "Tag(no tag)")
	for i := range store.MaxTags - 3 {
		_, err := b.Templates().Tag(b.ctx, b.team, "app", "v1", fmt.Sprint("t", i))
		b.ok(err, "Tag(%d)", i)
	}
	_, err = b.Templates().Tag(b.ctx, b.team, "app", "v1", "more")
	b.exhausted(err, "limit_tags", "a tag too many")
	_, err = b.Templates().Tag(b.ctx, b.team, "app", "v2", "t1")
	b.ok(err, "moving one of the most tags")
}

func tagAgainstRemove(b *bench) {
	for round := range rounds / 3 {
		name := fmt.Sprint("app-", round)
		b.put(b.team, name, "v1")
		var tagErr, removeErr error
		parallel(2, func(i int) {
			if i == 0 {
				_, tagErr = b.Templates().Tag(b.ctx, b.team, name, "v1", "prod")
				return
			}
			removeErr = b.Templates().Remove(b.ctx, b.team, name, "")
		})
		b.ok(removeErr, "Remove()")
		if tagErr != nil {
			b.kind(tagErr, errs.NotFound, "Tag()")
		}
		_, err := b.Templates().Get(b.ctx, b.team, name)
		b.kind(err, errs.NotFound, "Get() of a template that was removed while it was tagged")
	}
}

func tagAgainstForget(b *bench) {
	for range rounds / 3 {
		old := b.put(b.team, "app", "v1")
		var tagErr, removeErr, forgetErr error
		parallel(3, func(i int) {
			switch i {
			case 0:
				_, tagErr = b.Templates().Tag(b.ctx, b.team, "app", "v1", "prod")
			case 1:
				removeErr = b.Templates().Remove(b.ctx, b.team, "app", "v1")
			case 2:
				_, _, forgetErr = b.Templates().Forget(b.ctx, old)
			}
		})
		b.ok(removeErr, "Remove(v1)")
		_, err := b.Templates().Version(b.ctx, old)
		if (err == nil) == (forgetErr == nil) {
			b.Errorf("Forget() = %v, but Version() = %v", forgetErr, err)
		}
		found, err := b.Templates().Resolve(b.ctx, b.team, lehr.Ref{Name: "app", Tag: "prod"})
		if tagErr == nil && (err != nil || found.Version.ID != old) {
			b.Errorf("Tag() = nil, but Resolve(prod) = %s, %v", found.Version.ID, err)
		}
		if tagErr != nil {
			b.kind(tagErr, errs.NotFound, "Tag()")
		}
		if tagErr == nil {
			b.ok(b.Templates().Remove(b.ctx, b.team, "app", "prod"), "Remove(prod)")
		}
	}
}

func deferBuild(b *bench) {
	f := b.running("app")
	b.ok(b.Queue().Defer(b.ctx, f, lease), "Defer()")
	put := b.get(f.BuildID)
	if put.Status != lehr.BuildPending || put.LostAttempts != 0 {
		b.Errorf("Defer() leaves %s with %d lost attempts, want pending and none", put.Status, put.LostAttempts)
	}
	if _, ok, err := b.Queue().Claim(b.ctx, "w", lease); ok || err != nil {
		b.Errorf("Claim() of a deferred build = %v, %v; want nothing", ok, err)
	}
	next := b.create(b.newBuild("app"))
	claimed := b.claim()
	b.equal(claimed.ID, next.ID, "the build behind a deferred one")
	b.ok(b.Queue().Defer(b.ctx, fenceOf(claimed), instant), "Defer(for a moment)")
	again := b.claim()
	b.equal(again.ID, next.ID, "a build whose wait is over")
	b.kind(b.Queue().Defer(b.ctx, f, lease), errs.Conflict, "Defer(an attempt that is over)")
	b.kind(b.Queue().Defer(b.ctx, fenceOf(again), -1), errs.Invalid, "Defer(negative)")
	_, err := b.Queue().GiveBack(b.ctx, fenceOf(again), lehr.AttemptGivenBack, nil)
	b.ok(err, "GiveBack()")
	b.equal(b.claim().ID, next.ID, "a build given back without a wait")
	_, err = b.Builds().Cancel(b.ctx, b.team, f.BuildID)
	b.ok(err, "Cancel(deferred)")
}

// takenBack is many starts of a control plane under one build.
func takenBack(b *bench) {
	n := b.create(b.newBuild("app"))
	for i := 1; i <= lehr.MaxTakenBack; i++ {
		b.claim()
		touched := b.reap(true)
		want := lehr.BuildPending
		if i == lehr.MaxTakenBack {
			want = lehr.BuildFailed
		}
		if len(touched) != 1 || touched[0].Status != want || touched[0].LostAttempts != 0 {
			b.Fatalf("start %d: Reap(all) = %+v, want %s with no lost attempt", i, touched, want)
		}
	}
	failed := b.get(n.ID)
	if e := failed.Error; e == nil || e.Code != "attempts_exhausted" || e.Fault != lehr.FaultPlatform || !strings.Contains(e.Message, fmt.Sprint(lehr.MaxTakenBack)) {
		b.Errorf("error = %+v, want attempts_exhausted by the platform", e)
	}
	unclean, err := b.Queue().Unclean(b.ctx, 100)
	b.ok(err, "Unclean()")
	for _, a := range unclean {
		b.equal(a.End, lehr.AttemptLost, "the end of an attempt")
	}
	b.equal(len(unclean), lehr.MaxTakenBack, "the attempts to clean up")
}
