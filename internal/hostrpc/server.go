package hostrpc

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	hostv1 "github.com/lehr-dev/lehr/api/gen/host/v1"
	"github.com/lehr-dev/lehr/api/gen/host/v1/hostv1connect"
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/httpkit"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Handler serves a to control planes. It authenticates nobody: who may connect
// is decided by where it listens.
func Handler(a agent.Agent, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(hostv1connect.NewHostAgentServiceHandler(&server{agent: a},
		connect.WithInterceptors(door{log: log}), connect.WithReadMaxBytes(maxMessage)))
	return mux
}

// maxStreams is how many calls one connection may carry at once: every command
// that runs is one.
const maxStreams = 1 << 16

// NewServer returns an HTTP server that serves a on any listener; the caller
// runs and ends it. Shutdown cuts what Dial has made and waits for other calls.
func NewServer(a agent.Agent, log *slog.Logger) *http.Server {
	calls, tunnels := Handler(a, log), newTunnels(a, log)
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 1 {
				tunnels.ServeHTTP(w, r)
				return
			}
			calls.ServeHTTP(w, r)
		}),
		Protocols: protocols(true), ReadHeaderTimeout: headerLimit,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	s.RegisterOnShutdown(tunnels.cut)
	return s
}

// headerLimit is how long a peer may take to say what it wants.
const headerLimit = 10 * time.Second

// protocols is HTTP/2 without TLS, for calls, and HTTP/1.1 for tunnels.
func protocols(tunnels bool) *http.Protocols {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP1(tunnels)
	return &p
}

// door checks the protocol, logs faults once and packs errors for the wire.
type door struct{ log *slog.Logger }

func (d door) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if err := checkProtocol(req.Header()); err != nil {
			return nil, toWire(err)
		}
		res, err := next(ctx, req)
		return res, d.leave(ctx, req.Spec().Procedure, err)
	}
}

func (d door) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := checkProtocol(conn.RequestHeader()); err != nil {
			return toWire(err)
		}
		return d.leave(ctx, conn.Spec().Procedure, next(ctx, conn))
	}
}

func (d door) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (d door) leave(ctx context.Context, procedure string, err error) error {
	logLeave(ctx, d.log, procedure, err)
	return toWire(err)
}

// logLeave tells of an error that leaves the agent.
func logLeave(ctx context.Context, log *slog.Logger, procedure string, err error) {
	switch errs.KindOf(err) {
	case "":
	case errs.Internal, errs.Corrupt, errs.Unavailable:
		log.ErrorContext(ctx, "host call failed", "procedure", procedure, "error", err)
	default:
		log.DebugContext(ctx, "host call refused", "procedure", procedure, "error", err)
	}
}

func checkProtocol(h http.Header) error {
	if got := h.Get(protocolHeader); got != strconv.Itoa(Protocol) {
		return errs.New(errs.Unsupported, "the control plane speaks host protocol %q, this agent %d", got, Protocol).
			WithCode("protocol_mismatch").WithRemedy("run the same version of lehr on both")
	}
	return nil
}

// server translates calls; it decides nothing.
type server struct{ agent agent.Agent }

func (s *server) Info(ctx context.Context, _ *connect.Request[hostv1.InfoRequest]) (*connect.Response[hostv1.InfoResponse], error) {
	i, err := s.agent.Info(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&hostv1.InfoResponse{
		Protocol: Protocol, HostId: string(i.HostID), Platform: i.Platform, Engine: i.Engine, EngineDigest: string(i.EngineDigest),
		CpuFeatures: string(i.CPUFeatures), Guest: i.Guest, Capacity: resourcesOut(i.Capacity), Free: resourcesOut(i.Free),
		Disk: &hostv1.Disk{TotalBytes: i.Disk.TotalBytes, FreeBytes: i.Disk.FreeBytes, ReserveBytes: i.Disk.ReserveBytes},
		Pool: &hostv1.Pool{Ready: i.Pool.Ready, Size: i.Pool.Size},
	}), nil
}

func (s *server) CreateSandbox(ctx context.Context, req *connect.Request[hostv1.CreateSandboxRequest]) (*connect.Response[hostv1.Sandbox], error) {
	return answer(sandboxOut)(s.agent.CreateSandbox(ctx, createIn(req.Msg)))
}

func (s *server) DestroySandbox(ctx context.Context, req *connect.Request[hostv1.DestroySandboxRequest]) (*connect.Response[hostv1.DestroySandboxResponse], error) {
	return done(&hostv1.DestroySandboxResponse{}, s.agent.DestroySandbox(ctx, lehr.SandboxID(req.Msg.GetSandboxId())))
}

func (s *server) RenewSandbox(ctx context.Context, req *connect.Request[hostv1.RenewSandboxRequest]) (*connect.Response[hostv1.RenewSandboxResponse], error) {
	err := s.agent.RenewSandbox(ctx, lehr.SandboxID(req.Msg.GetSandboxId()), req.Msg.GetTimeout().AsDuration())
	return done(&hostv1.RenewSandboxResponse{}, err)
}

func (s *server) PauseSandbox(ctx context.Context, req *connect.Request[hostv1.PauseSandboxRequest]) (*connect.Response[hostv1.PauseSandboxResponse], error) {
	return done(&hostv1.PauseSandboxResponse{}, s.agent.PauseSandbox(ctx, lehr.SandboxID(req.Msg.GetSandboxId())))
}

func (s *server) ResumeSandbox(ctx context.Context, req *connect.Request[hostv1.ResumeSandboxRequest]) (*connect.Response[hostv1.ResumeSandboxResponse], error) {
	return done(&hostv1.ResumeSandboxResponse{}, s.agent.ResumeSandbox(ctx, lehr.SandboxID(req.Msg.GetSandboxId())))
}

func (s *server) GetSandbox(ctx context.Context, req *connect.Request[hostv1.GetSandboxRequest]) (*connect.Response[hostv1.Sandbox], error) {
	return answer(sandboxOut)(s.agent.GetSandbox(ctx, lehr.SandboxID(req.Msg.GetSandboxId())))
}

func (s *server) ListSandboxes(ctx context.Context, _ *connect.Request[hostv1.ListSandboxesRequest]) (*connect.Response[hostv1.ListSandboxesResponse], error) {
	list, err := s.agent.ListSandboxes(ctx)
	if err != nil {
		return nil, err
	}
	m := &hostv1.ListSandboxesResponse{}
	for _, one := range list {
		m.Sandboxes = append(m.Sandboxes, sandboxOut(one))
	}
	return connect.NewResponse(m), nil
}

func (s *server) WatchSandboxes(ctx context.Context, _ *connect.Request[hostv1.WatchSandboxesRequest], stream *connect.ServerStream[hostv1.Sandbox]) error {
	// The headers go out at once, so that a client of an empty host knows it watches.
	if err := stream.Send(nil); err != nil {
		return err
	}
	return s.agent.WatchSandboxes(ctx, func(one agent.Sandbox) error { return stream.Send(sandboxOut(one)) })
}

func (s *server) ExecStream(ctx context.Context, req *connect.Request[hostv1.ExecRequest], stream *connect.ServerStream[hostv1.ExecStreamResponse]) error {
	stdout := chunkWriter(func(b []byte) error {
		return stream.Send(&hostv1.ExecStreamResponse{Event: &hostv1.ExecStreamResponse_Stdout{Stdout: b}})
	})
	stderr := chunkWriter(func(b []byte) error {
		return stream.Send(&hostv1.ExecStreamResponse{Event: &hostv1.ExecStreamResponse_Stderr{Stderr: b}})
	})
	exit, err := s.agent.Exec(ctx, execIn(req.Msg), func(from lehr.LogStream, b []byte) (err error) {
		if from == lehr.StreamStderr {
			_, err = stderr.Write(b)
		} else {
			_, err = stdout.Write(b)
		}
		return err
	})
	if err != nil {
		return err
	}
	return stream.Send(&hostv1.ExecStreamResponse{Event: &hostv1.ExecStreamResponse_Exit{Exit: exitOut(exit)}})
}

// maxUnary bounds the output that Exec returns of each stream, in bytes.
const maxUnary = 1 << 20

func (s *server) Exec(ctx context.Context, req *connect.Request[hostv1.ExecRequest]) (*connect.Response[hostv1.ExecResponse], error) {
	res := &hostv1.ExecResponse{}
	exit, err := s.agent.Exec(ctx, execIn(req.Msg), func(from lehr.LogStream, b []byte) error {
		into := &res.Stdout
		if from == lehr.StreamStderr {
			into = &res.Stderr
		}
		fits := min(len(b), maxUnary-len(*into))
		*into = append(*into, b[:fits]...)
		res.Truncated = res.Truncated || fits < len(b)
		return nil
	})
	if err != nil {
		return nil, err
	}
	res.Exit = exitOut(exit)
	return connect.NewResponse(res), nil
}

func (s *server) Environment(ctx context.Context, req *connect.Request[hostv1.EnvironmentRequest]) (*connect.Response[hostv1.EnvironmentResponse], error) {
	env, err := s.agent.Environment(ctx, lehr.SandboxID(req.Msg.GetSandboxId()))
	return done(&hostv1.EnvironmentResponse{Env: envOut(env)}, err)
}

func (s *server) ReadFile(ctx context.Context, req *connect.Request[hostv1.File], stream *connect.ServerStream[hostv1.Chunk]) error {
	return s.agent.ReadFile(ctx, fileIn(req.Msg), chunkWriter(func(b []byte) error {
		return stream.Send(&hostv1.Chunk{Data: b})
	}))
}

func (s *server) WriteFile(ctx context.Context, stream *connect.ClientStream[hostv1.WriteFileRequest]) (*connect.Response[hostv1.WriteFileResponse], error) {
	first, r, err := receive(stream, (*hostv1.WriteFileRequest).GetData)
	if err != nil {
		return nil, err
	}
	return done(&hostv1.WriteFileResponse{}, s.agent.WriteFile(ctx, fileIn(first.GetFile()), r))
}

func (s *server) MakeDir(ctx context.Context, req *connect.Request[hostv1.File]) (*connect.Response[hostv1.MakeDirResponse], error) {
	return done(&hostv1.MakeDirResponse{}, s.agent.MakeDir(ctx, fileIn(req.Msg)))
}

func (s *server) MakeMinimal(ctx context.Context, _ *connect.Request[hostv1.MakeMinimalRequest]) (*connect.Response[hostv1.Image], error) {
	return answer(imageOut)(s.agent.MakeMinimal(ctx))
}

func (s *server) ImportImage(ctx context.Context, stream *connect.ClientStream[hostv1.ImportImageRequest]) (*connect.Response[hostv1.Image], error) {
	first, r, err := receive(stream, (*hostv1.ImportImageRequest).GetData)
	if err != nil {
		return nil, err
	}
	return answer(imageOut)(s.agent.ImportImage(ctx, agent.ImportKind(first.GetKind()), r))
}

func (s *server) HasArtifact(ctx context.Context, req *connect.Request[hostv1.HasArtifactRequest]) (*connect.Response[hostv1.HasArtifactResponse], error) {
	has, err := s.agent.HasArtifact(ctx, lehr.Digest(req.Msg.GetDigest()))
	return done(&hostv1.HasArtifactResponse{Present: has}, err)
}

func (s *server) ListArtifacts(ctx context.Context, _ *connect.Request[hostv1.ListArtifactsRequest]) (*connect.Response[hostv1.ListArtifactsResponse], error) {
	list, err := s.agent.ListArtifacts(ctx)
	m := &hostv1.ListArtifactsResponse{}
	for _, a := range list {
		m.Artifacts = append(m.Artifacts, &hostv1.Artifact{
			Digest: string(a.Digest), SizeBytes: a.Bytes, Age: durationpb.New(a.Age), Idle: durationpb.New(a.Idle), Cached: a.Cached,
			Kind: string(a.Kind),
		})
	}
	return done(m, err)
}

func (s *server) FlattenRootfs(ctx context.Context, req *connect.Request[hostv1.FlattenRootfsRequest]) (*connect.Response[hostv1.Image], error) {
	return answer(imageOut)(s.agent.FlattenRootfs(ctx, lehr.SandboxID(req.Msg.GetSandboxId())))
}

func (s *server) CreateSnapshot(ctx context.Context, req *connect.Request[hostv1.CreateSnapshotRequest]) (*connect.Response[hostv1.Snapshot], error) {
	return answer(snapshotOut)(s.agent.CreateSnapshot(ctx, lehr.SandboxID(req.Msg.GetSandboxId())))
}

func (s *server) RemoveArtifact(ctx context.Context, req *connect.Request[hostv1.RemoveArtifactRequest]) (*connect.Response[hostv1.RemoveArtifactResponse], error) {
	return done(&hostv1.RemoveArtifactResponse{}, s.agent.RemoveArtifact(ctx, lehr.Digest(req.Msg.GetDigest())))
}

// done is an answer that is ready, unless there was an error.
func done[M any](m *M, err error) (*connect.Response[M], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

// answer translates a result, unless there was an error.
func answer[T, M any](out func(T) *M) func(T, error) (*connect.Response[M], error) {
	return func(v T, err error) (*connect.Response[M], error) { return done(out(v), err) }
}

// receive returns the first message of an upload and the data of all.
func receive[M any](stream *connect.ClientStream[M], data func(*M) []byte) (*M, io.Reader, error) {
	next := func() (*M, error) {
		if stream.Receive() {
			return stream.Msg(), nil
		}
		if err := stream.Err(); err != nil {
			return nil, errs.Wrap(err, errs.Unavailable, "hostrpc.receive", "the upload broke off")
		}
		return nil, io.EOF
	}
	first, err := next()
	if err != nil {
		return nil, nil, errs.New(errs.Invalid, "the upload is empty or broke off")
	}
	return first, &httpkit.ChunkReader{Rest: data(first), Next: func() ([]byte, error) {
		m, err := next()
		if err != nil {
			return nil, err
		}
		return data(m), nil
	}}, nil
}
