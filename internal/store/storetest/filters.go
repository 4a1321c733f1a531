package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func filterScenarios() []scenario {
	return []scenario{
		{"SandboxMetadata", filterSandboxes},
		{"SandboxStateAndTemplate", filterStateAndTemplate},
		{"BuildMetadata", filterBuilds},
		{"TemplateLabels", filterTemplates},
		{"PagesAreStable", filterPages},
		{"Refuses", filterRefuses},
		{"Forgotten", filterForgotten},
	}
}

func errorsAs(err error, target **errs.Error) bool { return errors.As(err, target) }

// pairs is "a=1 b=2" as a map.
func pairs(text string) map[string]string {
	m := map[string]string{}
	for _, field := range strings.Fields(text) {
		name, value, _ := strings.Cut(field, "=")
		m[name] = value
	}
	return m
}

// hard is metadata that must be told from what looks like it.
var hard = []map[string]string{
	{"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {"a": "b=c"}, {"a": strings.Repeat("ä", 512)}, {"a": "b\nc \"'; --"}, nil,
}

func filterSandboxes(b *bench) {
	v := b.put(b.team, "app", "default")
	var ids []lehr.SandboxID
	for _, m := range hard {
		box, err := b.trySandbox(v, func(s *store.NewSandbox) { s.Metadata = m })
		b.ok(err, "Create(%q)", m)
		b.equal(box.Metadata, m, "the metadata")
		ids = append(ids, box.ID)
	}
	stranger, err := b.trySandbox(v, func(s *store.NewSandbox) { s.TeamID, s.Metadata = b.newTeam("team-b"), hard[0] })
	b.ok(err, "Create(another team's)")
	for i, m := range hard {
		if m == nil {
			continue
		}
		found, err := b.Sandboxes().List(b.ctx, store.ListSandboxes{TeamID: b.team, Metadata: m, Limit: 10})
		b.ok(err, "List(%q)", m)
		if len(found) != 1 || found[0].ID != ids[i] || !maps.Equal(found[0].Metadata, m) {
			b.Errorf("List(%q) = %+v, want %s alone", m, found, ids[i])
		}
	}
	for _, m := range []map[string]string{{"a": ""}, {"bc": "a"}, {"a": "bc", "ab": "c"}} {
		found, err := b.Sandboxes().List(b.ctx, store.ListSandboxes{TeamID: b.team, Metadata: m, Limit: 10})
		b.ok(err, "List(%q)", m)
		b.equal(len(found), 0, "the number found by %q", m)
	}
	for _, id := range []lehr.SandboxID{ids[0], stranger.ID} {
		_, err = b.Sandboxes().Move(b.ctx, id, lehr.SandboxKilled, lehr.ReasonUser)
		b.ok(err, "Move(killed)")
	}
	for all, want := range map[bool]int{false: 0, true: 1} {
		found, err := b.Sandboxes().List(b.ctx, store.ListSandboxes{TeamID: b.team, Metadata: hard[0], All: all, Limit: 10})
		b.ok(err, "List()")
		b.equal(len(found), want, "the number of ended ones found, all %v", all)
	}
}

func filterStateAndTemplate(b *bench) {
	v := b.put(b.team, "app", "default")
	names := map[lehr.SandboxID]string{}
	make := func(name, template string, state lehr.SandboxState) {
		box, err := b.trySandbox(v, func(s *store.NewSandbox) { s.Template, s.Metadata = template, pairs("x=1 n="+name) })
		b.ok(err, "Create(%s)", name)
		names[box.ID] = name
		for _, to := range path(state) {
			_, err := b.Sandboxes().Move(b.ctx, box.ID, to, "")
			b.ok(err, "Move(%s)", to)
		}
	}
	make("a", "app:default", lehr.SandboxRunning)
	make("b", "app:v1", lehr.SandboxRunning)
	make("c", "app-two:default", lehr.SandboxPaused)
	make("d", "ap:default", lehr.SandboxCreating)
	make("e", "app:default", lehr.SandboxKilled)
	for _, test := range []struct {
		query store.ListSandboxes
		want  string
	}{
		{store.ListSandboxes{Template: "app"}, "b a"},
		{store.ListSandboxes{Template: "app:default"}, "a"},
		{store.ListSandboxes{Template: "app:default", All: true}, "e a"},
		{store.ListSandboxes{Template: "ap"}, "d"},
		{store.ListSandboxes{State: lehr.SandboxRunning}, "b a"},
		{store.ListSandboxes{State: lehr.SandboxPaused}, "c"},
		{store.ListSandboxes{State: lehr.SandboxKilled, All: true}, "e"},
		{store.ListSandboxes{State: lehr.SandboxRunning, Template: "app:v1"}, "b"},
		{store.ListSandboxes{Template: "none"}, ""},
	} {
		for _, m := range []map[string]string{nil, pairs("x=1")} {
			test.query.TeamID, test.query.Metadata, test.query.Limit = b.team, m, 10
			found, err := b.Sandboxes().List(b.ctx, test.query)
			b.ok(err, "List(%+v)", test.query)
			b.equal(strings.Join(labels(found, func(s lehr.Sandbox) string { return names[s.ID] }), " "), test.want, "List(%+v)", test.query)
		}
	}
}

func filterBuilds(b *bench) {
	var ids []lehr.BuildID
	for i, m := range hard {
		n := b.newBuild(fmt.Sprint("app-", i))
		n.Spec.Metadata = m
		ids = append(ids, b.create(n).ID)
		b.equal(b.get(n.ID).Spec.Metadata, m, "the metadata")
	}
	list := func(q store.ListBuilds) []string {
		b.Helper()
		q.TeamID, q.Limit = b.team, 10
		found, err := b.Builds().List(b.ctx, q)
		b.ok(err, "List(%+v)", q)
		return labels(found, func(x lehr.Build) string { return string(x.ID) })
	}
	for i, m := range hard {
		if m != nil {
			b.equal(list(store.ListBuilds{Metadata: m}), []string{string(ids[i])}, "List(%q)", m)
		}
	}
	b.equal(list(store.ListBuilds{Metadata: hard[0], Name: "app-0", Status: lehr.BuildPending}), []string{string(ids[0])}, "with name and status")
	b.equal(list(store.ListBuilds{Metadata: hard[0], Name: "app-1"}), []string{}, "with another name")
	b.equal(list(store.ListBuilds{Metadata: hard[0], Status: lehr.BuildFailed}), []string{}, "with another status")
}

func filterTemplates(b *bench) {
	put := func(team lehr.TeamID, name string, kind lehr.TemplateType, m []lehr.EnvVar) {
		v := *version(team)
		v.Type, v.Config.Labels = kind, m
		_, err := b.Templates().PutVersion(b.ctx, name, "default", v)
		b.ok(err, "PutVersion(%s)", name)
	}
	put(b.team, "one", lehr.TypeBase, []lehr.EnvVar{{Name: "lang", Value: "go"}, {Name: "tier", Value: "a"}})
	put(b.team, "two", lehr.TypeSnapshot, []lehr.EnvVar{{Name: "lang", Value: "c"}, {Name: "lang", Value: "go"}})
	put(lehr.PlatformTeam, "three", lehr.TypeBase, []lehr.EnvVar{{Name: "lang", Value: "go"}})
	put(b.newTeam("team-b"), "four", lehr.TypeBase, []lehr.EnvVar{{Name: "lang", Value: "go"}})
	put(b.team, "none", lehr.TypeBase, nil)
	many := make([]lehr.EnvVar, 0, store.MaxLabels+10)
	for i := range store.MaxLabels + 10 {
		many = append(many, lehr.EnvVar{Name: fmt.Sprintf("n%04d", i), Value: "\x00\xff" + strings.Repeat("v", 2000)})
	}
	put(b.team, "many", lehr.TypeBase, many)
	for _, test := range []struct {
		query store.ListTemplates
		want  string
	}{
		{store.ListTemplates{}, "many none three two one"},
		{store.ListTemplates{Type: lehr.TypeSnapshot}, "two"},
		{store.ListTemplates{Type: lehr.TypeBase}, "many none three one"},
		{store.ListTemplates{Labels: pairs("lang=go")}, "three two one"},
		{store.ListTemplates{Labels: pairs("lang=c")}, ""},
		{store.ListTemplates{Labels: pairs("lang=go tier=a")}, "one"},
		{store.ListTemplates{Labels: pairs("lang=go"), Type: lehr.TypeBase}, "three one"},
		{store.ListTemplates{Labels: pairs("lang=go"), Name: "two"}, "two"},
		{store.ListTemplates{Labels: map[string]string{"n0000": many[0].Value}}, "many"},
	} {
		test.query.TeamID, test.query.Limit = b.team, 10
		found, err := b.Templates().List(b.ctx, test.query)
		b.ok(err, "List(%+v)", test.query)
		b.equal(strings.Join(labels(found, func(g lehr.Tagged) string { return g.Template.Name }), " "), test.want, "List(%+v)", test.query)
	}
}

// filterPages pages through a list from which it takes and to which it adds
// between the pages: what was there all the time is seen once, in order.
func filterPages(b *bench) {
	v := b.put(b.team, "app", "default")
	m := pairs("a=1 b=2 c=3")
	make := func() lehr.SandboxID {
		box, err := b.trySandbox(v, func(s *store.NewSandbox) { s.Metadata = m })
		b.ok(err, "Create()")
		return box.ID
	}
	var all []lehr.SandboxID
	for range 20 {
		all = append(all, make())
	}
	slices.Reverse(all)
	var seen []lehr.SandboxID
	var before lehr.SandboxID
	for {
		page, err := b.Sandboxes().List(b.ctx, store.ListSandboxes{TeamID: b.team, Metadata: m, Before: before, Limit: 3})
		b.ok(err, "List(page)")
		for _, s := range page {
			seen, before = append(seen, s.ID), s.ID
		}
		if len(page) < 3 {
			break
		}
		make()
		gone := all[len(all)-1]
		all = all[:len(all)-1]
		if gone < before { // not seen yet, and not to be
			_, err = b.Sandboxes().Move(b.ctx, gone, lehr.SandboxKilled, lehr.ReasonUser)
			b.ok(err, "Move(killed)")
		}
	}
	b.equal(seen[:len(all)], all, "the pages")
}

func filterRefuses(b *bench) {
	many := map[string]string{}
	for i := range store.MaxPairs + 1 {
		many[fmt.Sprint("n", i)] = "v"
	}
	for team, m := range map[lehr.TeamID]map[string]string{b.team: many, "": pairs("a=1")} {
		_, err := b.Sandboxes().List(b.ctx, store.ListSandboxes{TeamID: team, Metadata: m, Limit: 1})
		b.kind(err, errs.Invalid, "Sandboxes.List(%q, %d names)", team, len(m))
		_, err = b.Builds().List(b.ctx, store.ListBuilds{TeamID: team, Metadata: m, Limit: 1})
		b.kind(err, errs.Invalid, "Builds.List(%q, %d names)", team, len(m))
		_, err = b.Templates().List(b.ctx, store.ListTemplates{TeamID: team, Labels: m, Limit: 1})
		b.kind(err, errs.Invalid, "Templates.List(%q, %d names)", team, len(m))
	}
}

func filterForgotten(b *bench) {
	v := b.put(b.team, "app", "default")
	box, err := b.trySandbox(v, func(s *store.NewSandbox) { s.Metadata = pairs("a=1") })
	b.ok(err, "Create()")
	ended, err := b.Sandboxes().Move(b.ctx, box.ID, lehr.SandboxKilled, lehr.ReasonUser)
	b.ok(err, "Move(killed)")
	n, err := b.Sandboxes().Forget(b.ctx, ended.EndedAt.Add(time.Microsecond))
	if err != nil || n != 1 {
		b.Errorf("Forget() = %d, %v; want 1, nil", n, err)
	}
	found, err := b.Sandboxes().List(b.ctx, store.ListSandboxes{TeamID: b.team, Metadata: pairs("a=1"), All: true, Limit: 1})
	b.ok(err, "List()")
	b.equal(len(found), 0, "the number found of a forgotten one")
	b.put(b.team, "app", "default")
	_, _, err = b.Templates().Forget(b.ctx, v)
	b.ok(err, "Forget(version with labels)")
}
