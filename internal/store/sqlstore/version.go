package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const sqlVersionColumns = `v.id, v.template_id, v.team_id, COALESCE(v.build_id, ''), v.type, v.platform,
       v.image_digest, v.snapshot_digest, v.engine_digest, v.size_bytes, v.vcpus, v.memory_mb, v.disk_mb,
       v.base_template, v.base_digest, v.config, v.plan, v.created_at`

const sqlVersionGet = `
SELECT ` + sqlVersionColumns + ` FROM template_versions v WHERE v.id = $1`

const sqlVersionInsert = `
INSERT INTO template_versions (id, template_id, team_id, build_id, type, platform, image_digest, snapshot_digest,
                               engine_digest, size_bytes, vcpus, memory_mb, disk_mb, base_template, base_digest,
                               config, plan, paired, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 1, {now})`

const sqlTagPut = `
INSERT INTO template_tags (template_id, tag, team_id, version_id, moved_at) VALUES ($1, $2, $3, $4, {now})
ON CONFLICT (template_id, tag) DO UPDATE SET version_id = excluded.version_id, moved_at = excluded.moved_at`

const sqlVersionFree = `
NOT EXISTS (SELECT 1 FROM template_tags g WHERE g.version_id = template_versions.id)
  AND NOT EXISTS (SELECT 1 FROM sandboxes s WHERE s.uses_version = template_versions.id)`

const sqlVersionUnreferenced = `
SELECT ` + sqlVersionColumns + ` FROM template_versions v
WHERE NOT EXISTS (SELECT 1 FROM template_tags g WHERE g.version_id = v.id)
  AND NOT EXISTS (SELECT 1 FROM sandboxes s WHERE s.uses_version = v.id)
ORDER BY v.id LIMIT $1`

const sqlVersionDelete = `
DELETE FROM template_versions WHERE id = $1 AND ` + sqlVersionFree + `
RETURNING image_digest, snapshot_digest`

const sqlVersionDigestUse = `
SELECT CASE WHEN EXISTS (SELECT 1 FROM template_versions i WHERE i.image_digest = $1) THEN 1 ELSE 0 END,
       CASE WHEN EXISTS (SELECT 1 FROM template_versions s WHERE s.snapshot_digest = $2) THEN 1 ELSE 0 END`

const sqlVersionReferences = `
SELECT CASE WHEN EXISTS (SELECT 1 FROM template_versions v WHERE v.image_digest = $1 OR v.snapshot_digest = $1)
            THEN 1 ELSE 0 END`

// Version implements store.Templates.
func (r templates) Version(ctx context.Context, id lehr.VersionID) (lehr.Version, error) {
	return read(ctx, r.s, "store.Templates.Version", func(ctx context.Context, t tx) (lehr.Version, error) {
		return t.version(ctx, id)
	})
}

// Unreferenced implements store.Garbage, oldest first.
func (r templates) Unreferenced(ctx context.Context, limit int) ([]lehr.Version, error) {
	return read(ctx, r.s, "store.Templates.Unreferenced", func(ctx context.Context, t tx) ([]lehr.Version, error) {
		limit, err := sweepLimit(limit)
		if err != nil {
			return nil, err
		}
		return all(ctx, t, scanVersion, sqlVersionUnreferenced, limit)
	})
}

// forgotten is what a deleted version leaves unused.
type forgotten struct{ image, snapshot bool }

// Forget implements store.Garbage. A version that is referred to is
// Conflict; the references in the schema refuse what the condition misses.
func (r templates) Forget(ctx context.Context, id lehr.VersionID) (freeImage, freeSnapshot bool, err error) {
	free, err := write(ctx, r.s, "store.Templates.Forget", func(ctx context.Context, t tx) (forgotten, error) {
		type digests struct{ image, snapshot string }
		scan := func(row scanner) (d digests, err error) { return d, row.Scan(&d.image, &d.snapshot) }
		d, ok, err := one(ctx, t, scan, sqlVersionDelete, string(id))
		inUse := errs.New(errs.Conflict, "version %s is in use", id).WithCode(codeInUse)
		if t.s.is(err, TroubleReference) {
			return forgotten{}, inUse
		}
		if err != nil {
			return forgotten{}, err
		}
		if !ok {
			if _, err := t.version(ctx, id); err != nil {
				return forgotten{}, err
			}
			return forgotten{}, inUse
		}
		scanUse := func(row scanner) (f forgotten, err error) {
			var image, snapshot int64
			err = row.Scan(&image, &snapshot)
			return forgotten{image: image == 0 && d.image != "", snapshot: snapshot == 0 && d.snapshot != ""}, err
		}
		f, _, err := one(ctx, t, scanUse, sqlVersionDigestUse, d.image, d.snapshot)
		return f, err
	})
	return free.image, free.snapshot, err
}

// Referenced implements store.Garbage.
func (r templates) Referenced(ctx context.Context, d lehr.Digest) (bool, error) {
	return read(ctx, r.s, "store.Templates.Referenced", func(ctx context.Context, t tx) (bool, error) {
		n, _, err := one(ctx, t, scanValue[int64], sqlVersionReferences, string(d))
		return n == 1 && d != "", err
	})
}

func (t tx) version(ctx context.Context, id lehr.VersionID) (lehr.Version, error) {
	v, ok, err := one(ctx, t, scanVersion, sqlVersionGet, string(id))
	if err == nil && !ok {
		err = errs.New(errs.NotFound, "there is no version %.80s", id)
	}
	return v, err
}

// versionPut inserts a version and points tag to it.
func (t tx) versionPut(ctx context.Context, v lehr.Version, tag string) error {
	config, err := json.Marshal(v.Config)
	if err != nil {
		return errs.New(errs.Invalid, "the version's config cannot be stored: %w", err)
	}
	if len(v.Plan) > 0 && !json.Valid(v.Plan) {
		return errs.New(errs.Invalid, "the version's plan is not JSON").WithField("plan")
	}
	if err := t.versionLock(ctx, v); err != nil {
		return err
	}
	_, err = t.exec(ctx, sqlVersionInsert, string(v.ID), string(v.TemplateID), string(v.TeamID), orNull(v.BuildID),
		string(v.Type), v.Platform, string(v.ImageDigest), string(v.SnapshotDigest), string(v.EngineDigest), v.SizeBytes,
		v.Resources.VCPUs, v.Resources.MemoryMB, v.Resources.DiskMB, v.BaseTemplate, string(v.BaseDigest),
		string(config), orNull(string(v.Plan)))
	if t.s.is(err, TroubleUnique) {
		return errs.New(errs.Exists, "there is a version %s, or one of build %s, already", v.ID, v.BuildID)
	}
	if err != nil {
		return err
	}
	if err := t.putPairs(ctx, sqlVersionPairInsert, string(v.ID), v.TeamID, labelPairs(v.Config.Labels)); err != nil {
		return err
	}
	_, err = t.exec(ctx, sqlTagPut, string(v.TemplateID), tag, string(v.TeamID), string(v.ID))
	return err
}

func scanVersion(row scanner) (v lehr.Version, err error) {
	targets, finish := versionTargets(&v)
	if err := row.Scan(targets...); err != nil {
		return v, err
	}
	return v, finish()
}

// versionTargets returns where to scan sqlVersionColumns to, and what to do
// once they are scanned.
func versionTargets(v *lehr.Version) (targets []any, finish func() error) {
	var config string
	var plan sql.Null[string]
	var created sql.Null[int64]
	targets = []any{
		&v.ID, &v.TemplateID, &v.TeamID, &v.BuildID, &v.Type, &v.Platform, &v.ImageDigest, &v.SnapshotDigest,
		&v.EngineDigest, &v.SizeBytes, &v.Resources.VCPUs, &v.Resources.MemoryMB, &v.Resources.DiskMB,
		&v.BaseTemplate, &v.BaseDigest, &config, &plan, &created,
	}
	return targets, func() error {
		v.CreatedAt = instant(created)
		if plan.Valid {
			v.Plan = []byte(plan.V)
		}
		if err := json.Unmarshal([]byte(config), &v.Config); err != nil {
			return fmt.Errorf("decode the config of version %s: %w", v.ID, err)
		}
		return nil
	}
}
