package storetest

import (
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func accountScenarios() []scenario {
	return []scenario{
		{"Teams", teams},
		{"Keys", keys},
		{"ListKeys", listKeys},
	}
}

func teams(b *bench) {
	for name, want := range map[string]lehr.TeamID{"platform": lehr.PlatformTeam, "default": "", "team-a": b.team} {
		team, err := b.Accounts().EnsureTeam(b.ctx, name)
		b.ok(err, "EnsureTeam(%s)", name)
		if want != "" && team.ID != want {
			b.Errorf("EnsureTeam(%s) = %s, want %s", name, team.ID, want)
		}
		if _, err := lehr.ParseTeamID(string(team.ID)); err != nil || team.Name != name || team.CreatedAt.IsZero() {
			b.Errorf("EnsureTeam(%s) = %+v, want a good id, the name and a time", name, team)
		}
		found, err := b.Accounts().Team(b.ctx, team.ID)
		b.ok(err, "Team(%s)", team.ID)
		b.equal(found, team, "Team()")
	}
	_, err := b.Accounts().Team(b.ctx, lehr.NewTeamID())
	b.kind(err, errs.NotFound, "Team(unknown)")
	for _, name := range []string{"", "A", "a/b", "a:b", "-a"} {
		_, err := b.Accounts().EnsureTeam(b.ctx, name)
		b.kind(err, errs.Invalid, "EnsureTeam(%q)", name)
	}
}

func newKey(team lehr.TeamID) (lehr.Key, lehr.Digest) {
	k := lehr.Key{ID: lehr.NewKeyID(), TeamID: team, Name: "ci", Prefix: "lehr_0123", Admin: true}
	return k, lehr.DigestOf([]byte(k.ID))
}

func keys(b *bench) {
	k, hash := newKey(b.team)
	b.ok(b.Accounts().CreateKey(b.ctx, k, hash), "CreateKey()")
	found, err := b.Accounts().KeyByHash(b.ctx, hash)
	b.ok(err, "KeyByHash()")
	k.CreatedAt = found.CreatedAt
	b.equal(found, k, "KeyByHash()")
	if found.CreatedAt.IsZero() {
		b.Error("CreatedAt is zero")
	}
	b.kind(b.Accounts().CreateKey(b.ctx, k, lehr.DigestOf([]byte("x"))), errs.Exists, "CreateKey(same id)")
	again, _ := newKey(b.team)
	b.kind(b.Accounts().CreateKey(b.ctx, again, hash), errs.Exists, "CreateKey(same hash)")
	stranger, strange := newKey(lehr.NewTeamID())
	b.kind(b.Accounts().CreateKey(b.ctx, stranger, strange), errs.NotFound, "CreateKey(unknown team)")
	b.kind(b.Accounts().CreateKey(b.ctx, again, "plain text"), errs.Invalid, "CreateKey(no hash)")
	b.kind(b.Accounts().CreateKey(b.ctx, lehr.Key{TeamID: b.team}, strange), errs.Invalid, "CreateKey(no id)")
	_, err = b.Accounts().KeyByHash(b.ctx, strange)
	b.kind(err, errs.NotFound, "KeyByHash(unknown)")

	_, err = b.Accounts().RevokeKey(b.ctx, b.newTeam("team-b"), k.ID)
	b.kind(err, errs.NotFound, "RevokeKey(another team's)")
	_, err = b.Accounts().KeyByHash(b.ctx, hash)
	b.ok(err, "KeyByHash() after a refused RevokeKey()")
	revoked, err := b.Accounts().RevokeKey(b.ctx, b.team, k.ID)
	b.ok(err, "RevokeKey()")
	if revoked.RevokedAt.IsZero() {
		b.Error("RevokedAt is zero")
	}
	again, err = b.Accounts().RevokeKey(b.ctx, b.team, k.ID)
	b.ok(err, "RevokeKey() again")
	b.equal(again, revoked, "RevokeKey() again")
	_, err = b.Accounts().KeyByHash(b.ctx, hash)
	b.kind(err, errs.NotFound, "KeyByHash(revoked)")
	_, err = b.Accounts().RevokeKey(b.ctx, b.team, lehr.NewKeyID())
	b.kind(err, errs.NotFound, "RevokeKey(unknown)")
}

func listKeys(b *bench) {
	var want []string
	for range 5 {
		k, hash := newKey(b.team)
		k.Admin = false
		b.ok(b.Accounts().CreateKey(b.ctx, k, hash), "CreateKey()")
		want = append([]string{string(k.ID)}, want...)
	}
	other, hash := newKey(b.newTeam("team-b"))
	b.ok(b.Accounts().CreateKey(b.ctx, other, hash), "CreateKey()")
	list := func(team lehr.TeamID, before lehr.KeyID, limit int) []string {
		b.Helper()
		found, err := b.Accounts().ListKeys(b.ctx, team, before, limit)
		b.ok(err, "ListKeys()")
		return labels(found, func(k lehr.Key) string { return string(k.ID) })
	}
	b.equal(list(b.team, "", 10), want, "the team's keys")
	b.equal(list(b.team, lehr.KeyID(want[1]), 2), want[2:4], "a page")
	b.equal(list("", "", 1), []string{string(other.ID)}, "every team's")
	_, err := b.Accounts().ListKeys(b.ctx, b.team, "", 0)
	b.kind(err, errs.Invalid, "ListKeys(limit 0)")
}
