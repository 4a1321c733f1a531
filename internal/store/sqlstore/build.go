package sqlstore

import (
	"context"
	"database/sql"
	"encoding/base64"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

const sqlBuildColumns = `b.id, b.team_id, b.template_id, b.spec, b.recipe_schema, COALESCE(b.idempotency_key, ''),
       b.status, b.attempt, b.lost_attempts, b.base_digest, COALESCE(a.host_id, ''), COALESCE(a.sandbox_id, ''),
       b.current_step, b.total_steps, b.error, b.artifact, b.created_at, b.started_at, b.completed_at`

const sqlBuildSelect = `
SELECT ` + sqlBuildColumns + `
FROM template_builds b
LEFT JOIN build_attempts a ON a.build_id = b.id AND a.number = b.attempt`

const sqlBuildGet = sqlBuildSelect + `
WHERE b.id = $1`

// sqlBuildInsert inserts nothing where the template is missing, an equal
// idempotency key is in the way, or the team has limits ($12 is 1 where they
// were checked) or more than $13 pending builds; Create then finds out which.
const sqlBuildInsert = `
INSERT INTO template_builds (id, team_id, template_id, name, tag, spec, recipe_schema, idempotency_key,
                             spec_digest, priority, status, base_digest, total_steps, created_at, queued_at, registry_login)
SELECT $1, t.team_id, t.id, t.name, $4, $5, $6, $7, $8, $9, 'pending', $10, $11, {now}, {now}, CAST($14 AS TEXT)
FROM templates t JOIN teams m ON m.id = t.team_id
WHERE t.team_id = $2 AND t.name = $3
  AND ($12 = 1 OR m.max_pending_builds = 0 AND m.max_creates_per_minute = 0)
  AND ($13 = 0 OR (SELECT COUNT(*) FROM template_builds p WHERE p.team_id = $2 AND p.status = 'pending') < $13)
ON CONFLICT (team_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING template_id, created_at`

const sqlBuildByKey = `
SELECT id, spec_digest FROM template_builds WHERE team_id = $1 AND idempotency_key = $2`

const sqlBuildCancel = `
UPDATE template_builds SET status = 'cancelled', completed_at = {now}, registry_login = NULL
WHERE id = $1 AND status IN ('pending', 'running')
RETURNING attempt`

var pageBuilds = page{
	head:    sqlBuildSelect + "\nWHERE TRUE",
	filters: []string{"b.team_id = ?", "b.name = ?", "b.status = ?", "b.id < ?"},
	tail:    "ORDER BY b.id DESC LIMIT ?",
}

// pagePairedBuilds is pageBuilds for builds with an entry of metadata.
var pagePairedBuilds = page{
	head: `
SELECT ` + sqlBuildColumns + `
FROM build_pairs p
JOIN template_builds b ON b.id = p.object_id
LEFT JOIN build_attempts a ON a.build_id = b.id AND a.number = b.attempt
WHERE p.team_id = ? AND p.pair = ?`,
	filters: []string{otherPairs("build_pairs"), "b.name = ?", "b.status = ?", "p.object_id < ?"},
	tail:    "ORDER BY p.object_id DESC LIMIT ?",
}

type builds struct{ s *Store }

// Create implements store.Builds. The usual case, a known template, a new key
// and a team without limits, is one statement.
func (b builds) Create(ctx context.Context, n store.NewBuild) (lehr.Build, bool, error) {
	const op = "store.Builds.Create"
	if n.ID == "" || n.TeamID == "" || n.Spec.Name == "" || n.Spec.Tag == "" {
		return lehr.Build{}, false, errs.New(errs.Invalid, "a build needs id, team, name and tag").WithOp(op)
	}
	if len(n.Spec.Metadata) == 0 {
		created, err := writeOne(ctx, b.s, op, func(ctx context.Context, t tx) (*lehr.Build, error) {
			return t.buildInsert(ctx, n, false)
		})
		if err != nil {
			return lehr.Build{}, false, err
		}
		if created != nil {
			return *created, true, nil
		}
	}
	outcome, err := write(ctx, b.s, op, func(ctx context.Context, t tx) (creation, error) {
		return t.buildCreate(ctx, n)
	})
	return outcome.build, outcome.created, err
}

// creation is the outcome of Create.
type creation struct {
	build   lehr.Build
	created bool
}

// buildCreate looks for the key again once the team's other creates are done:
// a repeated request is never refused for a limit that its first used up.
func (t tx) buildCreate(ctx context.Context, n store.NewBuild) (creation, error) {
	a, err := t.admit(ctx, n.TeamID)
	if err != nil {
		return creation{}, err
	}
	if found, ok, err := t.buildByKey(ctx, n.TeamID, n.IdempotencyKey, n.SpecDigest); err != nil || ok {
		return creation{build: found}, err
	}
	if err := t.roomForBuild(ctx, a, n.MaxPending); err != nil {
		return creation{}, err
	}
	if err := t.pay(ctx, a); err != nil {
		return creation{}, err
	}
	if _, err := t.templateEnsure(ctx, n.TeamID, n.Spec.Name); err != nil {
		return creation{}, err
	}
	made, err := t.buildInsert(ctx, n, true)
	if err != nil {
		return creation{}, err
	}
	if made != nil {
		err := t.putPairs(ctx, sqlBuildPairInsert, string(n.ID), n.TeamID, pairsOf(n.Spec.Metadata))
		return creation{build: *made, created: true}, err
	}
	found, ok, err := t.buildByKey(ctx, n.TeamID, n.IdempotencyKey, n.SpecDigest) // one that did not have to wait for the team
	if err == nil && !ok {
		err = errs.New(errs.Unavailable, "the build was neither made nor found")
	}
	return creation{build: found}, err
}

// ByKey implements store.Builds.
func (b builds) ByKey(ctx context.Context, team lehr.TeamID, key string, digest lehr.Digest) (lehr.Build, error) {
	return read(ctx, b.s, "store.Builds.ByKey", func(ctx context.Context, t tx) (lehr.Build, error) {
		found, ok, err := t.buildByKey(ctx, team, key, digest)
		if err == nil && !ok {
			err = errs.New(errs.NotFound, "no build was asked for under this key")
		}
		return found, err
	})
}

// buildByKey finds the build of an idempotency key.
func (t tx) buildByKey(ctx context.Context, team lehr.TeamID, key string, digest lehr.Digest) (b lehr.Build, ok bool, err error) {
	if key == "" {
		return b, false, nil
	}
	type earlier struct {
		id     lehr.BuildID
		digest lehr.Digest
	}
	scan := func(row scanner) (e earlier, err error) { return e, row.Scan(&e.id, &e.digest) }
	e, ok, err := one(ctx, t, scan, sqlBuildByKey, string(team), key)
	if err != nil || !ok {
		return b, false, err
	}
	if e.digest != digest {
		return b, false, keyReused("build", string(e.id))
	}
	b, err = t.build(ctx, e.id)
	return b, true, err
}

// keyReused says that an idempotency key stands for another request.
func keyReused(what, id string) error {
	return errs.New(errs.Conflict, "the idempotency key belongs to %s %s, which was asked for differently", what, id).
		WithCode(codeKeyReused).WithField("idempotency_key").WithRemedy("use a new key for a new request")
}

// buildInsert returns nil where nothing was inserted; checked says that the
// team's limits were looked at.
func (t tx) buildInsert(ctx context.Context, n store.NewBuild, checked bool) (*lehr.Build, error) {
	type inserted struct {
		template lehr.TemplateID
		at       sql.Null[int64]
	}
	scan := func(row scanner) (i inserted, err error) { return i, row.Scan(&i.template, &i.at) }
	i, ok, err := one(ctx, t, scan, sqlBuildInsert,
		string(n.ID), string(n.TeamID), n.Spec.Name, n.Spec.Tag, toJSON(specRecord(n.Spec)), n.RecipeSchema,
		orNull(n.IdempotencyKey), string(n.SpecDigest), n.Spec.Priority, string(n.BaseDigest), n.TotalSteps,
		flag(checked), pendingBound(n, checked), orNull(base64.StdEncoding.EncodeToString(n.RegistryLogin)))
	if err != nil || !ok {
		return nil, err
	}
	return &lehr.Build{
		ID: n.ID, TeamID: n.TeamID, TemplateID: i.template, Spec: n.Spec, RecipeSchema: n.RecipeSchema,
		IdempotencyKey: n.IdempotencyKey, Status: lehr.BuildPending, BaseDigest: n.BaseDigest,
		TotalSteps: n.TotalSteps, CreatedAt: instant(i.at),
	}, nil
}

// pendingBound is the bound that the insert itself looks at.
func pendingBound(n store.NewBuild, checked bool) int32 {
	if checked {
		return 0
	}
	return n.MaxPending
}

// Get implements store.Builds.
func (b builds) Get(ctx context.Context, team lehr.TeamID, id lehr.BuildID) (lehr.Build, error) {
	return read(ctx, b.s, "store.Builds.Get", func(ctx context.Context, t tx) (lehr.Build, error) {
		found, err := t.buildOf(ctx, team, id)
		if err != nil {
			return lehr.Build{}, err
		}
		found.Steps, err = all(ctx, t, scanStep, sqlStepList, string(id), found.Attempt)
		return found, err
	})
}

// List implements store.Builds.
func (b builds) List(ctx context.Context, q store.ListBuilds) ([]lehr.Build, error) {
	return read(ctx, b.s, "store.Builds.List", func(ctx context.Context, t tx) ([]lehr.Build, error) {
		if err := checkLimit(q.Limit); err != nil {
			return nil, err
		}
		if err := checkPairs("metadata", q.TeamID, q.Metadata); err != nil {
			return nil, err
		}
		text, args := pageBuilds.build(q.Limit, given(q.TeamID), given(q.Name), given(q.Status), given(q.Before))
		if pairs := pairsOf(q.Metadata); len(pairs) > 0 {
			text, args = pagePairedBuilds.buildWith([]any{string(q.TeamID), pairs[0]}, q.Limit,
				others(pairs), given(q.Name), given(q.Status), given(q.Before))
		}
		return all(ctx, t, scanBuild, text, args...)
	})
}

// Cancel implements store.Builds.
func (b builds) Cancel(ctx context.Context, team lehr.TeamID, id lehr.BuildID) (lehr.Build, error) {
	return write(ctx, b.s, "store.Builds.Cancel", func(ctx context.Context, t tx) (lehr.Build, error) {
		if _, err := t.buildOf(ctx, team, id); err != nil {
			return lehr.Build{}, err
		}
		attempt, moved, err := one(ctx, t, scanValue[int32], sqlBuildCancel, string(id))
		if err != nil {
			return lehr.Build{}, err
		}
		if moved {
			_, err = t.attemptEnd(ctx, lehr.Fence{BuildID: id, Attempt: attempt}, lehr.AttemptCancelled)
		}
		if err != nil {
			return lehr.Build{}, err
		}
		found, err := t.build(ctx, id)
		if err == nil && !moved {
			err = errs.New(errs.Conflict, "build %s is %s already", id, found.Status).WithCode(codeBuildFinished)
		}
		return found, err
	})
}

// build reads one build without steps.
func (t tx) build(ctx context.Context, id lehr.BuildID) (lehr.Build, error) {
	return t.buildOf(ctx, "", id)
}

// buildOf is build for a team; an empty one means any.
func (t tx) buildOf(ctx context.Context, team lehr.TeamID, id lehr.BuildID) (lehr.Build, error) {
	found, ok, err := one(ctx, t, scanBuild, sqlBuildGet, string(id))
	if err != nil {
		return lehr.Build{}, err
	}
	if !ok || (team != "" && found.TeamID != team) {
		return lehr.Build{}, unknownBuild(id)
	}
	return found, nil
}

func scanBuild(row scanner) (b lehr.Build, err error) {
	var spec, failure, artifact sql.Null[string]
	var created, started, completed sql.Null[int64]
	err = row.Scan(&b.ID, &b.TeamID, &b.TemplateID, &spec, &b.RecipeSchema, &b.IdempotencyKey,
		&b.Status, &b.Attempt, &b.LostAttempts, &b.BaseDigest, &b.HostID, &b.SandboxID,
		&b.CurrentStep, &b.TotalSteps, &failure, &artifact, &created, &started, &completed)
	if err != nil {
		return b, err
	}
	b.CreatedAt, b.StartedAt, b.CompletedAt = instant(created), instant(started), instant(completed)
	s, err := fromJSON[specRecord](spec)
	if err != nil {
		return b, err
	}
	b.Spec = lehr.BuildSpec(*s)
	e, err := fromJSON[errorRecord](failure)
	if err != nil {
		return b, err
	}
	a, err := fromJSON[artifactRecord](artifact)
	b.Error, b.Artifact = (*lehr.BuildError)(e), (*lehr.Artifact)(a)
	return b, err
}
