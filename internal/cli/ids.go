package cli

import (
	"context"
	"regexp"
	"strings"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/sdk"
)

// noun is a kind of thing that people name by its id or the beginning of it.
type noun struct {
	name   string // "sandbox"
	prefix string // of its ids
	list   string // the command that lists them
}

func (n noun) full(id string) bool {
	return len(id) == len(n.prefix)+26
}

// ids are Crockford's digits in lower case.
var idDigits = regexp.MustCompile(`^[0-9a-hjkmnp-tv-z]*$`)

// begins reports whether text is the beginning of an id, but not a whole one.
func (n noun) begins(text string) bool {
	digits, ok := strings.CutPrefix(text, n.prefix)
	return ok && digits != "" && !n.full(text) && idDigits.MatchString(digits)
}

// fits is an id, with a name for people where the thing has one.
type fits struct{ id, name string }

// maxFits bounds how many ids an ambiguity names.
const maxFits = 5

// choose makes one id of those that fit a text.
func (n noun) choose(text string, found []fits) (string, error) {
	switch len(found) {
	case 0:
		return "", errs.New(errs.NotFound, "there is no %s %q", n.name, text).WithCode(n.name+"_not_found").WithRemedy("`%s` lists them", n.list)
	case 1:
		return found[0].id, nil
	}
	names := make([]string, 0, maxFits)
	for _, f := range found[:min(len(found), maxFits)] {
		names = append(names, strings.TrimSpace(f.id+" "+f.name))
	}
	more := ""
	if len(found) > maxFits {
		more = " and more"
	}
	return "", errs.New(errs.Invalid, "%q fits several: %s%s", text, strings.Join(names, ", "), more).WithCode("id_ambiguous").WithRemedy("write more of the id")
}

// collect walks through a list and keeps what fits, until an ambiguity is
// certain and named.
func collect[M any](page func(limit int32, cursor string) ([]M, string, error), fit func(M) (fits, bool)) ([]fits, error) {
	var found []fits
	err := walk(0, page, func(list []M) error {
		for _, m := range list {
			if f, ok := fit(m); ok && len(found) <= maxFits {
				found = append(found, f)
			}
		}
		if len(found) > maxFits {
			return errEnough
		}
		return nil
	})
	return found, err
}

func sandboxes() noun { return noun{"sandbox", "sb", "lehr sandbox ls"} }
func builds() noun    { return noun{"build", "bld-", "lehr builds ls"} }
func keys() noun      { return noun{"key", "key-", "lehr keys ls"} }

// sandboxID completes the beginning of a sandbox's id; live ones go before
// ended ones. What is no beginning is left to the server to judge.
func (a *app) sandboxID(ctx context.Context, c *sdk.Client, text string) (string, error) {
	n := sandboxes()
	if !n.begins(text) {
		return text, nil
	}
	var found []fits
	for _, all := range []bool{false, true} {
		var err error
		found, err = collect(sandboxPages(ctx, c, &lehrv1.ListSandboxesRequest{All: all}), func(s *lehrv1.Sandbox) (fits, bool) {
			return fits{s.GetId(), "(" + s.GetTemplate() + ")"}, strings.HasPrefix(s.GetId(), text)
		})
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			break
		}
	}
	return n.choose(text, found)
}

func sandboxPages(ctx context.Context, c *sdk.Client, req *lehrv1.ListSandboxesRequest) func(int32, string) ([]*lehrv1.Sandbox, string, error) {
	return func(limit int32, cursor string) ([]*lehrv1.Sandbox, string, error) {
		req.Limit, req.Cursor = limit, cursor
		res, err := c.Sandboxes.List(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return res.Msg.GetSandboxes(), res.Msg.GetNextCursor(), nil
	}
}

// buildID completes the beginning of a build's id; a template's NAME or
// NAME:TAG is its newest build.
func (a *app) buildID(ctx context.Context, c *sdk.Client, text string) (string, error) {
	n := builds()
	if n.full(text) && strings.HasPrefix(text, n.prefix) {
		return text, nil
	}
	req := &lehrv1.ListBuildsRequest{}
	fit := func(b *lehrv1.Build) (fits, bool) {
		return fits{b.GetId(), "(" + b.GetName() + ":" + b.GetTag() + ")"}, strings.HasPrefix(b.GetId(), text)
	}
	if !n.begins(text) {
		name, tag, tagged := strings.Cut(text, ":")
		if !templateName.MatchString(name) || strings.HasPrefix(text, n.prefix) {
			return text, nil // the server says what is wrong with it
		}
		req.Name = name
		fit = func(b *lehrv1.Build) (fits, bool) { return fits{id: b.GetId()}, !tagged || b.GetTag() == tag }
	}
	found, err := collect(buildPages(ctx, c, req), fit)
	if err != nil {
		return "", err
	}
	if req.GetName() != "" && len(found) > 1 {
		found = found[:1] // newest first
	}
	return n.choose(text, found)
}

var templateName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func buildPages(ctx context.Context, c *sdk.Client, req *lehrv1.ListBuildsRequest) func(int32, string) ([]*lehrv1.Build, string, error) {
	return func(limit int32, cursor string) ([]*lehrv1.Build, string, error) {
		req.Limit, req.Cursor = limit, cursor
		res, err := c.Builds.List(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return res.Msg.GetBuilds(), res.Msg.GetNextCursor(), nil
	}
}

// keyID completes the beginning of a key's id, or finds the key of a name that
// is not revoked.
func (a *app) keyID(ctx context.Context, c *sdk.Client, team, text string) (string, error) {
	n := keys()
	if n.full(text) && strings.HasPrefix(text, n.prefix) {
		return text, nil
	}
	found, err := collect(keyPages(ctx, c, team), func(k *lehrv1.Key) (fits, bool) {
		named := k.GetName() == text && k.GetRevokedAt() == nil
		return fits{k.GetId(), "(" + k.GetName() + ")"}, named || n.begins(text) && strings.HasPrefix(k.GetId(), text)
	})
	if err != nil {
		return "", err
	}
	return n.choose(text, found)
}

func keyPages(ctx context.Context, c *sdk.Client, team string) func(int32, string) ([]*lehrv1.Key, string, error) {
	return func(limit int32, cursor string) ([]*lehrv1.Key, string, error) {
		res, err := c.Keys.List(ctx, connect.NewRequest(&lehrv1.ListKeysRequest{Limit: limit, Cursor: cursor, Team: team}))
		if err != nil {
			return nil, "", err
		}
		return res.Msg.GetKeys(), res.Msg.GetNextCursor(), nil
	}
}

// templateRef completes the beginning of a template's id; names are the
// server's to judge.
func (a *app) templateRef(ctx context.Context, c *sdk.Client, text string) (string, error) {
	n := noun{"template", "tpl-", "lehr templates ls"}
	if !n.begins(text) {
		return text, nil
	}
	seen := map[string]bool{} // the versions of a template share its id
	found, err := collect(templatePages(ctx, c, &lehrv1.ListTemplatesRequest{}), func(t *lehrv1.Template) (fits, bool) {
		fit := strings.HasPrefix(t.GetId(), text) && !seen[t.GetId()]
		if fit {
			seen[t.GetId()] = true
		}
		return fits{t.GetId(), "(" + t.GetName() + ")"}, fit
	})
	if err != nil {
		return "", err
	}
	return n.choose(text, found)
}

func templatePages(ctx context.Context, c *sdk.Client, req *lehrv1.ListTemplatesRequest) func(int32, string) ([]*lehrv1.Template, string, error) {
	return func(limit int32, cursor string) ([]*lehrv1.Template, string, error) {
		req.Limit, req.Cursor = limit, cursor
		res, err := c.Templates.List(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return res.Msg.GetTemplates(), res.Msg.GetNextCursor(), nil
	}
}
