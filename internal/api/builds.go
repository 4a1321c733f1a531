package api

import (
	"context"
	"log/slog"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/build"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// builds implements lehr.v1.BuildService.
type builds struct {
	service *build.BuildService
	log     *slog.Logger
}

// Headers of creates: the caller's name of a request, and the mark of the
// answer to a repeated one.
const (
	idempotencyHeader = "Idempotency-Key"
	replayedHeader    = "Lehr-Replayed"
)

func (b *builds) Create(ctx context.Context, req *connect.Request[lehrv1.CreateBuildRequest]) (*connect.Response[lehrv1.Build], error) {
	m := req.Msg
	limits, err := limitParams(m.GetLimits())
	if err != nil {
		return nil, err
	}
	key := m.GetIdempotencyKey()
	if key == "" {
		key = req.Header().Get(idempotencyHeader)
	}
	made, created, err := b.service.Create(ctx, build.CreateParams{
		TeamID: caller(ctx).TeamID, Name: m.GetName(), BaseTemplate: m.GetBaseTemplate(), Recipe: m.GetRecipe(),
		Healthcheck: m.GetHealthcheck(), VCPUs: m.Vcpus, MemoryMB: m.MemoryMb, DiskMB: m.DiskMb,
		SkipPrePost: m.GetSkipPrePost(), BuildArgs: m.GetBuildArgs(), NoCache: m.GetNoCache(), Limits: limits,
		Priority: m.GetPriority(), IdempotencyKey: key, Metadata: m.GetMetadata(), RegistryAuth: registryAuth(m.GetRegistryAuth()),
	})
	if err != nil {
		return nil, err
	}
	res := connect.NewResponse(buildMessage(made))
	if !created {
		res.Header().Set(replayedHeader, "true")
	}
	return res, nil
}

func registryAuth(m *lehrv1.RegistryAuth) agent.RegistryAuth {
	return agent.RegistryAuth{Username: m.GetUsername(), Password: m.GetPassword(), Token: m.GetToken()}
}

func limitParams(m *lehrv1.BuildLimits) (p build.LimitParams, err error) {
	if p.Run, err = duration("limits.run", m.GetRun()); err != nil {
		return p, err
	}
	if p.PrePost, err = duration("limits.prepost", m.GetPrepost()); err != nil {
		return p, err
	}
	if p.Healthcheck, err = duration("limits.healthcheck", m.GetHealthcheck()); err != nil {
		return p, err
	}
	p.Build, err = duration("limits.build", m.GetBuild())
	return p, err
}

func (b *builds) Get(ctx context.Context, req *connect.Request[lehrv1.GetBuildRequest]) (*connect.Response[lehrv1.Build], error) {
	id, err := lehr.ParseBuildID(req.Msg.GetId())
	if err != nil {
		return nil, badID(err)
	}
	got, err := b.service.Get(ctx, caller(ctx).TeamID, id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(buildMessage(got)), nil
}

func (b *builds) List(ctx context.Context, req *connect.Request[lehrv1.ListBuildsRequest]) (*connect.Response[lehrv1.ListBuildsResponse], error) {
	limit, err := pageSize(req.Msg.GetLimit())
	if err != nil {
		return nil, err
	}
	status := lehr.BuildStatus(req.Msg.GetStatus())
	switch status {
	case "", lehr.BuildPending, lehr.BuildRunning, lehr.BuildSuccess, lehr.BuildFailed, lehr.BuildCancelled:
	default:
		return nil, errs.New(errs.Invalid, "%q is not a state of a build", clipName(string(status))).WithField("status").
			WithRemedy("use pending, running, success, failed or cancelled")
	}
	before, err := cursor(req.Msg.GetCursor(), lehr.ParseBuildID)
	if err != nil {
		return nil, err
	}
	if err := plainText("name", req.Msg.GetName()); err != nil {
		return nil, err
	}
	if err := metadataFilter(req.Msg.GetMetadata()); err != nil {
		return nil, err
	}
	list, err := b.service.List(ctx, store.ListBuilds{
		TeamID: caller(ctx).TeamID, Name: req.Msg.GetName(), Status: status, Metadata: req.Msg.GetMetadata(),
		Before: before, Limit: limit + 1,
	})
	if err != nil {
		return nil, err
	}
	page, next := cut(list, limit, func(b lehr.Build) string { return string(b.ID) })
	res := &lehrv1.ListBuildsResponse{NextCursor: next}
	for _, one := range page {
		res.Builds = append(res.Builds, buildMessage(one))
	}
	return connect.NewResponse(res), nil
}

func (b *builds) Cancel(ctx context.Context, req *connect.Request[lehrv1.CancelBuildRequest]) (*connect.Response[lehrv1.Build], error) {
	id, err := lehr.ParseBuildID(req.Msg.GetId())
	if err != nil {
		return nil, badID(err)
	}
	got, err := b.service.Cancel(ctx, caller(ctx).TeamID, id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(buildMessage(got)), nil
}

func (b *builds) Logs(ctx context.Context, req *connect.Request[lehrv1.BuildLogsRequest], stream *connect.ServerStream[lehrv1.LogLine]) error {
	return b.eachLine(ctx, req.Msg, func(lines []*lehrv1.LogLine) error {
		for _, l := range lines {
			if err := stream.Send(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachLine hands a build's lines to send, batch by batch as they arrive.
func (b *builds) eachLine(ctx context.Context, m *lehrv1.BuildLogsRequest, send func([]*lehrv1.LogLine) error) error {
	id, err := lehr.ParseBuildID(m.GetId())
	if err != nil {
		return badID(err)
	}
	if m.GetAfter() < 0 {
		return errs.New(errs.Invalid, "%d: want 0 or a seq", m.GetAfter()).WithField("after")
	}
	q := build.LogQuery{TeamID: caller(ctx).TeamID, BuildID: id, After: m.GetAfter(), Follow: m.GetFollow()}
	for batch, err := range b.service.Logs(ctx, q) {
		if err != nil {
			return err
		}
		lines := make([]*lehrv1.LogLine, len(batch))
		for i, l := range batch {
			lines[i] = lineMessage(l)
		}
		if err := send(lines); err != nil {
			return err
		}
	}
	return nil
}
