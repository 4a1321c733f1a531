package sqlstore

import (
	"context"
	"database/sql"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

const sqlTaggedColumns = `t.id, t.team_id, t.name, t.created_at, g.tag, ` + sqlVersionColumns

const sqlTaggedSelect = `
SELECT ` + sqlTaggedColumns + `
FROM template_tags g
JOIN templates t ON t.id = g.template_id
JOIN template_versions v ON v.id = g.version_id`

// sqlTemplateResolve prefers team $1 to team $2.
const sqlTemplateResolve = sqlTaggedSelect + `
WHERE t.name = $3 AND g.tag = $4 AND t.team_id IN ($1, $2)
ORDER BY CASE WHEN t.team_id = $1 THEN 0 ELSE 1 END LIMIT 1`

const sqlTemplateGet = sqlTaggedSelect + `
WHERE t.team_id = $1 AND (t.id = $2 OR t.name = $2)
ORDER BY v.id DESC, g.tag`

const sqlTemplateFind = `
SELECT id FROM templates WHERE team_id = $1 AND name = $2`

const sqlTemplateInsert = `
INSERT INTO templates (id, team_id, name, created_at) VALUES ($1, $2, $3, {now})
ON CONFLICT (team_id, name) DO NOTHING`

const sqlTagsOfVersion = `
SELECT tag FROM template_tags WHERE version_id = $1 ORDER BY tag`

// pageTemplates lists every tag of a page of versions.
var pageTemplates = page{
	head: `
SELECT ` + sqlTaggedColumns + `
FROM (SELECT w.* FROM template_versions w JOIN templates n ON n.id = w.template_id
      WHERE EXISTS (SELECT 1 FROM template_tags e WHERE e.version_id = w.id)`,
	filters: []string{"w.team_id IN (?, '" + string(lehr.PlatformTeam) + "')", "n.name = ?", "w.type = ?", "w.id < ?"},
	tail:    pageTemplatesTail,
}

const pageTemplatesTail = `ORDER BY w.id DESC LIMIT ?) v
JOIN templates t ON t.id = v.template_id
JOIN template_tags g ON g.version_id = v.id
ORDER BY v.id DESC, g.tag`

// pageLabelledTemplates is pageTemplates for versions with a label.
var pageLabelledTemplates = page{
	head: `
SELECT ` + sqlTaggedColumns + `
FROM (SELECT w.* FROM version_pairs p
      JOIN template_versions w ON w.id = p.object_id JOIN templates n ON n.id = w.template_id
      WHERE p.team_id IN (?, '` + string(lehr.PlatformTeam) + `') AND p.pair = ?
        AND EXISTS (SELECT 1 FROM template_tags e WHERE e.version_id = w.id)`,
	filters: []string{otherPairs("version_pairs"), "n.name = ?", "w.type = ?", "w.id < ?"},
	tail:    pageTemplatesTail,
}

type templates struct{ s *Store }

// Resolve implements store.Templates.
func (r templates) Resolve(ctx context.Context, team lehr.TeamID, ref lehr.Ref) (lehr.Tagged, error) {
	return read(ctx, r.s, "store.Templates.Resolve", func(ctx context.Context, t tx) (lehr.Tagged, error) {
		unknown := errs.New(errs.NotFound, "there is no template %.300s", ref.String()).WithCode(codeTemplateUnknown).
			WithRemedy("`lehr templates ls` lists them")
		own, platform := team, lehr.PlatformTeam
		if ref.Team != "" {
			named, ok, err := one(ctx, t, scanTeam, sqlTeamByName, ref.Team)
			if err != nil {
				return lehr.Tagged{}, err
			}
			if !ok || (named.ID != own && named.ID != platform) {
				return lehr.Tagged{}, unknown
			}
			own, platform = named.ID, named.ID
		}
		found, ok, err := one(ctx, t, scanTagged, sqlTemplateResolve, string(own), string(platform), ref.Name, ref.Tag)
		if err != nil {
			return lehr.Tagged{}, err
		}
		if !ok {
			return lehr.Tagged{}, unknown
		}
		found.Tags, err = all(ctx, t, scanValue[string], sqlTagsOfVersion, string(found.Version.ID))
		return found, err
	})
}

// Get implements store.Templates: newest version first, then by tag.
func (r templates) Get(ctx context.Context, team lehr.TeamID, idOrName string) ([]lehr.Tagged, error) {
	return read(ctx, r.s, "store.Templates.Get", func(ctx context.Context, t tx) ([]lehr.Tagged, error) {
		found, err := all(ctx, t, scanTagged, sqlTemplateGet, string(team), idOrName)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, errs.New(errs.NotFound, "there is no template %.80q", idOrName).WithCode(codeTemplateUnknown).
				WithRemedy("`lehr templates ls` lists them")
		}
		return withTags(found), nil
	})
}

// List implements store.Templates. An entry's Tag is DefaultTag where the
// version has it, else the first; an empty team lists every team's.
func (r templates) List(ctx context.Context, q store.ListTemplates) ([]lehr.Tagged, error) {
	return read(ctx, r.s, "store.Templates.List", func(ctx context.Context, t tx) ([]lehr.Tagged, error) {
		if err := checkLimit(q.Limit); err != nil {
			return nil, err
		}
		if err := checkPairs("labels", q.TeamID, q.Labels); err != nil {
			return nil, err
		}
		text, args := pageTemplates.build(q.Limit, given(q.TeamID), given(q.Name), given(q.Type), given(q.Before))
		if pairs := pairsOf(q.Labels); len(pairs) > 0 {
			text, args = pageLabelledTemplates.buildWith([]any{string(q.TeamID), pairs[0]}, q.Limit,
				others(pairs), given(q.Name), given(q.Type), given(q.Before))
		}
		rows, err := all(ctx, t, scanTagged, text, args...)
		if err != nil {
			return nil, err
		}
		return onePerVersion(withTags(rows)), nil
	})
}

// withTags fills Tags; entries of a version are neighbours, ordered by tag.
func withTags(entries []lehr.Tagged) []lehr.Tagged {
	tags := map[lehr.VersionID][]string{}
	for _, e := range entries {
		tags[e.Version.ID] = append(tags[e.Version.ID], e.Tag)
	}
	for i := range entries {
		entries[i].Tags = tags[entries[i].Version.ID]
	}
	return entries
}

func onePerVersion(entries []lehr.Tagged) []lehr.Tagged {
	kept := []lehr.Tagged{}
	for _, e := range entries {
		last := len(kept) - 1
		switch {
		case last < 0 || kept[last].Version.ID != e.Version.ID:
			kept = append(kept, e)
		case e.Tag == lehr.DefaultTag:
			kept[last] = e
		}
	}
	return kept
}

// PutVersion implements store.Templates.
func (r templates) PutVersion(ctx context.Context, name, tag string, v lehr.Version) (lehr.Tagged, error) {
	return write(ctx, r.s, "store.Templates.PutVersion", func(ctx context.Context, t tx) (lehr.Tagged, error) {
		if name == "" || tag == "" || v.ID == "" || v.TeamID == "" {
			return lehr.Tagged{}, errs.New(errs.Invalid, "a version needs id, team, name and tag")
		}
		id, err := t.templateEnsure(ctx, v.TeamID, name)
		if err != nil {
			return lehr.Tagged{}, err
		}
		v.TemplateID = id
		if err := t.versionPut(ctx, v, tag); err != nil {
			return lehr.Tagged{}, err
		}
		found, _, err := one(ctx, t, scanTagged, sqlTemplateResolve, string(v.TeamID), string(v.TeamID), name, tag)
		found.Tags = []string{tag}
		return found, err
	})
}

// templateEnsure finds or makes the row of a name.
func (t tx) templateEnsure(ctx context.Context, team lehr.TeamID, name string) (lehr.TemplateID, error) {
	find := func() (lehr.TemplateID, bool, error) {
		return one(ctx, t, scanValue[lehr.TemplateID], sqlTemplateFind, string(team), name)
	}
	if id, ok, err := find(); err != nil || ok {
		return id, err
	}
	_, err := t.exec(ctx, sqlTemplateInsert, string(lehr.NewTemplateID()), string(team), name)
	if t.s.is(err, TroubleReference) {
		return "", unknownTeam(string(team))
	}
	if err != nil {
		return "", err
	}
	id, ok, err := find()
	if err == nil && !ok {
		err = errs.New(errs.Unavailable, "the template was neither made nor found")
	}
	return id, err
}

func scanTagged(row scanner) (g lehr.Tagged, err error) {
	var created sql.Null[int64]
	v, finish := versionTargets(&g.Version)
	targets := append([]any{&g.Template.ID, &g.Template.TeamID, &g.Template.Name, &created, &g.Tag}, v...)
	if err := row.Scan(targets...); err != nil {
		return g, err
	}
	g.Template.CreatedAt = instant(created)
	return g, finish()
}
