package storetest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func raceScenarios() []scenario {
	return []scenario{
		{"ClaimEachOnce", claimEachOnce},
		{"CancelAgainstFinish", cancelAgainstFinish},
		{"CancelAgainstClaim", cancelAgainstClaim},
		{"ReapAgainstRenewAndFinish", reapAgainstFinish},
		{"AppendIsGapless", appendIsGapless},
		{"AppendAgainstClean", appendAgainstClean},
		{"SameIdempotencyKey", sameKeyAtOnce},
		{"SameName", sameNameAtOnce},
		{"ForgetAgainstCreate", forgetAgainstCreate},
		{"SandboxEndsOnce", sandboxEndsOnce},
	}
}

// parallel runs n functions at the same time and waits for them.
func parallel(n int, fn func(i int)) {
	var group sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		group.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	group.Wait()
}

func claimEachOnce(b *bench) {
	const total, workers = 200, 16
	parallel(4, func(int) {
		for range total / 4 {
			if _, _, err := b.Builds().Create(b.ctx, b.newBuild("app")); err != nil {
				b.Errorf("Create() = %v", err)
			}
		}
	})
	var mu sync.Mutex
	claims := map[lehr.BuildID]int{}
	parallel(workers, func(i int) {
		for {
			build, ok, err := b.Queue().Claim(b.ctx, fmt.Sprint("worker-", i), lease)
			if err != nil {
				b.Errorf("Claim() = %v", err)
				return
			}
			if !ok {
				return
			}
			mu.Lock()
			claims[build.ID]++
			mu.Unlock()
		}
	})
	// A claimer may find nothing while others hold what is left.
	for {
		build, ok, err := b.Queue().Claim(b.ctx, "last", lease)
		b.ok(err, "Claim()")
		if !ok {
			break
		}
		claims[build.ID]++
	}
	if len(claims) != total {
		b.Errorf("%d builds were claimed, want %d", len(claims), total)
	}
	for id, n := range claims {
		if n != 1 {
			b.Errorf("build %s was claimed %d times", id, n)
		}
	}
}

// rounds is how often a race of two is run.
const rounds = 60

// oneWinner fails unless exactly one of the errors is nil and the others are
// conflicts; it returns the winner.
func (b *bench) oneWinner(results []error, what string) int {
	b.Helper()
	winner := -1
	for i, err := range results {
		if err == nil && winner >= 0 {
			b.Errorf("%s: %d and %d both won", what, winner, i)
		}
		if err == nil {
			winner = i
			continue
		}
		b.kind(err, errs.Conflict, "%s: loser %d", what, i)
	}
	if winner < 0 {
		b.Fatalf("%s: nobody won: %v", what, results)
	}
	return winner
}

func cancelAgainstFinish(b *bench) {
	for round := range rounds {
		name := fmt.Sprintf("app-%d", round)
		f := b.running(name)
		v := version(b.team)
		results := make([]error, 3)
		parallel(3, func(i int) {
			switch i {
			case 0:
				_, results[i] = b.Builds().Cancel(b.ctx, b.team, f.BuildID)
			case 1:
				results[i] = b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: v})
			case 2:
				results[i] = b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildFailed, Error: failure()})
			}
		})
		winner := b.oneWinner(results, "cancel against finish")
		want := []lehr.BuildStatus{lehr.BuildCancelled, lehr.BuildSuccess, lehr.BuildFailed}[winner]
		b.equal(b.get(f.BuildID).Status, want, "the status")
		_, versionErr := b.Templates().Version(b.ctx, v.ID)
		_, resolveErr := b.Templates().Resolve(b.ctx, b.team, lehr.Ref{Name: name, Tag: lehr.DefaultTag})
		wantKind := errs.NotFound
		if want == lehr.BuildSuccess {
			wantKind = ""
		}
		b.kind(versionErr, wantKind, "Version() of a build that is %s", want)
		b.kind(resolveErr, wantKind, "Resolve() of a build that is %s", want)
	}
}

func cancelAgainstClaim(b *bench) {
	for range rounds {
		n := b.create(b.newBuild("app"))
		var claimed bool
		var claimErr, cancelErr error
		parallel(2, func(i int) {
			if i == 0 {
				_, claimed, claimErr = b.Queue().Claim(b.ctx, "w", lease)
				return
			}
			_, cancelErr = b.Builds().Cancel(b.ctx, b.team, n.ID)
		})
		b.ok(claimErr, "Claim()")
		b.ok(cancelErr, "Cancel()")
		build := b.get(n.ID)
		b.equal(build.Status, lehr.BuildCancelled, "the status")
		if claimed != (build.Attempt == 1) {
			b.Errorf("claimed %v, but attempt is %d", claimed, build.Attempt)
		}
		if claimed {
			b.kind(b.Queue().Renew(b.ctx, fenceOf(build), lease), errs.Conflict, "Renew() of a cancelled build")
		}
	}
}

func reapAgainstFinish(b *bench) {
	for range rounds {
		b.create(b.newBuild("app"))
		f := b.expired()
		var touched []lehr.Build
		var reapErr, finishErr, renewErr error
		parallel(3, func(i int) {
			switch i {
			case 0:
				touched, reapErr = b.Queue().Reap(b.ctx, false, 0)
			case 1:
				finishErr = b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: version(b.team)})
			case 2:
				renewErr = b.Queue().Renew(b.ctx, f, lease)
			}
		})
		b.ok(reapErr, "Reap()")
		if renewErr != nil {
			b.kind(renewErr, errs.Conflict, "Renew()")
		}
		build := b.get(f.BuildID)
		reaped := len(touched) == 1
		if reaped == (finishErr == nil) {
			b.Errorf("reaped %v and Finish() = %v, want exactly one", reaped, finishErr)
		}
		if reaped && renewErr == nil {
			b.Error("an attempt was renewed, and reaped all the same")
		}
		if finishErr == nil {
			b.equal(build.Status, lehr.BuildSuccess, "the status")
			continue
		}
		b.equal(build.Status, lehr.BuildPending, "the status")
		_, err := b.Builds().Cancel(b.ctx, "", f.BuildID)
		b.ok(err, "Cancel()")
	}
}

func appendIsGapless(b *bench) {
	const writers, batches = 8, 25
	f := b.running("app")
	ctx, stop := context.WithCancel(b.ctx)
	var follower sync.WaitGroup
	var followed atomic.Int64
	follower.Go(func() { b.follow(ctx, f.BuildID, &followed) })
	parallel(writers, func(i int) {
		for n := range batches {
			batch := []lehr.LogLine{line(fmt.Sprint(i, " ", n)), line("second"), line("third")}
			kept, err := b.Logs().Append(b.ctx, f, batch)
			if err != nil || len(kept) != 3 || kept[2].Seq != kept[0].Seq+2 {
				b.Errorf("Append() = %v, %v; want three seqs in a row", kept, err)
			}
		}
	})
	stop()
	follower.Wait()
	var seen []lehr.LogLine
	for {
		page, err := b.Logs().Read(b.ctx, f.BuildID, int64(len(seen)), 100)
		b.ok(err, "Read()")
		if len(page) == 0 {
			break
		}
		seen = append(seen, page...)
	}
	b.equal(len(seen), writers*batches*3, "the number of lines")
	b.gapless(seen)
}

// follow reads from a growing log; a seq must never appear behind one that
// was read.
func (b *bench) follow(ctx context.Context, id lehr.BuildID, last *atomic.Int64) {
	for ctx.Err() == nil {
		page, err := b.Logs().Read(b.ctx, id, last.Load(), 7)
		if err != nil {
			b.Errorf("Read() = %v", err)
			return
		}
		for _, l := range page {
			if l.Seq != last.Add(1) {
				b.Errorf("a follower saw seq %d after %d", l.Seq, last.Load()-1)
				return
			}
		}
	}
}

// appendAgainstClean checks that no line comes after the clean-up is recorded.
func appendAgainstClean(b *bench) {
	for range rounds / 3 {
		f := b.running("app")
		_, err := b.Builds().Cancel(b.ctx, "", f.BuildID)
		b.ok(err, "Cancel()")
		var atClean []lehr.LogLine
		parallel(5, func(i int) {
			if i == 0 {
				if err := b.Queue().MarkClean(b.ctx, f); err != nil {
					b.Errorf("MarkClean() = %v", err)
				}
				var err error
				if atClean, err = b.Logs().Read(b.ctx, f.BuildID, 0, 1000); err != nil {
					b.Errorf("Read() = %v", err)
				}
				return
			}
			for {
				_, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{line("x")})
				if errs.IsKind(err, errs.Conflict) {
					return
				}
				if err != nil {
					b.Errorf("Append() = %v", err)
					return
				}
			}
		})
		after, err := b.Logs().Read(b.ctx, f.BuildID, 0, 1000)
		b.ok(err, "Read()")
		b.equal(len(after), len(atClean), "the number of lines after the clean-up")
		b.gapless(after)
	}
}

func sameKeyAtOnce(b *bench) {
	const callers = 8
	for round := range rounds / 6 {
		var created atomic.Int64
		ids := make([]lehr.BuildID, callers)
		parallel(callers, func(i int) {
			n := b.newBuild("app")
			n.IdempotencyKey = fmt.Sprint("key-", round)
			build, isNew, err := b.Builds().Create(b.ctx, n)
			if err != nil {
				b.Errorf("Create() = %v", err)
			}
			if isNew {
				created.Add(1)
			}
			ids[i] = build.ID
		})
		b.equal(created.Load(), int64(1), "the number of builds made for one key")
		for _, id := range ids {
			b.equal(id, ids[0], "the build of the key")
		}
	}
}

func sameNameAtOnce(b *bench) {
	const callers = 8
	for round := range rounds / 6 {
		templates := make([]lehr.TemplateID, callers)
		teams := make([]lehr.TeamID, callers)
		parallel(callers, func(i int) {
			build, _, err := b.Builds().Create(b.ctx, b.newBuild(fmt.Sprint("app-", round)))
			if err != nil {
				b.Errorf("Create() = %v", err)
			}
			team, err := b.Accounts().EnsureTeam(b.ctx, fmt.Sprint("team-", round))
			if err != nil {
				b.Errorf("EnsureTeam() = %v", err)
			}
			templates[i], teams[i] = build.TemplateID, team.ID
		})
		for i := range callers {
			b.equal(templates[i], templates[0], "the template of the name")
			b.equal(teams[i], teams[0], "the team of the name")
		}
	}
}

func forgetAgainstCreate(b *bench) {
	for range rounds {
		v := b.publish("app")
		b.ok(b.Templates().Remove(b.ctx, b.team, "app", ""), "Remove()")
		s := b.sandboxOf(v.ID)
		var createErr, forgetErr error
		parallel(2, func(i int) {
			if i == 0 {
				_, _, createErr = b.Sandboxes().Create(b.ctx, s)
				return
			}
			_, _, forgetErr = b.Templates().Forget(b.ctx, v.ID)
		})
		if (createErr == nil) == (forgetErr == nil) {
			b.Fatalf("Create() = %v and Forget() = %v, want exactly one to win", createErr, forgetErr)
		}
		if createErr != nil {
			b.kind(createErr, errs.NotFound, "Create(sandbox)")
			continue
		}
		b.kind(forgetErr, errs.Conflict, "Forget()")
		_, err := b.Sandboxes().Move(b.ctx, s.ID, lehr.SandboxKilled, "")
		b.ok(err, "Move(killed)")
	}
}

func sandboxEndsOnce(b *bench) {
	v := b.put(b.team, "app", "default")
	for range rounds / 3 {
		id := b.newSandbox(v)
		reasons := []lehr.SandboxReason{lehr.ReasonUser, lehr.ReasonTTL, lehr.ReasonHostLost, lehr.ReasonOOM}
		results := make([]error, len(reasons))
		parallel(len(reasons), func(i int) {
			_, results[i] = b.Sandboxes().Move(b.ctx, id, lehr.SandboxKilled, reasons[i])
		})
		winner := b.oneWinner(results, "ends of a sandbox")
		s, err := b.Sandboxes().Get(b.ctx, "", id)
		b.ok(err, "Get()")
		b.equal(s.Reason, reasons[winner], "the reason")
	}
}
