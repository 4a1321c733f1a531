package storetest

import (
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func queueScenarios() []scenario {
	return []scenario{
		{"ClaimBeginsAnAttempt", claimBeginsAnAttempt},
		{"ClaimOrder", claimOrder},
		{"ClaimIsFair", claimIsFair},
		{"ClaimNothing", claimNothing},
		{"Place", place},
		{"PutStep", putStep},
		{"StepsAreTheAttempts", stepsAreTheAttempts},
		{"GiveBackGracefully", giveBackGracefully},
		{"FifthLossFails", fifthLossFails},
		{"GiveBackRefuses", giveBackRefuses},
		{"Clean", clean},
	}
}

func claimBeginsAnAttempt(b *bench) {
	made := b.create(b.newBuild("app"))
	claimed := b.claim()
	if claimed.StartedAt.IsZero() || claimed.StartedAt.Before(claimed.CreatedAt) {
		b.Errorf("StartedAt = %v, want a time after %v", claimed.StartedAt, claimed.CreatedAt)
	}
	made.Status, made.Attempt, made.StartedAt = lehr.BuildRunning, 1, claimed.StartedAt
	b.equal(claimed, made, "Claim()")
	b.ok(b.Queue().Renew(b.ctx, fenceOf(claimed), lease), "Renew()")
	b.kind(b.Queue().Renew(b.ctx, fenceOf(claimed), 0), errs.Invalid, "Renew(no lease)")
}

func claimOrder(b *bench) {
	var want []lehr.BuildID
	for _, priority := range []int32{0, 5, -1, 5, 0} {
		n := b.newBuild("app")
		n.Spec.Priority = priority
		want = append(want, b.create(n).ID)
	}
	want = []lehr.BuildID{want[1], want[3], want[0], want[4], want[2]}
	for i, id := range want {
		b.equal(b.claim().ID, id, "claim %d", i)
	}
}

// claimIsFair has a team with many builds and one that comes later with two.
func claimIsFair(b *bench) {
	var busy, late []lehr.BuildID
	for range 4 {
		busy = append(busy, b.create(b.newBuild("app")).ID)
	}
	b.equal(b.claim().ID, busy[0], "the first claim")
	other := b.newTeam("team-b")
	for range 2 {
		n := b.newBuild("app")
		n.TeamID = other
		late = append(late, b.create(n).ID)
	}
	for i, id := range []lehr.BuildID{late[0], busy[1], late[1], busy[2], busy[3]} {
		b.equal(b.claim().ID, id, "claim %d", i+2)
	}
}

func claimNothing(b *bench) {
	if _, ok, err := b.Queue().Claim(b.ctx, "w", lease); ok || err != nil {
		b.Errorf("Claim() of an empty queue = %v, %v; want false, nil", ok, err)
	}
	_, _, err := b.Queue().Claim(b.ctx, "", lease)
	b.kind(err, errs.Invalid, "Claim(no worker)")
	_, _, err = b.Queue().Claim(b.ctx, "w", 0)
	b.kind(err, errs.Invalid, "Claim(no lease)")
}

func place(b *bench) {
	f := b.running("app")
	host, sandbox := lehr.NewHostID(), lehr.NewSandboxID()
	b.ok(b.Queue().Place(b.ctx, f, host, sandbox), "Place()")
	placed := b.get(f.BuildID)
	if placed.HostID != host || placed.SandboxID != sandbox {
		b.Errorf("placed on %s in %s, want %s in %s", placed.HostID, placed.SandboxID, host, sandbox)
	}
	_, err := b.Queue().GiveBack(b.ctx, f, lehr.AttemptGivenBack, nil)
	b.ok(err, "GiveBack()")
	b.claim()
	if again := b.get(f.BuildID); again.HostID != "" || again.SandboxID != "" {
		b.Errorf("the next attempt begins on %q in %q, want nowhere", again.HostID, again.SandboxID)
	}
}

func step(number int32, status lehr.StepStatus) lehr.StepResult {
	exit := number
	return lehr.StepResult{
		Attempt: 1, Step: number, Phase: lehr.PhaseRecipe, Cmd: "RUN true", Status: status, Exit: &exit,
		OK: status == lehr.StepSuccess, Elapsed: 1234567000, Cached: true, CacheReason: "same key",
		StdoutTail: "out", StderrTail: "err",
	}
}

func putStep(b *bench) {
	f := b.running("app")
	started := lehr.StepResult{Attempt: 1, Step: 1, Phase: lehr.PhasePreBuild, Cmd: "apt-get update", Status: lehr.StepRunning}
	b.ok(b.Queue().PutStep(b.ctx, f, started), "PutStep(running)")
	b.equal(b.get(f.BuildID).Steps, []lehr.StepResult{started}, "the steps")
	done := step(1, lehr.StepSuccess)
	b.ok(b.Queue().PutStep(b.ctx, f, done), "PutStep(success)")
	second := step(2, lehr.StepFailed)
	b.ok(b.Queue().PutStep(b.ctx, f, second), "PutStep(2)")
	build := b.get(f.BuildID)
	b.equal(build.Steps, []lehr.StepResult{done, second}, "the steps")
	b.equal(build.CurrentStep, int32(2), "the current step")

	long := step(3, lehr.StepRunning)
	long.StdoutTail = fill(lehr.StepTailBytes, "ä") + "end"
	long.StderrTail = "nul\x00 and \xff"
	b.ok(b.Queue().PutStep(b.ctx, f, long), "PutStep(long)")
	kept := b.get(f.BuildID).Steps[2]
	if n := len(kept.StdoutTail); n > lehr.StepTailBytes || n < lehr.StepTailBytes-4 || kept.StdoutTail[n-3:] != "end" {
		b.Errorf("the tail has %d bytes and ends in %q, want the last %d", n, kept.StdoutTail[n-3:], lehr.StepTailBytes)
	}
	b.equal(kept.StderrTail, "nul\uFFFD and \uFFFD", "a tail with bytes that are no text")

	bad := step(4, "odd")
	b.kind(b.Queue().PutStep(b.ctx, f, bad), errs.Invalid, "PutStep(odd status)")
	b.equal(len(b.get(f.BuildID).Steps), 3, "the number of steps")
}

// fill repeats s up to at least n bytes.
func fill(n int, s string) string {
	text := make([]byte, 0, n+len(s))
	for len(text) < n {
		text = append(text, s...)
	}
	return string(text)
}

func stepsAreTheAttempts(b *bench) {
	f := b.running("app")
	b.ok(b.Queue().PutStep(b.ctx, f, step(3, lehr.StepSuccess)), "PutStep()")
	_, err := b.Queue().GiveBack(b.ctx, f, lehr.AttemptLost, nil)
	b.ok(err, "GiveBack()")
	again := b.claim()
	if again.CurrentStep != 0 || len(b.get(f.BuildID).Steps) != 0 {
		b.Errorf("attempt 2 begins with step %d and steps %v, want none", again.CurrentStep, b.get(f.BuildID).Steps)
	}
	want := step(1, lehr.StepSuccess)
	want.Attempt = 2
	b.ok(b.Queue().PutStep(b.ctx, fenceOf(again), step(1, lehr.StepSuccess)), "PutStep(attempt 2)")
	b.equal(b.get(f.BuildID).Steps, []lehr.StepResult{want}, "the steps of attempt 2")
}

func giveBackGracefully(b *bench) {
	f := b.running("app")
	for range 2 * lehr.MaxLostAttempts {
		status, err := b.Queue().GiveBack(b.ctx, f, lehr.AttemptGivenBack, failure())
		b.ok(err, "GiveBack()")
		b.equal(status, lehr.BuildPending, "the status after GiveBack()")
		f = fenceOf(b.claim())
	}
	build := b.get(f.BuildID)
	b.equal(build.LostAttempts, int32(0), "the lost attempts")
	b.equal(build.Attempt, int32(2*lehr.MaxLostAttempts+1), "the attempt")
}

func fifthLossFails(b *bench) {
	for _, last := range []*lehr.BuildError{failure(), nil} {
		f := b.running("app")
		for i := 1; i < lehr.MaxLostAttempts; i++ {
			status, err := b.Queue().GiveBack(b.ctx, f, lehr.AttemptLost, last)
			b.ok(err, "GiveBack(lost)")
			build := b.get(f.BuildID)
			if status != lehr.BuildPending || build.LostAttempts != int32(i) || build.Error != nil {
				b.Fatalf("loss %d: status %s, %d lost, error %v; want pending and no error", i, status, build.LostAttempts, build.Error)
			}
			f = fenceOf(b.claim())
		}
		status, err := b.Queue().GiveBack(b.ctx, f, lehr.AttemptLost, last)
		b.ok(err, "GiveBack(the last)")
		build := b.get(f.BuildID)
		if status != lehr.BuildFailed || build.Status != lehr.BuildFailed || build.CompletedAt.IsZero() {
			b.Errorf("the last loss leaves %s (%s), want failed", status, build.Status)
		}
		if last != nil {
			b.equal(build.Error, last, "the error")
			continue
		}
		if build.Error.Code != "attempts_exhausted" || build.Error.Fault != lehr.FaultPlatform {
			b.Errorf("error = %+v, want attempts_exhausted by the platform", build.Error)
		}
	}
}

func giveBackRefuses(b *bench) {
	f := b.running("app")
	for _, end := range []lehr.AttemptEnd{"", lehr.AttemptFailed, lehr.AttemptSucceeded, lehr.AttemptCancelled} {
		_, err := b.Queue().GiveBack(b.ctx, f, end, nil)
		b.kind(err, errs.Invalid, "GiveBack(%q)", end)
	}
	b.equal(b.get(f.BuildID).Status, lehr.BuildRunning, "the status")
}

func clean(b *bench) {
	f := b.running("app")
	b.kind(b.Queue().MarkClean(b.ctx, f), errs.Conflict, "MarkClean(running)")
	host, sandbox := lehr.NewHostID(), lehr.NewSandboxID()
	b.ok(b.Queue().Place(b.ctx, f, host, sandbox), "Place()")
	_, err := b.Queue().GiveBack(b.ctx, f, lehr.AttemptLost, nil)
	b.ok(err, "GiveBack()")
	second := fenceOf(b.claim())
	b.ok(b.Queue().Finish(b.ctx, second, store.Finish{Status: lehr.BuildFailed, Error: failure()}), "Finish()")

	unclean, err := b.Queue().Unclean(b.ctx, 10)
	b.ok(err, "Unclean()")
	if len(unclean) != 2 {
		b.Fatalf("Unclean() = %+v, want two attempts", unclean)
	}
	first := unclean[0]
	want := lehr.Attempt{
		BuildID: f.BuildID, Number: 1, Worker: "worker-1", HostID: host, SandboxID: sandbox, LeaseEnds: first.LeaseEnds,
		StartedAt: first.StartedAt, EndedAt: first.EndedAt, End: lehr.AttemptLost,
	}
	b.equal(first, want, "the first unclean attempt")
	if first.EndedAt.IsZero() || first.LeaseEnds.Sub(first.StartedAt) != lease {
		b.Errorf("attempt = %+v, want a lease of %v and an end", first, lease)
	}
	b.equal(unclean[1].End, lehr.AttemptFailed, "the end of the second")
	for range 2 {
		b.ok(b.Queue().MarkClean(b.ctx, f), "MarkClean()")
	}
	left, err := b.Queue().Unclean(b.ctx, 1)
	b.ok(err, "Unclean()")
	if len(left) != 1 || left[0].Number != 2 {
		b.Errorf("Unclean() = %+v, want attempt 2", left)
	}
	b.kind(b.Queue().MarkClean(b.ctx, lehr.Fence{BuildID: f.BuildID, Attempt: 3}), errs.NotFound, "MarkClean(no such attempt)")
	b.kind(b.Queue().MarkClean(b.ctx, lehr.Fence{BuildID: lehr.NewBuildID(), Attempt: 1}), errs.NotFound, "MarkClean(no such build)")
	_, err = b.Queue().Unclean(b.ctx, 0)
	b.kind(err, errs.Invalid, "Unclean(0)")
}
