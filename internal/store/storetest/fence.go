package storetest

import (
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func fenceScenarios() []scenario {
	return []scenario{
		{"TakenOver", takenOver},
		{"LastLinesUntilClean", lastLinesUntilClean},
		{"LostButNotTakenOver", lostButNotTakenOver},
		{"UnknownFence", unknownFence},
	}
}

// fenced is every write of an attempt by name.
func (b *bench) fenced(f lehr.Fence) map[string]error {
	_, appendErr := b.Logs().Append(b.ctx, f, []lehr.LogLine{line("x")})
	_, giveBackErr := b.Queue().GiveBack(b.ctx, f, lehr.AttemptLost, nil)
	return map[string]error{
		"Renew":           b.Queue().Renew(b.ctx, f, lease),
		"Place":           b.Queue().Place(b.ctx, f, lehr.NewHostID(), lehr.NewSandboxID()),
		"PutStep":         b.Queue().PutStep(b.ctx, f, step(1, lehr.StepSuccess)),
		"Append":          appendErr,
		"GiveBack":        giveBackErr,
		"Finish(success)": b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: version(b.team)}),
		"Finish(failed)":  b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildFailed, Error: failure()}),
	}
}

func takenOver(b *bench) {
	old := b.running("app")
	_, err := b.Queue().GiveBack(b.ctx, old, lehr.AttemptLost, nil)
	b.ok(err, "GiveBack()")
	now := fenceOf(b.claim())
	before := b.get(old.BuildID)
	for name, err := range b.fenced(old) {
		b.kind(err, errs.Conflict, "%s by the attempt before", name)
		if got, want := errs.CodeOf(err), "attempt_over"; got != want {
			b.Errorf("%s: code = %q, want %q", name, got, want)
		}
	}
	b.equal(b.get(old.BuildID), before, "the build after refused writes")
	lines, err := b.Logs().Read(b.ctx, old.BuildID, 0, 10)
	b.ok(err, "Read()")
	b.equal(len(lines), 0, "the number of lines")
	b.ok(b.Queue().Renew(b.ctx, now, lease), "Renew() by the present attempt")
}

func lastLinesUntilClean(b *bench) {
	f := b.running("app")
	_, err := b.Builds().Cancel(b.ctx, "", f.BuildID)
	b.ok(err, "Cancel()")
	_, err = b.Logs().Append(b.ctx, f, []lehr.LogLine{line("last words")})
	b.ok(err, "Append() after cancel")
	b.ok(b.Queue().PutStep(b.ctx, f, step(1, lehr.StepCancelled)), "PutStep() after cancel")
	b.ok(b.Queue().MarkClean(b.ctx, f), "MarkClean()")
	for name, err := range b.fenced(f) {
		b.kind(err, errs.Conflict, "%s after clean-up", name)
	}
	lines, err := b.Logs().Read(b.ctx, f.BuildID, 0, 10)
	b.ok(err, "Read()")
	b.equal(labels(lines, text), []string{"last words"}, "the log")
	b.equal(b.get(f.BuildID).Steps[0].Status, lehr.StepCancelled, "the step's status")
}

func lostButNotTakenOver(b *bench) {
	f := b.running("app")
	_, err := b.Queue().GiveBack(b.ctx, f, lehr.AttemptLost, nil)
	b.ok(err, "GiveBack()")
	_, err = b.Logs().Append(b.ctx, f, []lehr.LogLine{line("going")})
	b.ok(err, "Append() before anybody took over")
	b.kind(b.Queue().Renew(b.ctx, f, lease), errs.Conflict, "Renew() of a lost attempt")
	err = b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: version(b.team)})
	b.kind(err, errs.Conflict, "Finish() of a lost attempt")
	b.equal(b.get(f.BuildID).Status, lehr.BuildPending, "the status")
}

func unknownFence(b *bench) {
	f := b.running("app")
	for _, f := range []lehr.Fence{
		{BuildID: lehr.NewBuildID(), Attempt: 1}, {BuildID: f.BuildID, Attempt: 2}, {BuildID: f.BuildID}, {BuildID: f.BuildID, Attempt: -1},
	} {
		for name, err := range b.fenced(f) {
			b.kind(err, errs.NotFound, "%s(%+v)", name, f)
		}
	}
}
