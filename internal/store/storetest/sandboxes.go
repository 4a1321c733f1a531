package storetest

import (
	"slices"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func sandboxScenarios() []scenario {
	return []scenario{
		{"CreateAndGet", sandboxCreate},
		{"CreateRefuses", sandboxCreateRefuses},
		{"EveryMove", sandboxMoves},
		{"MoveUnknown", sandboxMoveUnknown},
		{"List", sandboxList},
		{"Expiry", sandboxExpiry},
		{"Forget", sandboxForget},
	}
}

func (b *bench) sandboxOf(v lehr.VersionID) store.NewSandbox {
	return store.NewSandbox{Sandbox: lehr.Sandbox{
		ID: lehr.NewSandboxID(), TeamID: b.team, Template: "app:default", VersionID: v, HostID: lehr.NewHostID(),
		Resources: lehr.Resources{VCPUs: 1, MemoryMB: 128, DiskMB: 64},
	}}
}

func (b *bench) newSandbox(v lehr.VersionID) lehr.SandboxID {
	b.Helper()
	s := b.sandboxOf(v)
	_, _, err := b.Sandboxes().Create(b.ctx, s)
	b.ok(err, "Create(sandbox)")
	return s.ID
}

func sandboxCreate(b *bench) {
	s := b.sandboxOf(b.put(b.team, "app", "default"))
	s.ExpiresAt = time.Date(2099, 1, 2, 3, 4, 5, 6000, time.UTC)
	s.BuildID = b.create(b.newBuild("app")).ID
	s.Metadata = map[string]string{"a": "1", "b": ""}
	made, created, err := b.Sandboxes().Create(b.ctx, s)
	b.ok(err, "Create()")
	b.equal(created, true, "created")
	s.State, s.CreatedAt = lehr.SandboxCreating, made.CreatedAt
	b.equal(made, s.Sandbox, "Create()")
	if made.CreatedAt.IsZero() {
		b.Error("CreatedAt is zero")
	}
	for _, team := range []lehr.TeamID{b.team, ""} {
		got, err := b.Sandboxes().Get(b.ctx, team, s.ID)
		b.ok(err, "Get(%q)", team)
		b.equal(got, s.Sandbox, "Get(%q)", team)
	}
	_, err = b.Sandboxes().Get(b.ctx, b.newTeam("team-b"), s.ID)
	b.kind(err, errs.NotFound, "Get(another team's)")
}

func sandboxCreateRefuses(b *bench) {
	v := b.put(b.team, "app", "default")
	s := b.sandboxOf(v)
	_, _, err := b.Sandboxes().Create(b.ctx, s)
	b.ok(err, "Create()")
	_, _, err = b.Sandboxes().Create(b.ctx, s)
	b.kind(err, errs.Exists, "Create(same id)")
	for name, test := range map[string]struct {
		spoil func(*store.NewSandbox)
		want  errs.Kind
	}{
		"no id":           {func(s *store.NewSandbox) { s.ID = "" }, errs.Invalid},
		"no team":         {func(s *store.NewSandbox) { s.TeamID = "" }, errs.Invalid},
		"running":         {func(s *store.NewSandbox) { s.State = lehr.SandboxRunning }, errs.Invalid},
		"no version":      {func(s *store.NewSandbox) { s.VersionID = "" }, errs.NotFound},
		"unknown version": {func(s *store.NewSandbox) { s.VersionID = lehr.NewVersionID() }, errs.NotFound},
		"unknown team":    {func(s *store.NewSandbox) { s.TeamID = lehr.NewTeamID() }, errs.NotFound},
		"unknown build":   {func(s *store.NewSandbox) { s.BuildID = lehr.NewBuildID() }, errs.NotFound},
	} {
		s := b.sandboxOf(v)
		test.spoil(&s)
		_, _, err := b.Sandboxes().Create(b.ctx, s)
		b.kind(err, test.want, "Create(%s)", name)
	}
}

// path returns moves from creating to the state.
func path(to lehr.SandboxState) []lehr.SandboxState {
	switch to {
	case lehr.SandboxCreating:
		return nil
	case lehr.SandboxResuming:
		return []lehr.SandboxState{lehr.SandboxRunning, lehr.SandboxPaused, lehr.SandboxResuming}
	case lehr.SandboxPausing, lehr.SandboxPaused:
		return []lehr.SandboxState{lehr.SandboxRunning, to}
	default:
		return []lehr.SandboxState{to}
	}
}

// sandboxMoves tries every pair of states against the table.
func sandboxMoves(b *bench) {
	v := b.put(b.team, "app", "default")
	states := []lehr.SandboxState{
		lehr.SandboxCreating, lehr.SandboxRunning, lehr.SandboxPausing, lehr.SandboxPaused,
		lehr.SandboxResuming, lehr.SandboxKilled, lehr.SandboxFailed,
	}
	for _, from := range states {
		for _, to := range append(states, "odd") {
			id := b.newSandbox(v)
			for _, state := range path(from) {
				_, err := b.Sandboxes().Move(b.ctx, id, state, "")
				b.ok(err, "Move(%s)", state)
			}
			b.tryMove(id, from, to)
		}
	}
}

func (b *bench) tryMove(id lehr.SandboxID, from, to lehr.SandboxState) {
	b.Helper()
	moved, err := b.Sandboxes().Move(b.ctx, id, to, lehr.ReasonOOM)
	if !slices.Contains(lehr.SandboxMoves[from], to) {
		b.kind(err, errs.Conflict, "Move(%s → %s)", from, to)
		if err != nil && !strings.Contains(err.Error(), string(from)) {
			b.Errorf("Move(%s → %s) = %v, want the present state named", from, to, err)
		}
		return
	}
	b.ok(err, "Move(%s → %s)", from, to)
	if moved.State != to || moved.Reason != lehr.ReasonOOM || moved.EndedAt.IsZero() != to.Live() {
		b.Errorf("Move(%s → %s) = %+v, want that state, its reason, and an end only if it is one", from, to, moved)
	}
	got, err := b.Sandboxes().Get(b.ctx, "", id)
	b.ok(err, "Get()")
	b.equal(got, moved, "Get() after Move()")
}

func sandboxMoveUnknown(b *bench) {
	_, err := b.Sandboxes().Move(b.ctx, lehr.NewSandboxID(), lehr.SandboxRunning, "")
	b.kind(err, errs.NotFound, "Move(unknown)")
	_, err = b.Sandboxes().SetExpiry(b.ctx, lehr.NewSandboxID(), lease)
	b.kind(err, errs.NotFound, "SetExpiry(unknown)")
	_, err = b.Sandboxes().Get(b.ctx, "", lehr.NewSandboxID())
	b.kind(err, errs.NotFound, "Get(unknown)")
	id := b.newSandbox(b.put(b.team, "app", "default"))
	_, err = b.Sandboxes().Move(b.ctx, id, lehr.SandboxRunning, "odd")
	b.kind(err, errs.Invalid, "Move(odd reason)")
}

func sandboxList(b *bench) {
	v := b.put(b.team, "app", "default")
	other := b.newTeam("team-b")
	host := lehr.NewHostID()
	build := b.create(b.newBuild("app")).ID
	names := map[lehr.SandboxID]string{}
	for _, n := range []struct {
		name  string
		team  lehr.TeamID
		host  lehr.HostID
		build lehr.BuildID
		dead  bool
	}{
		{name: "a", team: b.team, host: host},
		{name: "dead", team: b.team, host: host, dead: true},
		{name: "other", team: other, host: host},
		{name: "build", team: b.team, host: host, build: build},
		{name: "elsewhere", team: b.team, host: lehr.NewHostID()},
	} {
		s := b.sandboxOf(v)
		s.TeamID, s.HostID, s.BuildID = n.team, n.host, n.build
		names[s.ID] = n.name
		_, _, err := b.Sandboxes().Create(b.ctx, s)
		b.ok(err, "Create(%s)", n.name)
		if n.dead {
			_, err := b.Sandboxes().Move(b.ctx, s.ID, lehr.SandboxFailed, lehr.ReasonEngine)
			b.ok(err, "Move(failed)")
		}
	}
	for _, test := range []struct {
		query store.ListSandboxes
		want  string
	}{
		{store.ListSandboxes{}, "elsewhere other a"},
		{store.ListSandboxes{All: true, Builds: true}, "elsewhere build other dead a"},
		{store.ListSandboxes{TeamID: b.team, All: true}, "elsewhere dead a"},
		{store.ListSandboxes{HostID: host, Builds: true}, "build other a"},
		{store.ListSandboxes{TeamID: b.team, HostID: host}, "a"},
		{store.ListSandboxes{TeamID: lehr.NewTeamID()}, ""},
	} {
		test.query.Limit = 10
		found, err := b.Sandboxes().List(b.ctx, test.query)
		b.ok(err, "List(%+v)", test.query)
		got := strings.Join(labels(found, func(s lehr.Sandbox) string { return names[s.ID] }), " ")
		b.equal(got, test.want, "List(%+v)", test.query)
	}
	b.sandboxPages(names)
}

func (b *bench) sandboxPages(names map[lehr.SandboxID]string) {
	b.Helper()
	var seen []string
	var before lehr.SandboxID
	for {
		page, err := b.Sandboxes().List(b.ctx, store.ListSandboxes{All: true, Builds: true, Before: before, Limit: 2})
		b.ok(err, "List(page)")
		for _, s := range page {
			seen, before = append(seen, names[s.ID]), s.ID
		}
		if len(page) < 2 {
			break
		}
	}
	b.equal(seen, []string{"elsewhere", "build", "other", "dead", "a"}, "the pages")
	_, err := b.Sandboxes().List(b.ctx, store.ListSandboxes{})
	b.kind(err, errs.Invalid, "List(no limit)")
}

func sandboxExpiry(b *bench) {
	v := b.put(b.team, "app", "default")
	short, long, none := b.newSandbox(v), b.newSandbox(v), b.newSandbox(v)
	set, err := b.Sandboxes().SetExpiry(b.ctx, short, instant)
	b.ok(err, "SetExpiry()")
	if set.ExpiresAt.Before(set.CreatedAt) {
		b.Errorf("ExpiresAt = %v, want a time after %v", set.ExpiresAt, set.CreatedAt)
	}
	_, err = b.Sandboxes().SetExpiry(b.ctx, long, lease)
	b.ok(err, "SetExpiry(long)")
	_, err = b.Sandboxes().SetExpiry(b.ctx, none, instant)
	b.ok(err, "SetExpiry()")
	removed, err := b.Sandboxes().SetExpiry(b.ctx, none, 0)
	b.ok(err, "SetExpiry(0)")
	if !removed.ExpiresAt.IsZero() {
		b.Errorf("ExpiresAt = %v, want none", removed.ExpiresAt)
	}
	expire := func() []string {
		b.Helper()
		found, err := b.Sandboxes().Expire(b.ctx, 10)
		b.ok(err, "Expire()")
		return labels(found, func(s lehr.Sandbox) string { return string(s.ID) + " " + string(s.State) + " " + string(s.Reason) })
	}
	b.equal(expire(), []string{string(short) + " killed ttl"}, "Expire()")
	ended, err := b.Sandboxes().Get(b.ctx, b.team, short)
	b.ok(err, "Get(expired)")
	if ended.State != lehr.SandboxKilled || ended.Reason != lehr.ReasonTTL || ended.EndedAt.IsZero() {
		b.Errorf("Get(expired) = %+v, want killed (ttl) with an end", ended)
	}
	b.equal(expire(), []string{}, "Expire() after the end")
	_, err = b.Sandboxes().SetExpiry(b.ctx, short, lease)
	b.kind(err, errs.Conflict, "SetExpiry(ended)")
	_, err = b.Sandboxes().SetExpiry(b.ctx, long, -1)
	b.kind(err, errs.Invalid, "SetExpiry(negative)")
	_, err = b.Sandboxes().Expire(b.ctx, 0)
	b.kind(err, errs.Invalid, "Expire(0)")
}

func sandboxForget(b *bench) {
	v := b.put(b.team, "app", "default")
	dead, alive := b.newSandbox(v), b.newSandbox(v)
	ended, err := b.Sandboxes().Move(b.ctx, dead, lehr.SandboxKilled, lehr.ReasonUser)
	b.ok(err, "Move(killed)")
	for _, test := range []struct {
		before time.Time
		want   int64
	}{{ended.EndedAt, 0}, {ended.EndedAt.Add(time.Microsecond), 1}, {ended.EndedAt.Add(lease), 0}} {
		n, err := b.Sandboxes().Forget(b.ctx, test.before)
		if err != nil || n != test.want {
			b.Errorf("Forget(%v) = %d, %v; want %d, nil", test.before, n, err, test.want)
		}
	}
	_, err = b.Sandboxes().Get(b.ctx, "", dead)
	b.kind(err, errs.NotFound, "Get(forgotten)")
	_, err = b.Sandboxes().Get(b.ctx, "", alive)
	b.ok(err, "Get(live)")
}
