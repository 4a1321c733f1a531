package sqlstore

import (
	"context"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

const sqlQueueFinish = `
UPDATE template_builds SET status = $3, error = $4, artifact = $5, completed_at = {now}, registry_login = NULL
WHERE id = $1 AND attempt = $2 AND status = 'running'
RETURNING team_id, template_id, tag`

// Finish implements store.Queue.
func (q queue) Finish(ctx context.Context, f lehr.Fence, end store.Finish) error {
	_, err := write(ctx, q.s, "store.Queue.Finish", func(ctx context.Context, t tx) (bool, error) {
		if err := checkFinish(end); err != nil {
			return false, err
		}
		return true, t.finish(ctx, f, end)
	})
	return err
}

// checkFinish refuses an end that lacks what its status needs.
func checkFinish(end store.Finish) error {
	switch {
	case end.Status == lehr.BuildSuccess && (end.Version == nil || end.Version.ID == ""):
		return errs.New(errs.Invalid, "a successful build needs a version")
	case end.Status == lehr.BuildFailed && end.Error == nil:
		return errs.New(errs.Invalid, "a failed build needs an error")
	case end.Status != lehr.BuildSuccess && end.Status != lehr.BuildFailed:
		return errs.New(errs.Invalid, "a build cannot finish as %q", end.Status)
	}
	return nil
}

func (t tx) finish(ctx context.Context, f lehr.Fence, end store.Finish) error {
	type target struct {
		team     lehr.TeamID
		template lehr.TemplateID
		tag      string
	}
	scan := func(row scanner) (g target, err error) { return g, row.Scan(&g.team, &g.template, &g.tag) }
	failure, artifact, as := endColumns(end)
	g, ok, err := one(ctx, t, scan, sqlQueueFinish, string(f.BuildID), f.Attempt, string(end.Status), failure, artifact)
	if err != nil {
		return err
	}
	if !ok {
		return t.fenceError(ctx, f)
	}
	if _, err := t.attemptEnd(ctx, f, as); err != nil {
		return err
	}
	if end.Status != lehr.BuildSuccess {
		return nil
	}
	v := *end.Version
	v.TeamID, v.TemplateID, v.BuildID = g.team, g.template, f.BuildID
	return t.versionPut(ctx, v, g.tag)
}

func endColumns(end store.Finish) (failure, artifact any, as lehr.AttemptEnd) {
	if end.Status == lehr.BuildFailed {
		return toJSON(errorRecord(*end.Error)), nil, lehr.AttemptFailed
	}
	v := end.Version
	return nil, toJSON(artifactRecord{
		Type: v.Type, ImageDigest: v.ImageDigest, SnapshotDigest: v.SnapshotDigest,
		SizeBytes: v.SizeBytes, Version: v.ID,
	}), lehr.AttemptSucceeded
}
