package storetest

import (
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func hostScenarios() []scenario {
	return []scenario{
		{"PutAndGet", hostPut},
		{"EveryState", hostStates},
	}
}

func newHost() lehr.Host {
	return lehr.Host{
		ID: lehr.NewHostID(), Name: "host-1", State: lehr.HostJoining, Platform: "linux/amd64",
		EngineDigest: lehr.DigestOf([]byte("sentry")), Capacity: lehr.Resources{VCPUs: 8, MemoryMB: 16384, DiskMB: 99999},
	}
}

func hostPut(b *bench) {
	h := newHost()
	put, err := b.Hosts().Put(b.ctx, h)
	b.ok(err, "Put()")
	h.SeenAt = put.SeenAt
	b.equal(put, h, "Put()")
	if put.SeenAt.IsZero() {
		b.Error("SeenAt is zero")
	}
	h.State, h.Name, h.Capacity.VCPUs, h.EngineDigest = lehr.HostReady, "renamed", 4, ""
	again, err := b.Hosts().Put(b.ctx, h)
	b.ok(err, "Put() again")
	if again.SeenAt.Before(put.SeenAt) {
		b.Errorf("SeenAt went from %v to %v", put.SeenAt, again.SeenAt)
	}
	h.SeenAt = again.SeenAt
	found, err := b.Hosts().Get(b.ctx, h.ID)
	b.ok(err, "Get()")
	b.equal(found, h, "Get()")
	second, err := b.Hosts().Put(b.ctx, newHost())
	b.ok(err, "Put(second)")
	list, err := b.Hosts().List(b.ctx)
	b.ok(err, "List()")
	b.equal(list, []lehr.Host{h, second}, "List()")
	_, err = b.Hosts().Get(b.ctx, lehr.NewHostID())
	b.kind(err, errs.NotFound, "Get(unknown)")
}

func hostStates(b *bench) {
	h := newHost()
	for _, state := range []lehr.HostState{
		lehr.HostJoining, lehr.HostReady, lehr.HostDraining, lehr.HostUnreachable, lehr.HostRemoved,
	} {
		h.State = state
		put, err := b.Hosts().Put(b.ctx, h)
		b.ok(err, "Put(%s)", state)
		b.equal(put.State, state, "the state")
	}
	h.State = "odd"
	_, err := b.Hosts().Put(b.ctx, h)
	b.kind(err, errs.Invalid, "Put(odd state)")
	h.ID = ""
	_, err = b.Hosts().Put(b.ctx, h)
	b.kind(err, errs.Invalid, "Put(no id)")
}
