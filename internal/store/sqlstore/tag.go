package sqlstore

import (
	"context"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// sqlTemplateLock locks the row of a template, so that of a move of its tags
// and a removal one comes first.
const sqlTemplateLock = `
UPDATE templates SET name = name WHERE id = $1`

const sqlTagCount = `
SELECT COUNT(*) FROM template_tags WHERE template_id = $1 AND tag <> $2`

// sqlTagCopy points tag $3 to the version of tag $2.
const sqlTagCopy = `
INSERT INTO template_tags (template_id, tag, team_id, version_id, moved_at)
SELECT f.template_id, $3, f.team_id, f.version_id, {now}
FROM template_tags f WHERE f.template_id = $1 AND f.tag = $2
ON CONFLICT (template_id, tag) DO UPDATE SET version_id = excluded.version_id, moved_at = excluded.moved_at
RETURNING version_id`

// Tag implements store.Templates.
func (r templates) Tag(ctx context.Context, team lehr.TeamID, name, from, to string) (lehr.Tagged, error) {
	return write(ctx, r.s, "store.Templates.Tag", func(ctx context.Context, t tx) (lehr.Tagged, error) {
		if name == "" || from == "" || to == "" {
			return lehr.Tagged{}, errs.New(errs.Invalid, "a tag needs a template, a version and a name")
		}
		unknown := errs.New(errs.NotFound, "there is no template %.200s:%.200s", name, from).WithCode("template_not_found")
		id, ok, err := one(ctx, t, scanValue[lehr.TemplateID], sqlTemplateFind, string(team), name)
		if err == nil && !ok {
			err = unknown
		}
		if err != nil {
			return lehr.Tagged{}, err
		}
		if err := t.roomForTag(ctx, id, to); err != nil {
			return lehr.Tagged{}, err
		}
		_, ok, err = one(ctx, t, scanValue[lehr.VersionID], sqlTagCopy, string(id), from, to)
		if err == nil && !ok {
			err = unknown
		}
		if err != nil {
			return lehr.Tagged{}, err
		}
		found, _, err := one(ctx, t, scanTagged, sqlTemplateResolve, string(team), string(team), name, to)
		if err != nil {
			return lehr.Tagged{}, err
		}
		found.Tags, err = all(ctx, t, scanValue[string], sqlTagsOfVersion, string(found.Version.ID))
		return found, err
	})
}

// roomForTag locks the template and bounds its tags.
func (t tx) roomForTag(ctx context.Context, id lehr.TemplateID, tag string) error {
	if _, err := t.exec(ctx, sqlTemplateLock, string(id)); err != nil {
		return err
	}
	n, _, err := one(ctx, t, scanValue[int], sqlTagCount, string(id), tag)
	if err == nil && n >= store.MaxTags {
		err = errs.New(errs.Exhausted, "the template has %d tags, which is the most", n).WithCode("limit_tags").
			WithRemedy("remove tags that are not needed with `lehr templates rm NAME:TAG`")
	}
	return err
}
