package storetest

import (
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func finishScenarios() []scenario {
	return []scenario{
		{"Success", finishSuccess},
		{"SameNameIsANewVersion", sameNameIsANewVersion},
		{"Failure", finishFailure},
		{"Refuses", finishRefuses},
		{"AllOrNothing", finishAllOrNothing},
	}
}

func finishSuccess(b *bench) {
	f := b.running("app")
	made := b.get(f.BuildID)
	v := version("another team's id, which does not count")
	ref := lehr.Ref{Name: "app", Tag: lehr.DefaultTag}
	_, err := b.Templates().Resolve(b.ctx, b.team, ref)
	b.kind(err, errs.NotFound, "Resolve() before success")
	b.ok(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: v}), "Finish()")

	build := b.get(f.BuildID)
	b.equal(build.Status, lehr.BuildSuccess, "the status")
	b.equal(build.Artifact, &lehr.Artifact{
		Type: v.Type, ImageDigest: v.ImageDigest, SnapshotDigest: v.SnapshotDigest, SizeBytes: v.SizeBytes, Version: v.ID,
	}, "the artifact")
	if build.CompletedAt.IsZero() || build.Error != nil {
		b.Errorf("build = %+v, want an end and no error", build)
	}
	found, err := b.Templates().Resolve(b.ctx, b.team, ref)
	b.ok(err, "Resolve()")
	want := *v
	want.TeamID, want.TemplateID, want.BuildID, want.CreatedAt = b.team, made.TemplateID, f.BuildID, found.Version.CreatedAt
	b.equal(found, lehr.Tagged{
		Template: lehr.Template{ID: made.TemplateID, TeamID: b.team, Name: "app", CreatedAt: found.Template.CreatedAt},
		Tag:      lehr.DefaultTag, Tags: []string{lehr.DefaultTag}, Version: want,
	}, "Resolve()")
	if found.Version.CreatedAt.IsZero() || found.Template.CreatedAt.IsZero() {
		b.Error("template or version has no time")
	}
	unclean, err := b.Queue().Unclean(b.ctx, 10)
	b.ok(err, "Unclean()")
	if len(unclean) != 1 || unclean[0].End != lehr.AttemptSucceeded {
		b.Errorf("Unclean() = %+v, want the successful attempt", unclean)
	}
	b.kind(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildFailed, Error: failure()}), errs.Conflict, "Finish() again")
}

func sameNameIsANewVersion(b *bench) {
	first, second := b.publish("app"), b.publish("app")
	if first.TemplateID != second.TemplateID || first.ID == second.ID {
		b.Errorf("versions %s and %s of %s and %s, want two of one template", first.ID, second.ID, first.TemplateID, second.TemplateID)
	}
	found, err := b.Templates().Resolve(b.ctx, b.team, lehr.Ref{Name: "app", Tag: lehr.DefaultTag})
	b.ok(err, "Resolve()")
	b.equal(found.Version.ID, second.ID, "the version of the tag")
	kept, err := b.Templates().Version(b.ctx, first.ID)
	b.ok(err, "Version(first)")
	b.equal(kept, first, "the first version")
}

func finishFailure(b *bench) {
	f := b.running("app")
	b.ok(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildFailed, Error: failure()}), "Finish()")
	build := b.get(f.BuildID)
	b.equal(build.Error, failure(), "the error")
	if build.Status != lehr.BuildFailed || build.Artifact != nil || build.CompletedAt.IsZero() {
		b.Errorf("build = %+v, want failed, no artifact and an end", build)
	}
	_, err := b.Templates().Get(b.ctx, b.team, "app")
	b.kind(err, errs.NotFound, "Get(template without versions)")
}

func finishRefuses(b *bench) {
	f := b.running("app")
	noID := version(b.team)
	noID.ID = ""
	badType := version(b.team)
	badType.Type = "odd"
	badPlan := version(b.team)
	badPlan.Plan = []byte("{")
	for name, end := range map[string]store.Finish{
		"success without version": {Status: lehr.BuildSuccess},
		"version without id":      {Status: lehr.BuildSuccess, Version: noID},
		"version of odd type":     {Status: lehr.BuildSuccess, Version: badType},
		"plan that is no JSON":    {Status: lehr.BuildSuccess, Version: badPlan},
		"failed without error":    {Status: lehr.BuildFailed},
		"cancelled":               {Status: lehr.BuildCancelled},
		"pending":                 {Status: lehr.BuildPending},
		"no status":               {},
	} {
		b.kind(b.Queue().Finish(b.ctx, f, end), errs.Invalid, "Finish(%s)", name)
	}
	b.equal(b.get(f.BuildID).Status, lehr.BuildRunning, "the status after refusals")
	b.ok(b.Queue().Renew(b.ctx, f, lease), "Renew() after refusals")
}

// finishAllOrNothing lets the last write of the transaction fail.
func finishAllOrNothing(b *bench) {
	earlier := b.publish("app")
	f := b.running("app")
	v := version(b.team)
	v.ID = earlier.ID
	b.kind(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: v}), errs.Exists, "Finish(version id of another)")
	build := b.get(f.BuildID)
	if build.Status != lehr.BuildRunning || build.Artifact != nil {
		b.Errorf("a failed Finish left status %s and artifact %v, want running and none", build.Status, build.Artifact)
	}
	b.ok(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: version(b.team)}), "Finish()")
}
