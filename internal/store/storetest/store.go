package storetest

import (
	"context"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func storeScenarios() []scenario {
	return []scenario{
		{"CancelledContext", cancelledContext},
		{"HostileIDs", hostileIDs},
		{"Close", closeTwice},
	}
}

func cancelledContext(b *bench) {
	n := b.newBuild("app")
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	_, _, err := b.Builds().Create(ctx, n)
	b.kind(err, errs.Cancelled, "Create(cancelled)")
	_, err = b.Builds().Get(ctx, "", n.ID)
	b.kind(err, errs.Cancelled, "Get(cancelled)")
	_, err = b.Builds().Get(b.ctx, "", n.ID)
	b.kind(err, errs.NotFound, "Get() after a cancelled Create()")
	ctx, cancel = context.WithTimeout(b.ctx, 0)
	defer cancel()
	_, err = b.Hosts().List(ctx)
	b.kind(err, errs.Timeout, "List(timed out)")
}

// hostileIDs are what a caller may send where an id is expected.
func hostileIDs(b *bench) {
	for _, id := range []string{"", "x", "'; DROP TABLE teams; --", "%", "a\x00b", "\xff", fill(100_000, "x")} {
		_, err := b.Builds().Get(b.ctx, "", lehr.BuildID(id))
		b.refused(err, "Builds.Get", id)
		_, err = b.Sandboxes().Get(b.ctx, lehr.TeamID(id), lehr.SandboxID(id))
		b.refused(err, "Sandboxes.Get", id)
		_, err = b.Templates().Get(b.ctx, b.team, id)
		b.refused(err, "Templates.Get", id)
		_, err = b.Templates().Resolve(b.ctx, b.team, lehr.Ref{Team: id, Name: id, Tag: id})
		b.refused(err, "Templates.Resolve", id)
		_, err = b.Accounts().Team(b.ctx, lehr.TeamID(id))
		b.refused(err, "Accounts.Team", id)
		_, err = b.Builds().List(b.ctx, store.ListBuilds{Name: id, Before: lehr.BuildID(id), Limit: 1})
		if err != nil {
			b.kind(err, errs.Invalid, "Builds.List(%.20q)", id)
		}
	}
}

// refused wants NotFound, or Invalid for what is no text.
func (b *bench) refused(err error, what, id string) {
	b.Helper()
	if kind := errs.KindOf(err); kind != errs.NotFound && kind != errs.Invalid {
		b.Errorf("%s(%.20q) = %v, want not found or invalid", what, id, err)
	}
	if err != nil && len(err.Error()) > 1000 {
		b.Errorf("%s: the message has %d bytes", what, len(err.Error()))
	}
}

func closeTwice(b *bench) {
	b.create(b.newBuild("app"))
	for range 2 {
		b.ok(b.Close(), "Close()")
	}
	_, _, err := b.Builds().Create(b.ctx, b.newBuild("app"))
	b.kind(err, errs.Unavailable, "Create() after Close()")
	_, err = b.Hosts().List(b.ctx)
	b.kind(err, errs.Unavailable, "List() after Close()")
	_, _, err = b.Queue().Claim(b.ctx, "w", lease)
	b.kind(err, errs.Unavailable, "Claim() after Close()")
}
