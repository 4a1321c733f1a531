package storetest

import (
	"fmt"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func buildScenarios() []scenario {
	return []scenario{
		{"CreateKeepsEverything", createKeepsEverything},
		{"CreateRefuses", createRefuses},
		{"SameNameSameTemplate", sameNameSameTemplate},
		{"IdempotencyKey", idempotencyKey},
		{"GetIsPerTeam", buildGetIsPerTeam},
		{"ListFilters", buildListFilters},
		{"ListPages", buildListPages},
		{"CancelPending", cancelPending},
		{"CancelRunning", cancelRunning},
		{"CancelFinishedIsConflict", cancelFinished},
		{"RegistryLogin", registryLogin},
	}
}

func createKeepsEverything(b *bench) {
	n := b.newBuild("app")
	n.IdempotencyKey = "key-1"
	n.Spec.Priority = -3
	made := b.create(n)
	if made.TemplateID == "" || made.CreatedAt.IsZero() {
		b.Errorf("Create() = %+v, want a template id and a time", made)
	}
	if made.CreatedAt.Nanosecond()%1000 != 0 || made.CreatedAt.Location().String() != "UTC" {
		b.Errorf("CreatedAt = %v, want UTC microseconds", made.CreatedAt)
	}
	want := lehr.Build{
		ID: n.ID, TeamID: b.team, TemplateID: made.TemplateID, Spec: n.Spec, RecipeSchema: 3, IdempotencyKey: "key-1",
		Status: lehr.BuildPending, BaseDigest: n.BaseDigest, TotalSteps: 4, CreatedAt: made.CreatedAt,
	}
	b.equal(made, want, "Create()")
	want.Steps = []lehr.StepResult{}
	b.equal(b.get(n.ID), want, "Get()")
}

func createRefuses(b *bench) {
	n := b.newBuild("app")
	b.create(n)
	_, _, err := b.Builds().Create(b.ctx, n)
	b.kind(err, errs.Exists, "Create(same id)")
	n = b.newBuild("app")
	n.TeamID = lehr.NewTeamID()
	_, _, err = b.Builds().Create(b.ctx, n)
	b.kind(err, errs.NotFound, "Create(unknown team)")
	for field, spoil := range map[string]func(*store.NewBuild){
		"id":   func(n *store.NewBuild) { n.ID = "" },
		"team": func(n *store.NewBuild) { n.TeamID = "" },
		"name": func(n *store.NewBuild) { n.Spec.Name = "" },
		"tag":  func(n *store.NewBuild) { n.Spec.Tag = "" },
	} {
		n := b.newBuild("app")
		spoil(&n)
		_, _, err := b.Builds().Create(b.ctx, n)
		b.kind(err, errs.Invalid, "Create(no %s)", field)
	}
}

func sameNameSameTemplate(b *bench) {
	first, again := b.create(b.newBuild("app")), b.create(b.newBuild("app"))
	b.equal(again.TemplateID, first.TemplateID, "the template of the same name")
	other := b.newBuild("app")
	other.TeamID = b.newTeam("team-b")
	if got := b.create(other).TemplateID; got == first.TemplateID {
		b.Errorf("two teams share the template %s", got)
	}
}

func idempotencyKey(b *bench) {
	n := b.newBuild("app")
	n.IdempotencyKey = "key-1"
	first := b.create(n)
	repeat := n
	repeat.ID = lehr.NewBuildID()
	found, created, err := b.Builds().Create(b.ctx, repeat)
	b.ok(err, "Create(same key)")
	if created || found.ID != first.ID {
		b.Errorf("Create(same key) = %s, created %v; want %s, false", found.ID, created, first.ID)
	}
	repeat.SpecDigest = lehr.DigestOf([]byte("other"))
	_, _, err = b.Builds().Create(b.ctx, repeat)
	b.kind(err, errs.Conflict, "Create(same key, another request)")
	if got, want := errs.CodeOf(err), "idempotency_mismatch"; got != want {
		b.Errorf("code = %q, want %q", got, want)
	}
	repeat.TeamID = b.newTeam("team-b")
	b.create(repeat)
	if _, err := b.Builds().Cancel(b.ctx, b.team, first.ID); err != nil {
		b.Fatal(err)
	}
	n.ID = lehr.NewBuildID()
	found, created, err = b.Builds().Create(b.ctx, n)
	b.ok(err, "Create(same key after the end)")
	if created || found.Status != lehr.BuildCancelled {
		b.Errorf("Create(same key after the end) = %s, created %v; want the cancelled build", found.Status, created)
	}
}

func buildGetIsPerTeam(b *bench) {
	n := b.create(b.newBuild("app"))
	_, err := b.Builds().Get(b.ctx, b.team, n.ID)
	b.ok(err, "Get(own)")
	_, err = b.Builds().Get(b.ctx, b.newTeam("team-b"), n.ID)
	b.kind(err, errs.NotFound, "Get(another team's)")
	_, err = b.Builds().Get(b.ctx, "", lehr.NewBuildID())
	b.kind(err, errs.NotFound, "Get(unknown)")
	_, err = b.Builds().Cancel(b.ctx, b.newTeam("team-b"), n.ID)
	b.kind(err, errs.NotFound, "Cancel(another team's)")
	_, err = b.Builds().Cancel(b.ctx, "", lehr.NewBuildID())
	b.kind(err, errs.NotFound, "Cancel(unknown)")
	b.equal(b.get(n.ID).Status, lehr.BuildPending, "the status after refused cancels")
}

func buildListFilters(b *bench) {
	other := b.newTeam("team-b")
	var want []string
	for i, team := range []lehr.TeamID{b.team, other} {
		for _, name := range []string{"app", "web"} {
			n := b.newBuild(name)
			n.TeamID = team
			b.create(n)
			if i == 0 && name == "web" {
				_, err := b.Builds().Cancel(b.ctx, "", n.ID)
				b.ok(err, "Cancel()")
			}
			want = append([]string{fmt.Sprintf("%d %s", i, name)}, want...)
		}
	}
	label := func(build lehr.Build) string {
		if build.Steps != nil {
			b.Errorf("List() shows steps of %s", build.ID)
		}
		if build.TeamID == other {
			return "1 " + build.Spec.Name
		}
		return "0 " + build.Spec.Name
	}
	for _, test := range []struct {
		query store.ListBuilds
		want  []string
	}{
		{store.ListBuilds{}, want},
		{store.ListBuilds{TeamID: b.team}, []string{"0 web", "0 app"}},
		{store.ListBuilds{Name: "web"}, []string{"1 web", "0 web"}},
		{store.ListBuilds{Status: lehr.BuildCancelled}, []string{"0 web"}},
		{store.ListBuilds{TeamID: other, Name: "app", Status: lehr.BuildPending}, []string{"1 app"}},
		{store.ListBuilds{TeamID: other, Status: lehr.BuildRunning}, []string{}},
		{store.ListBuilds{TeamID: lehr.NewTeamID()}, []string{}},
	} {
		test.query.Limit = 10
		found, err := b.Builds().List(b.ctx, test.query)
		b.ok(err, "List(%+v)", test.query)
		b.equal(labels(found, label), test.want, "List(%+v)", test.query)
	}
}

// labels maps entries to short texts; never nil.
func labels[T any](entries []T, label func(T) string) []string {
	texts := []string{}
	for _, e := range entries {
		texts = append(texts, label(e))
	}
	return texts
}

func buildListPages(b *bench) {
	var made []lehr.BuildID
	for range 7 {
		made = append([]lehr.BuildID{b.create(b.newBuild("app")).ID}, made...)
	}
	var seen []lehr.BuildID
	var before lehr.BuildID
	for {
		page, err := b.Builds().List(b.ctx, store.ListBuilds{TeamID: b.team, Before: before, Limit: 3})
		b.ok(err, "List(before %s)", before)
		for _, build := range page {
			seen = append(seen, build.ID)
		}
		if len(page) < 3 {
			break
		}
		before = page[2].ID
	}
	b.equal(seen, made, "the pages, newest first")
	for _, limit := range []int{0, -1, 1001} {
		_, err := b.Builds().List(b.ctx, store.ListBuilds{Limit: limit})
		b.kind(err, errs.Invalid, "List(limit %d)", limit)
	}
}

func cancelPending(b *bench) {
	n := b.create(b.newBuild("app"))
	cancelled, err := b.Builds().Cancel(b.ctx, b.team, n.ID)
	b.ok(err, "Cancel()")
	b.equal(cancelled.Status, lehr.BuildCancelled, "Cancel()'s status")
	if cancelled.CompletedAt.IsZero() {
		b.Error("a cancelled build has no end")
	}
	if _, ok, err := b.Queue().Claim(b.ctx, "w", lease); ok || err != nil {
		b.Errorf("Claim() after cancel = %v, %v; want nothing", ok, err)
	}
}

func cancelRunning(b *bench) {
	f := b.running("app")
	_, err := b.Builds().Cancel(b.ctx, "", f.BuildID)
	b.ok(err, "Cancel(running)")
	b.kind(b.Queue().Renew(b.ctx, f, lease), errs.Conflict, "Renew() after cancel")
	b.kind(b.Queue().Place(b.ctx, f, lehr.NewHostID(), lehr.NewSandboxID()), errs.Conflict, "Place() after cancel")
	err = b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildSuccess, Version: version(b.team)})
	b.kind(err, errs.Conflict, "Finish() after cancel")
	if !strings.Contains(err.Error(), "cancelled") {
		b.Errorf("Finish() after cancel = %v, want the state named", err)
	}
	_, err = b.Queue().GiveBack(b.ctx, f, lehr.AttemptGivenBack, nil)
	b.kind(err, errs.Conflict, "GiveBack() after cancel")
	unclean, err := b.Queue().Unclean(b.ctx, 10)
	b.ok(err, "Unclean()")
	if len(unclean) != 1 || unclean[0].End != lehr.AttemptCancelled {
		b.Errorf("Unclean() = %+v, want the cancelled attempt", unclean)
	}
}

func cancelFinished(b *bench) {
	f := b.running("app")
	b.ok(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildFailed, Error: failure()}), "Finish(failed)")
	_, err := b.Builds().Cancel(b.ctx, b.team, f.BuildID)
	b.kind(err, errs.Conflict, "Cancel(failed)")
	if !strings.Contains(err.Error(), "failed") {
		b.Errorf("Cancel(failed) = %v, want the state named", err)
	}
	b.equal(b.get(f.BuildID).Status, lehr.BuildFailed, "the status")
	n := b.create(b.newBuild("app"))
	_, err = b.Builds().Cancel(b.ctx, b.team, n.ID)
	b.ok(err, "Cancel()")
	_, err = b.Builds().Cancel(b.ctx, b.team, n.ID)
	b.kind(err, errs.Conflict, "Cancel(cancelled)")
}
