package api

import (
	"context"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/sandbox"
	"github.com/lehr-dev/lehr/internal/store"
)

// sandboxes implements lehr.v1.SandboxService.
type sandboxes struct {
	service *sandbox.Service
	gateway Gateway
}

// maxStdin bounds the standard input that travels with a command, in bytes.
const maxStdin = 1 << 20

func (s *sandboxes) Create(ctx context.Context, req *connect.Request[lehrv1.CreateSandboxRequest]) (*connect.Response[lehrv1.Sandbox], error) {
	made, created, err := s.create(ctx, req.Msg, req.Header().Get(idempotencyHeader), false)
	if err != nil {
		return nil, err
	}
	res := connect.NewResponse(s.whole(ctx, made))
	if !created {
		res.Header().Set(replayedHeader, "true")
	}
	return res, nil
}

// create makes a sandbox; key is the header's, which counts where the message
// has none. noWait answers as soon as it is recorded.
func (s *sandboxes) create(ctx context.Context, m *lehrv1.CreateSandboxRequest, key string, noWait bool) (lehr.Sandbox, bool, error) {
	ttl, err := duration("timeout", m.GetTimeout())
	if err != nil {
		return lehr.Sandbox{}, false, err
	}
	p := sandbox.CreateParams{
		TeamID: caller(ctx).TeamID, Template: m.GetTemplate(), VCPUs: m.Vcpus, MemoryMB: m.MemoryMb, DiskMB: m.DiskMb, Env: m.GetEnv(),
		Metadata: m.GetMetadata(), IdempotencyKey: m.GetIdempotencyKey(), NoWait: noWait,
	}
	if p.IdempotencyKey == "" {
		p.IdempotencyKey = key
	}
	if ttl != nil {
		p.TTL = *ttl
	}
	return s.service.Create(ctx, p)
}

// SetTimeout sets the time-to-live of a live sandbox, counted from now.
func (s *sandboxes) SetTimeout(ctx context.Context, req *connect.Request[lehrv1.SetSandboxTimeoutRequest]) (*connect.Response[lehrv1.Sandbox], error) {
	id, err := lehr.ParseSandboxID(req.Msg.GetId())
	if err != nil {
		return nil, badID(err)
	}
	ttl, err := duration("timeout", req.Msg.GetTimeout())
	if err == nil && ttl == nil {
		err = errs.New(errs.Invalid, "is missing").WithField("timeout").WithCode("duration_invalid").
			WithRemedy("write it like 90s, 10m or 1h30m; 0 removes the time-to-live")
	}
	if err != nil {
		return nil, err
	}
	got, err := s.service.SetTimeout(ctx, caller(ctx).TeamID, id, *ttl)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(s.message(ctx, got)), nil
}

func (s *sandboxes) Get(ctx context.Context, req *connect.Request[lehrv1.GetSandboxRequest]) (*connect.Response[lehrv1.Sandbox], error) {
	id, err := lehr.ParseSandboxID(req.Msg.GetId())
	if err != nil {
		return nil, badID(err)
	}
	got, err := s.service.Get(ctx, caller(ctx).TeamID, id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(s.whole(ctx, got)), nil
}

func (s *sandboxes) List(ctx context.Context, req *connect.Request[lehrv1.ListSandboxesRequest]) (*connect.Response[lehrv1.ListSandboxesResponse], error) {
	limit, err := pageSize(req.Msg.GetLimit())
	if err != nil {
		return nil, err
	}
	before, err := cursor(req.Msg.GetCursor(), lehr.ParseSandboxID)
	if err != nil {
		return nil, err
	}
	q := store.ListSandboxes{
		TeamID: caller(ctx).TeamID, Metadata: req.Msg.GetMetadata(), Before: before, Limit: limit + 1,
	}
	if q.State, err = sandboxState(req.Msg.GetState()); err != nil {
		return nil, err
	}
	q.All = req.Msg.GetAll() || q.State != "" && !q.State.Live()
	if q.Template, err = templateFilter(req.Msg.GetTemplate()); err != nil {
		return nil, err
	}
	if err := metadataFilter(q.Metadata); err != nil {
		return nil, err
	}
	list, err := s.service.List(ctx, q)
	if err != nil {
		return nil, err
	}
	page, next := cut(list, limit, func(s lehr.Sandbox) string { return string(s.ID) })
	res := &lehrv1.ListSandboxesResponse{NextCursor: next}
	addresses := s.addresser()
	for _, one := range page {
		res.Sandboxes = append(res.Sandboxes, addresses.message(ctx, one))
	}
	return connect.NewResponse(res), nil
}

func (s *sandboxes) Kill(ctx context.Context, req *connect.Request[lehrv1.KillSandboxRequest]) (*connect.Response[lehrv1.Sandbox], error) {
	id, err := lehr.ParseSandboxID(req.Msg.GetId())
	if err != nil {
		return nil, badID(err)
	}
	got, err := s.service.Kill(ctx, caller(ctx).TeamID, id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(s.message(ctx, got)), nil
}

func (s *sandboxes) Exec(ctx context.Context, req *connect.Request[lehrv1.ExecRequest], stream *connect.ServerStream[lehrv1.ExecResponse]) error {
	return s.exec(ctx, req.Msg, stream.Send)
}

// exec runs a command and sends its events; the last one is the exit.
func (s *sandboxes) exec(ctx context.Context, m *lehrv1.ExecRequest, send func(*lehrv1.ExecResponse) error) error {
	p, err := execParams(ctx, m)
	if err != nil {
		return err
	}
	exit, err := s.service.Exec(ctx, p, func(stream lehr.LogStream, b []byte) error {
		if stream == lehr.StreamStderr {
			return send(&lehrv1.ExecResponse{Event: &lehrv1.ExecResponse_Stderr{Stderr: b}})
		}
		return send(&lehrv1.ExecResponse{Event: &lehrv1.ExecResponse_Stdout{Stdout: b}})
	})
	if err != nil {
		return err
	}
	return send(&lehrv1.ExecResponse{Event: &lehrv1.ExecResponse_Exit{
		Exit: &lehrv1.ExecExit{Code: exit.Code, Signal: exit.Signal, TimedOut: exit.TimedOut},
	}})
}

func execParams(ctx context.Context, m *lehrv1.ExecRequest) (sandbox.ExecParams, error) {
	id, err := lehr.ParseSandboxID(m.GetId())
	if err != nil {
		return sandbox.ExecParams{}, badID(err)
	}
	limit, err := duration("timeout", m.GetTimeout())
	if err != nil {
		return sandbox.ExecParams{}, err
	}
	if len(m.GetStdin()) > maxStdin {
		return sandbox.ExecParams{}, errs.New(errs.Invalid, "%d bytes: want at most %d", len(m.GetStdin()), maxStdin).WithField("stdin").
			WithRemedy("write a file into the sandbox and redirect from it")
	}
	p := sandbox.ExecParams{
		TeamID: caller(ctx).TeamID, SandboxID: id, Args: m.GetCmd(), Env: m.GetEnv(), User: m.GetUser(), Workdir: m.GetCwd(), Stdin: m.Stdin,
	}
	if limit != nil {
		p.Timeout = *limit
	}
	return p, nil
}

func (s *sandboxes) ReadFile(ctx context.Context, req *connect.Request[lehrv1.ReadFileRequest], stream *connect.ServerStream[lehrv1.FileChunk]) error {
	f, err := fileParams(ctx, req.Msg.GetId(), req.Msg.GetUser(), req.Msg.GetPath())
	if err != nil {
		return err
	}
	return s.service.ReadFile(ctx, f, writerFunc(func(b []byte) error {
		return stream.Send(&lehrv1.FileChunk{Data: b})
	}))
}

func (s *sandboxes) WriteFile(ctx context.Context, stream *connect.ClientStream[lehrv1.WriteFileRequest]) (*connect.Response[lehrv1.WriteFileResponse], error) {
	if !stream.Receive() {
		if err := stream.Err(); err != nil {
			return nil, uploadBroken(err)
		}
		return nil, errs.New(errs.Invalid, "the stream is empty").WithField("path")
	}
	first := stream.Msg()
	f, err := fileParams(ctx, first.GetId(), first.GetUser(), first.GetPath())
	if err != nil {
		return nil, err
	}
	r := chunksOf(stream, first.GetData(), (*lehrv1.WriteFileRequest).GetData)
	if err := s.service.WriteFile(ctx, f, r); err != nil {
		return nil, err
	}
	return connect.NewResponse(&lehrv1.WriteFileResponse{}), nil
}

func fileParams(ctx context.Context, id, user, path string) (sandbox.FileParams, error) {
	sid, err := lehr.ParseSandboxID(id)
	if err != nil {
		return sandbox.FileParams{}, badID(err)
	}
	if path == "" {
		return sandbox.FileParams{}, errs.New(errs.Invalid, "is empty").WithField("path").WithRemedy("name a file in the sandbox")
	}
	return sandbox.FileParams{TeamID: caller(ctx).TeamID, SandboxID: sid, User: user, Path: path}, nil
}

// writerFunc is an io.Writer made of a function that takes all or fails.
type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) {
	if err := f(b); err != nil {
		return 0, err
	}
	return len(b), nil
}
