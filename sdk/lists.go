package sdk

import (
	"context"
	"errors"
	"iter"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// errStuck is the error of a list whose next page is the page itself.
var errStuck = errors.New("the server's list does not go on")

// AllBuilds walks through builds, newest first, page by page as they are asked
// for. limit of the request is the size of a page; an error is the last element.
func (c *Client) AllBuilds(ctx context.Context, req *lehrv1.ListBuildsRequest) iter.Seq2[*lehrv1.Build, error] {
	return all(ctx, req, c.Builds.List, (*lehrv1.ListBuildsResponse).GetBuilds, (*lehrv1.ListBuildsResponse).GetNextCursor)
}

// AllTemplates walks through templates as AllBuilds does through builds.
func (c *Client) AllTemplates(ctx context.Context, req *lehrv1.ListTemplatesRequest) iter.Seq2[*lehrv1.Template, error] {
	return all(ctx, req, c.Templates.List, (*lehrv1.ListTemplatesResponse).GetTemplates, (*lehrv1.ListTemplatesResponse).GetNextCursor)
}

// AllSandboxes walks through sandboxes as AllBuilds does through builds.
func (c *Client) AllSandboxes(ctx context.Context, req *lehrv1.ListSandboxesRequest) iter.Seq2[*lehrv1.Sandbox, error] {
	return all(ctx, req, c.Sandboxes.List, (*lehrv1.ListSandboxesResponse).GetSandboxes, (*lehrv1.ListSandboxesResponse).GetNextCursor)
}

// AllKeys walks through a team's keys as AllBuilds does through builds.
func (c *Client) AllKeys(ctx context.Context, req *lehrv1.ListKeysRequest) iter.Seq2[*lehrv1.Key, error] {
	return all(ctx, req, c.Keys.List, (*lehrv1.ListKeysResponse).GetKeys, (*lehrv1.ListKeysResponse).GetNextCursor)
}

// AllTeams walks through teams, by name, as AllBuilds does through builds.
func (c *Client) AllTeams(ctx context.Context, req *lehrv1.ListTeamsRequest) iter.Seq2[*lehrv1.Team, error] {
	return all(ctx, req, c.Teams.List, (*lehrv1.ListTeamsResponse).GetTeams, (*lehrv1.ListTeamsResponse).GetNextCursor)
}

// all walks through the pages of one list. The request is the caller's and is
// not changed.
func all[M any, Req, Res any, PReq interface {
	*Req
	proto.Message
}](ctx context.Context, req PReq, list func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
	items func(*Res) []M, next func(*Res) string,
) iter.Seq2[M, error] {
	return func(yield func(M, error) bool) {
		var none M
		r := proto.CloneOf(req)
		at := r.ProtoReflect().Descriptor().Fields().ByName("cursor") // which every request of a list has
		for before := ""; ; {
			res, err := list(ctx, connect.NewRequest((*Req)(r)))
			if err != nil {
				yield(none, err)
				return
			}
			for _, m := range items(res.Msg) {
				if !yield(m, nil) {
					return
				}
			}
			cursor := next(res.Msg)
			if cursor == "" {
				return
			}
			if cursor == before {
				yield(none, errStuck)
				return
			}
			before = cursor
			r.ProtoReflect().Set(at, protoreflect.ValueOfString(cursor))
		}
	}
}
