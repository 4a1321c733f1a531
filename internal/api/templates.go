package api

import (
	"context"
	"io"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/httpkit"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/template"
)

// templates implements lehr.v1.TemplateService.
type templates struct{ service *template.Service }

func (t *templates) List(ctx context.Context, req *connect.Request[lehrv1.ListTemplatesRequest]) (*connect.Response[lehrv1.ListTemplatesResponse], error) {
	limit, err := pageSize(req.Msg.GetLimit())
	if err != nil {
		return nil, err
	}
	before, err := cursor(req.Msg.GetCursor(), lehr.ParseVersionID)
	if err != nil {
		return nil, err
	}
	if err := plainText("name", req.Msg.GetName()); err != nil {
		return nil, err
	}
	kind, err := templateType(req.Msg.GetType())
	if err != nil {
		return nil, err
	}
	if err := pairFilter("labels", req.Msg.GetLabels()); err != nil {
		return nil, err
	}
	list, err := t.service.List(ctx, store.ListTemplates{
		TeamID: caller(ctx).TeamID, Name: req.Msg.GetName(), Type: kind, Labels: req.Msg.GetLabels(),
		Before: before, Limit: limit + 1,
	})
	if err != nil {
		return nil, err
	}
	page, next := cut(list, limit, func(t lehr.Tagged) string { return string(t.Version.ID) })
	res := &lehrv1.ListTemplatesResponse{NextCursor: next}
	for _, one := range page {
		res.Templates = append(res.Templates, templateMessage(one))
	}
	return connect.NewResponse(res), nil
}

func (t *templates) Get(ctx context.Context, req *connect.Request[lehrv1.GetTemplateRequest]) (*connect.Response[lehrv1.Template], error) {
	got, err := t.service.Get(ctx, caller(ctx).TeamID, req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(templateMessage(got)), nil
}

// Tag points a tag at the version that a name stands for.
func (t *templates) Tag(ctx context.Context, req *connect.Request[lehrv1.TagTemplateRequest]) (*connect.Response[lehrv1.Template], error) {
	got, err := t.service.Tag(ctx, caller(ctx).TeamID, req.Msg.GetName(), req.Msg.GetTag())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(templateMessage(got)), nil
}

func (t *templates) Remove(ctx context.Context, req *connect.Request[lehrv1.RemoveTemplateRequest]) (*connect.Response[lehrv1.RemoveTemplateResponse], error) {
	if err := t.service.Remove(ctx, caller(ctx).TeamID, req.Msg.GetName()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&lehrv1.RemoveTemplateResponse{}), nil
}

func (t *templates) Import(ctx context.Context, stream *connect.ClientStream[lehrv1.ImportTemplateRequest]) (*connect.Response[lehrv1.Template], error) {
	if !stream.Receive() {
		if err := stream.Err(); err != nil {
			return nil, uploadBroken(err)
		}
		return nil, errs.New(errs.Invalid, "the stream is empty").WithField("kind")
	}
	first := stream.Msg()
	r := chunksOf(stream, first.GetData(), (*lehrv1.ImportTemplateRequest).GetData)
	return t.importFrom(ctx, first.GetKind(), r)
}

func (t *templates) importFrom(ctx context.Context, kind string, r io.Reader) (*connect.Response[lehrv1.Template], error) {
	k := agent.ImportKind(kind)
	if k != agent.ImportTar && k != agent.ImportOCI {
		return nil, errs.New(errs.Invalid, "%q: want tar or oci", clipName(kind)).WithField("kind").
			WithRemedy("say which of the two is sent")
	}
	made, err := t.service.Import(ctx, caller(ctx).TeamID, k, r)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(templateMessage(made)), nil
}

// chunksOf reads the data of first and of the messages that follow it.
func chunksOf[M any](stream *connect.ClientStream[M], first []byte, data func(*M) []byte) io.Reader {
	return &httpkit.ChunkReader{Rest: first, Next: func() ([]byte, error) {
		if stream.Receive() {
			return data(stream.Msg()), nil
		}
		if err := stream.Err(); err != nil {
			return nil, uploadBroken(err)
		}
		return nil, io.EOF
	}}
}
