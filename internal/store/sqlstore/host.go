package sqlstore

import (
	"context"
	"database/sql"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const sqlHostColumns = `id, name, state, platform, engine_digest, vcpus, memory_mb, disk_mb, seen_at`

// sqlHostPut keeps the team: hosts belong to the platform.
const sqlHostPut = `
INSERT INTO hosts (id, team_id, name, state, platform, engine_digest, vcpus, memory_mb, disk_mb, seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, {now})
ON CONFLICT (id) DO UPDATE SET
  name = excluded.name, state = excluded.state, platform = excluded.platform, engine_digest = excluded.engine_digest,
  vcpus = excluded.vcpus, memory_mb = excluded.memory_mb, disk_mb = excluded.disk_mb, seen_at = excluded.seen_at
RETURNING ` + sqlHostColumns

const sqlHostGet = `
SELECT ` + sqlHostColumns + ` FROM hosts WHERE id = $1`

const sqlHostList = `
SELECT ` + sqlHostColumns + ` FROM hosts ORDER BY id`

type hosts struct{ s *Store }

// Put implements store.Hosts.
func (r hosts) Put(ctx context.Context, h lehr.Host) (lehr.Host, error) {
	return writeOne(ctx, r.s, "store.Hosts.Put", func(ctx context.Context, t tx) (lehr.Host, error) {
		if h.ID == "" {
			return h, errs.New(errs.Invalid, "a host needs an id")
		}
		put, _, err := one(ctx, t, scanHost, sqlHostPut, string(h.ID), string(lehr.PlatformTeam), plain(h.Name), string(h.State),
			h.Platform, string(h.EngineDigest), h.Capacity.VCPUs, h.Capacity.MemoryMB, h.Capacity.DiskMB)
		return put, err
	})
}

// Get implements store.Hosts.
func (r hosts) Get(ctx context.Context, id lehr.HostID) (lehr.Host, error) {
	return read(ctx, r.s, "store.Hosts.Get", func(ctx context.Context, t tx) (lehr.Host, error) {
		h, ok, err := one(ctx, t, scanHost, sqlHostGet, string(id))
		if err == nil && !ok {
			err = errs.New(errs.NotFound, "there is no host %.80s", id)
		}
		return h, err
	})
}

// List implements store.Hosts, oldest first.
func (r hosts) List(ctx context.Context) ([]lehr.Host, error) {
	return read(ctx, r.s, "store.Hosts.List", func(ctx context.Context, t tx) ([]lehr.Host, error) {
		return all(ctx, t, scanHost, sqlHostList)
	})
}

func scanHost(row scanner) (h lehr.Host, err error) {
	var seen sql.Null[int64]
	err = row.Scan(&h.ID, &h.Name, &h.State, &h.Platform, &h.EngineDigest,
		&h.Capacity.VCPUs, &h.Capacity.MemoryMB, &h.Capacity.DiskMB, &seen)
	h.SeenAt = instant(seen)
	return h, err
}
