package sqlstore

import (
	"context"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// sqlTagUsers finds live sandboxes of a version that would lose its last tag.
const sqlTagUsers = `
SELECT s.id FROM sandboxes s
JOIN template_tags g ON g.version_id = s.uses_version
WHERE g.template_id = $1 AND g.tag = $2
  AND NOT EXISTS (SELECT 1 FROM template_tags o WHERE o.version_id = g.version_id AND o.tag <> g.tag)
ORDER BY s.id LIMIT $3`

const sqlTemplateUsers = `
SELECT s.id FROM sandboxes s
JOIN template_versions v ON v.id = s.uses_version
WHERE v.template_id = $1
ORDER BY s.id LIMIT $2`

const sqlTagDelete = `
DELETE FROM template_tags WHERE template_id = $1 AND tag = $2`

const sqlTagDeleteAll = `
DELETE FROM template_tags WHERE template_id = $1`

// namedUsers bounds the sandboxes that a refusal names.
const namedUsers = 10

// Remove implements store.Templates. Versions are self-contained, so templates
// built on this one are not in the way. A sandbox that is created meanwhile
// keeps its version, which then has no tag.
func (r templates) Remove(ctx context.Context, team lehr.TeamID, name, tag string) error {
	_, err := write(ctx, r.s, "store.Templates.Remove", func(ctx context.Context, t tx) (bool, error) {
		ref := name
		if tag != "" {
			ref += ":" + tag
		}
		unknown := errs.New(errs.NotFound, "there is no template %.200s", ref).WithCode(codeTemplateUnknown).
			WithRemedy("`lehr templates ls` lists them")
		id, ok, err := one(ctx, t, scanValue[lehr.TemplateID], sqlTemplateFind, string(team), name)
		if err != nil {
			return false, err
		}
		if !ok {
			return false, unknown
		}
		if err := t.templateUnused(ctx, id, ref, tag); err != nil {
			return false, err
		}
		removed, err := t.tagsDelete(ctx, id, tag)
		if err == nil && removed == 0 {
			err = unknown
		}
		return true, err
	})
	return err
}

func (t tx) templateUnused(ctx context.Context, id lehr.TemplateID, ref, tag string) error {
	query, args := sqlTemplateUsers, []any{string(id), namedUsers + 1}
	if tag != "" {
		query, args = sqlTagUsers, []any{string(id), tag, namedUsers + 1}
	}
	users, err := all(ctx, t, scanValue[string], query, args...)
	if err != nil || len(users) == 0 {
		return err
	}
	names := strings.Join(users[:min(len(users), namedUsers)], ", ")
	if len(users) > namedUsers {
		names += " and others"
	}
	return errs.New(errs.Conflict, "template %s is used by live sandboxes: %s", ref, names).
		WithCode(codeInUse).WithRemedy("kill these sandboxes first")
}

func (t tx) tagsDelete(ctx context.Context, id lehr.TemplateID, tag string) (int64, error) {
	if tag == "" {
		return t.exec(ctx, sqlTagDeleteAll, string(id))
	}
	return t.exec(ctx, sqlTagDelete, string(id), tag)
}
