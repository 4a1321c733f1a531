package storetest

import (
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func templateScenarios() []scenario {
	return []scenario{
		{"Resolve", resolve},
		{"PutVersion", putVersion},
		{"Get", templateGet},
		{"List", templateList},
		{"RemoveTag", removeTag},
		{"RemoveWhole", removeWhole},
		{"RemoveNamesUsers", removeNamesUsers},
	}
}

// put stores a version under name:tag for a team.
func (b *bench) put(team lehr.TeamID, name, tag string) lehr.VersionID {
	b.Helper()
	v := version(team)
	_, err := b.Templates().PutVersion(b.ctx, name, tag, *v)
	b.ok(err, "PutVersion(%s:%s)", name, tag)
	return v.ID
}

func resolve(b *bench) {
	other := b.newTeam("team-b")
	own := b.put(b.team, "app", "default")
	platform := b.put(lehr.PlatformTeam, "app", "default")
	slim := b.put(lehr.PlatformTeam, "app", "slim")
	b.put(other, "secret", "default")
	for ref, want := range map[string]lehr.VersionID{
		"app": own, "app:default": own, "app:slim": slim, "platform/app": platform, "team-a/app": own,
	} {
		r, err := lehr.ParseRef(ref)
		b.ok(err, "ParseRef(%s)", ref)
		found, err := b.Templates().Resolve(b.ctx, b.team, r)
		b.ok(err, "Resolve(%s)", ref)
		b.equal(found.Version.ID, want, "Resolve(%s)", ref)
	}
	for _, ref := range []string{"secret", "team-b/secret", "nobody/app", "app:none", "none", "team-a/app:slim"} {
		r, err := lehr.ParseRef(ref)
		b.ok(err, "ParseRef(%s)", ref)
		_, err = b.Templates().Resolve(b.ctx, b.team, r)
		b.kind(err, errs.NotFound, "Resolve(%s)", ref)
		if !strings.Contains(err.Error(), r.String()) {
			b.Errorf("Resolve(%s) = %v, want the reference named", ref, err)
		}
	}
}

func putVersion(b *bench) {
	v := version(b.team)
	put, err := b.Templates().PutVersion(b.ctx, "debian", "13", *v)
	b.ok(err, "PutVersion()")
	want := *v
	want.TemplateID, want.CreatedAt = put.Template.ID, put.Version.CreatedAt
	b.equal(put, lehr.Tagged{Template: put.Template, Tag: "13", Tags: []string{"13"}, Version: want}, "PutVersion()")
	b.equal(put.Template.Name, "debian", "the template's name")
	stored, err := b.Templates().Version(b.ctx, v.ID)
	b.ok(err, "Version()")
	b.equal(stored, want, "Version()")
	_, err = b.Templates().PutVersion(b.ctx, "debian", "13", *v)
	b.kind(err, errs.Exists, "PutVersion(same id)")
	second := b.put(b.team, "debian", "13")
	found, err := b.Templates().Resolve(b.ctx, b.team, lehr.Ref{Name: "debian", Tag: "13"})
	b.ok(err, "Resolve()")
	b.equal(found.Version.ID, second, "the version of a moved tag")

	small := *version(b.team)
	small.Config, small.Plan, small.SnapshotDigest, small.EngineDigest = lehr.ImageConfig{}, nil, "", ""
	put, err = b.Templates().PutVersion(b.ctx, "debian", "small", small)
	b.ok(err, "PutVersion(small)")
	b.equal(put.Version.Config, small.Config, "an empty config")
	b.equal(put.Version.Plan, small.Plan, "an empty plan")
	stranger := *version(lehr.NewTeamID())
	_, err = b.Templates().PutVersion(b.ctx, "debian", "13", stranger)
	b.kind(err, errs.NotFound, "PutVersion(unknown team)")
	for name, args := range map[string][2]string{"no name": {"", "t"}, "no tag": {"n", ""}} {
		_, err := b.Templates().PutVersion(b.ctx, args[0], args[1], *version(b.team))
		b.kind(err, errs.Invalid, "PutVersion(%s)", name)
	}
}

func templateGet(b *bench) {
	first := b.put(b.team, "app", "v1")
	second := b.put(b.team, "app", "v2")
	found, err := b.Templates().Get(b.ctx, b.team, "app")
	b.ok(err, "Get(name)")
	got := labels(found, func(g lehr.Tagged) string { return g.Tag + "=" + string(g.Version.ID) })
	b.equal(got, []string{"v2=" + string(second), "v1=" + string(first)}, "Get(name)")
	byID, err := b.Templates().Get(b.ctx, b.team, string(found[0].Template.ID))
	b.ok(err, "Get(id)")
	b.equal(byID, found, "Get(id)")
	_, err = b.Templates().Get(b.ctx, b.newTeam("team-b"), "app")
	b.kind(err, errs.NotFound, "Get(another team's)")
	_, err = b.Templates().Get(b.ctx, b.team, "nothing")
	b.kind(err, errs.NotFound, "Get(unknown)")
}

func templateList(b *bench) {
	other := b.newTeam("team-b")
	v := version(b.team)
	_, err := b.Templates().PutVersion(b.ctx, "app", "a", *v)
	b.ok(err, "PutVersion()")
	moved := b.put(b.team, "app", "default")
	b.put(b.team, "app", "default")
	b.put(other, "secret", "default")
	b.put(lehr.PlatformTeam, "minimal", "default")
	b.put(b.team, "web", "x")
	label := func(g lehr.Tagged) string { return g.Template.Name + ":" + strings.Join(g.Tags, ",") }
	list := func(q store.ListTemplates) []string {
		b.Helper()
		found, err := b.Templates().List(b.ctx, q)
		b.ok(err, "List(%+v)", q)
		for _, g := range found {
			if g.Version.ID == moved {
				b.Errorf("List() shows version %s, which has no tag", moved)
			}
		}
		return labels(found, label)
	}
	b.equal(list(store.ListTemplates{TeamID: b.team, Limit: 10}), []string{"web:x", "minimal:default", "app:default", "app:a"}, "the team's and the platform's")
	b.equal(list(store.ListTemplates{TeamID: b.team, Name: "app", Limit: 10}), []string{"app:default", "app:a"}, "by name")
	b.equal(list(store.ListTemplates{TeamID: other, Limit: 10}), []string{"minimal:default", "secret:default"}, "another team's")
	b.equal(list(store.ListTemplates{TeamID: b.team, Limit: 2}), []string{"web:x", "minimal:default"}, "a page")
	b.equal(list(store.ListTemplates{TeamID: b.team, Limit: 2, Before: v.ID}), []string{}, "the page after the last")
	_, err = b.Templates().List(b.ctx, store.ListTemplates{Limit: 1001})
	b.kind(err, errs.Invalid, "List(limit 1001)")
}

func removeTag(b *bench) {
	b.put(b.team, "app", "v1")
	b.put(b.team, "app", "v2")
	b.ok(b.Templates().Remove(b.ctx, b.team, "app", "v1"), "Remove(v1)")
	found, err := b.Templates().Get(b.ctx, b.team, "app")
	b.ok(err, "Get()")
	b.equal(labels(found, func(g lehr.Tagged) string { return g.Tag }), []string{"v2"}, "the tags left")
	b.kind(b.Templates().Remove(b.ctx, b.team, "app", "v1"), errs.NotFound, "Remove(v1) again")
	b.kind(b.Templates().Remove(b.ctx, b.newTeam("team-b"), "app", "v2"), errs.NotFound, "Remove(another team's)")
	b.kind(b.Templates().Remove(b.ctx, b.team, "nothing", ""), errs.NotFound, "Remove(unknown)")
}

func removeWhole(b *bench) {
	before := b.publish("app")
	b.put(b.team, "app", "v2")
	b.ok(b.Templates().Remove(b.ctx, b.team, "app", ""), "Remove(app)")
	_, err := b.Templates().Get(b.ctx, b.team, "app")
	b.kind(err, errs.NotFound, "Get() of a removed template")
	b.kind(b.Templates().Remove(b.ctx, b.team, "app", ""), errs.NotFound, "Remove(app) again")
	after := b.publish("app")
	b.equal(after.TemplateID, before.TemplateID, "the id of a name that came back")
	found, err := b.Templates().Get(b.ctx, b.team, "app")
	b.ok(err, "Get()")
	b.equal(len(found), 1, "the number of tags")
}

func removeNamesUsers(b *bench) {
	v := b.publish("app")
	sandbox := b.newSandbox(v.ID)
	for _, tag := range []string{"", lehr.DefaultTag} {
		err := b.Templates().Remove(b.ctx, b.team, "app", tag)
		b.kind(err, errs.Conflict, "Remove(app:%s) in use", tag)
		if !strings.Contains(err.Error(), string(sandbox)) {
			b.Errorf("Remove() = %v, want %s named", err, sandbox)
		}
	}
	b.publish("app") // takes the tag; the first version has none any more
	b.ok(b.Templates().Remove(b.ctx, b.team, "app", lehr.DefaultTag), "Remove(a tag of another version)")
	for range 20 {
		b.newSandbox(v.ID)
	}
	b.publish("app")
	err := b.Templates().Remove(b.ctx, b.team, "app", "")
	b.kind(err, errs.Conflict, "Remove(whole, an old version in use)")
	if len(err.Error()) > 1000 || !strings.Contains(err.Error(), "others") {
		b.Errorf("Remove() = %v, want a bounded message", err)
	}
}
