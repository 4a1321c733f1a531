package sqlstore

import (
	"context"
	"encoding/json"
	"fmt"
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

// sqlBaseUsers finds pending and running builds whose request may name a base;
// $4 is a pattern that the caller refines, $5 the last one it has seen.
const sqlBaseUsers = `
SELECT id, spec FROM template_builds
WHERE team_id = $1 AND status IN ($2, $3) AND spec LIKE $4 AND id > $5
ORDER BY id LIMIT $6`

// namedUsers bounds what a refusal names of each kind, countedUsers what it
// counts.
const (
	namedUsers   = 10
	countedUsers = 1000
)

// baseUsersPage is how many builds are looked at in one go.
const baseUsersPage = 200

// Remove implements store.Templates. Versions are self-contained: templates that
// were built on this one are not in the way, builds that still have to begin
// with it are. A sandbox that is created meanwhile keeps its version, which then
// has no tag.
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
		if _, err := t.exec(ctx, sqlTemplateLock, string(id)); err != nil {
			return false, err
		}
		if err := t.templateUnused(ctx, removal{team: team, template: id, name: name, tag: tag}); err != nil {
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

// dependents is who would be orphaned.
type dependents struct {
	sandboxes, builds []string
}

func (t tx) templateUnused(ctx context.Context, u removal) error {
	query, args := sqlTemplateUsers, []any{string(u.template), countedUsers + 1}
	if u.tag != "" {
		query, args = sqlTagUsers, []any{string(u.template), u.tag, countedUsers + 1}
	}
	var d dependents
	var err error
	if d.sandboxes, err = all(ctx, t, scanValue[string], query, args...); err != nil {
		return err
	}
	if d.builds, err = t.buildsOn(ctx, u); err != nil {
		return err
	}
	return d.refusal(u)
}

// removal is what is to be removed: a tag, or with an empty one all.
type removal struct {
	team      lehr.TeamID
	template  lehr.TemplateID
	name, tag string
}

func (u removal) String() string {
	if u.tag == "" {
		return u.name
	}
	return u.name + ":" + u.tag
}

// buildsOn finds live builds that need the template as their base.
func (t tx) buildsOn(ctx context.Context, u removal) ([]string, error) {
	type request struct{ id, spec string }
	scan := func(row scanner) (r request, err error) { return r, row.Scan(&r.id, &r.spec) }
	pattern := `%"base_template":"%` + u.name + `%`
	var ids []string
	for last := ""; ; {
		page, err := all(ctx, t, scan, sqlBaseUsers,
			string(u.team), string(lehr.BuildPending), string(lehr.BuildRunning), pattern, last, baseUsersPage)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			last = r.id
			if u.isBaseOf(r.spec) {
				ids = append(ids, r.id)
			}
		}
		if len(page) < baseUsersPage || len(ids) > countedUsers {
			return ids, nil
		}
	}
}

// isBaseOf reports whether a build's request begins with u.
func (u removal) isBaseOf(spec string) bool {
	var r specRecord
	if err := json.Unmarshal([]byte(spec), &r); err != nil || r.BaseImage != "" {
		return false // an image of a registry, whatever its name
	}
	ref, err := lehr.ParseRef(r.BaseTemplate)
	return err == nil && ref.Name == u.name && (u.tag == "" || ref.Tag == u.tag)
}

// refusal names who is in the way; nil where nobody is.
func (d dependents) refusal(u removal) error {
	var in, remedy []string
	if len(d.sandboxes) > 0 {
		in = append(in, "live sandboxes: "+listed(d.sandboxes))
		remedy = append(remedy, "kill these sandboxes")
	}
	if len(d.builds) > 0 {
		in = append(in, "builds that begin with it: "+listed(d.builds))
		remedy = append(remedy, "cancel these builds or wait for their end")
	}
	if len(in) == 0 {
		return nil
	}
	return errs.New(errs.Conflict, "template %s is used by %s", u, strings.Join(in, "; and by ")).
		WithCode(codeInUse).WithRemedy("%s first", strings.Join(remedy, ", "))
}

// listed names the first few of ids and counts the rest.
func listed(ids []string) string {
	names := strings.Join(ids[:min(len(ids), namedUsers)], ", ")
	switch rest := len(ids) - namedUsers; {
	case rest <= 0:
		return names
	case len(ids) > countedUsers:
		return fmt.Sprintf("%s and more than %d others", names, countedUsers-namedUsers)
	default:
		return fmt.Sprintf("%s and %d others", names, rest)
	}
}

func (t tx) tagsDelete(ctx context.Context, id lehr.TemplateID, tag string) (int64, error) {
	if tag == "" {
		return t.exec(ctx, sqlTagDeleteAll, string(id))
	}
	return t.exec(ctx, sqlTagDelete, string(id), tag)
}
