package hostrpc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	hostv1 "github.com/lehr-dev/lehr/api/gen/host/v1"
	"github.com/lehr-dev/lehr/api/gen/host/v1/hostv1connect"
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Client is an agent behind the wire. It is safe for concurrent use. No call
// has a time limit but its context's.
type Client struct {
	transport *http.Transport
	rpc       hostv1connect.HostAgentServiceClient
	dial      func(ctx context.Context, network, addr string) (net.Conn, error)
}

var _ agent.Agent = (*Client)(nil)

// DialUnix returns a client for the agent that listens on a unix socket. It
// connects with the first call.
func DialUnix(path string) *Client {
	return newClient("http://agent", func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	})
}

// newClient speaks HTTP/2 without TLS, so that any number of calls share one
// connection, and an upload hears the answer before its end.
func newClient(url string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Client {
	t := &http.Transport{
		DialContext: dial, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		DisableCompression: true, Protocols: protocols(false),
	}
	rpc := hostv1connect.NewHostAgentServiceClient(&http.Client{Transport: t}, url,
		connect.WithInterceptors(speak{}), connect.WithReadMaxBytes(maxMessage))
	return &Client{transport: t, rpc: rpc, dial: dial}
}

// Close gives idle connections up; calls under way and tunnels go on.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// speak sends the protocol version with every call.
type speak struct{}

func (speak) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		req.Header().Set(protocolHeader, strconv.Itoa(Protocol))
		return next(ctx, req)
	}
}

func (speak) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set(protocolHeader, strconv.Itoa(Protocol))
		return conn
	}
}

func (speak) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// call makes a unary call.
func call[Req, Res any](ctx context.Context, op string, f func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), m *Req) (*Res, error) {
	res, err := f(ctx, connect.NewRequest(m))
	if err != nil {
		return nil, fromWire(ctx, "host."+op, err)
	}
	return res.Msg, nil
}

// Info asks the host for its state and refuses an agent of another protocol.
func (c *Client) Info(ctx context.Context) (agent.Info, error) {
	m, err := call(ctx, "Info", c.rpc.Info, &hostv1.InfoRequest{})
	if err != nil {
		return agent.Info{}, err
	}
	if m.GetProtocol() != Protocol {
		return agent.Info{}, errs.New(errs.Unsupported, "the agent speaks host protocol %d, this control plane %d", m.GetProtocol(), Protocol).
			WithCode("protocol_mismatch").WithRemedy("run the same version of lehr on both")
	}
	return agent.Info{
		HostID: lehr.HostID(m.GetHostId()), Platform: m.GetPlatform(), Engine: m.GetEngine(), EngineDigest: lehr.Digest(m.GetEngineDigest()),
		CPUFeatures: lehr.Digest(m.GetCpuFeatures()), Guest: m.GetGuest(), Capacity: resourcesIn(m.GetCapacity()), Free: resourcesIn(m.GetFree()),
		Disk: agent.Disk{TotalBytes: m.GetDisk().GetTotalBytes(), FreeBytes: m.GetDisk().GetFreeBytes(), ReserveBytes: m.GetDisk().GetReserveBytes()},
		Pool: agent.Pool{Ready: m.GetPool().GetReady(), Size: m.GetPool().GetSize()},
	}, nil
}

// CreateSandbox implements agent.Sandboxes.
func (c *Client) CreateSandbox(ctx context.Context, r agent.CreateSandbox) (agent.Sandbox, error) {
	m, err := call(ctx, "CreateSandbox", c.rpc.CreateSandbox, createOut(r))
	if err != nil {
		return agent.Sandbox{}, err
	}
	return sandboxIn(m), nil
}

// DestroySandbox implements agent.Sandboxes.
func (c *Client) DestroySandbox(ctx context.Context, id lehr.SandboxID) error {
	_, err := call(ctx, "DestroySandbox", c.rpc.DestroySandbox, &hostv1.DestroySandboxRequest{SandboxId: string(id)})
	return err
}

// RenewSandbox implements agent.Sandboxes.
func (c *Client) RenewSandbox(ctx context.Context, id lehr.SandboxID, ttl time.Duration) error {
	_, err := call(ctx, "RenewSandbox", c.rpc.RenewSandbox, &hostv1.RenewSandboxRequest{SandboxId: string(id), Timeout: durationOut(ttl)})
	return err
}

// PauseSandbox implements agent.Sandboxes.
func (c *Client) PauseSandbox(ctx context.Context, id lehr.SandboxID) error {
	_, err := call(ctx, "PauseSandbox", c.rpc.PauseSandbox, &hostv1.PauseSandboxRequest{SandboxId: string(id)})
	return err
}

// ResumeSandbox implements agent.Sandboxes.
func (c *Client) ResumeSandbox(ctx context.Context, id lehr.SandboxID) error {
	_, err := call(ctx, "ResumeSandbox", c.rpc.ResumeSandbox, &hostv1.ResumeSandboxRequest{SandboxId: string(id)})
	return err
}

// GetSandbox implements agent.Sandboxes.
func (c *Client) GetSandbox(ctx context.Context, id lehr.SandboxID) (agent.Sandbox, error) {
	m, err := call(ctx, "GetSandbox", c.rpc.GetSandbox, &hostv1.GetSandboxRequest{SandboxId: string(id)})
	if err != nil {
		return agent.Sandbox{}, err
	}
	return sandboxIn(m), nil
}

// ListSandboxes implements agent.Sandboxes.
func (c *Client) ListSandboxes(ctx context.Context) ([]agent.Sandbox, error) {
	m, err := call(ctx, "ListSandboxes", c.rpc.ListSandboxes, &hostv1.ListSandboxesRequest{})
	if err != nil {
		return nil, err
	}
	var list []agent.Sandbox
	for _, one := range m.GetSandboxes() {
		list = append(list, sandboxIn(one))
	}
	return list, nil
}

// WatchSandboxes implements agent.Sandboxes.
func (c *Client) WatchSandboxes(ctx context.Context, f func(agent.Sandbox) error) error {
	const op = "host.WatchSandboxes"
	stream, err := c.rpc.WatchSandboxes(ctx, connect.NewRequest(&hostv1.WatchSandboxesRequest{}))
	if err != nil {
		return fromWire(ctx, op, err)
	}
	defer stream.Close()
	for stream.Receive() {
		if err := f(sandboxIn(stream.Msg())); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return fromWire(ctx, op, err)
	}
	return errs.New(errs.Unavailable, "the agent ended the watch").WithOp(op).WithCode("agent_unreachable")
}

// Exec implements agent.Commands.
func (c *Client) Exec(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
	const op = "host.Exec"
	// Leaving this function early must end the command, not only the reading.
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.ExecStream(call, connect.NewRequest(execOut(r)))
	if err != nil {
		return agent.Exit{}, fromWire(ctx, op, err)
	}
	defer stream.Close()
	for stream.Receive() {
		switch e := stream.Msg().GetEvent().(type) {
		case *hostv1.ExecStreamResponse_Stdout:
			err = out(lehr.StreamStdout, e.Stdout)
		case *hostv1.ExecStreamResponse_Stderr:
			err = out(lehr.StreamStderr, e.Stderr)
		case *hostv1.ExecStreamResponse_Exit:
			return exitIn(e.Exit), nil
		}
		if err != nil {
			cancel()
			return agent.Exit{}, err
		}
	}
	if err := stream.Err(); err != nil {
		return agent.Exit{}, fromWire(ctx, op, err)
	}
	return agent.Exit{}, errs.New(errs.Unavailable, "the agent ended the stream without an exit").WithOp(op).WithCode("agent_unreachable")
}

// Environment implements agent.Commands.
func (c *Client) Environment(ctx context.Context, id lehr.SandboxID) ([]lehr.EnvVar, error) {
	m, err := call(ctx, "Environment", c.rpc.Environment, &hostv1.EnvironmentRequest{SandboxId: string(id)})
	if err != nil {
		return nil, err
	}
	return envIn(m.GetEnv()), nil
}

// ReadFile implements agent.Files.
func (c *Client) ReadFile(ctx context.Context, f agent.File, w io.Writer) error {
	const op = "host.ReadFile"
	stream, err := c.rpc.ReadFile(ctx, connect.NewRequest(fileOut(f)))
	if err != nil {
		return fromWire(ctx, op, err)
	}
	defer stream.Close()
	for stream.Receive() {
		if _, err := w.Write(stream.Msg().GetData()); err != nil {
			return err
		}
	}
	return fromWire(ctx, op, stream.Err())
}

// WriteFile implements agent.Files.
func (c *Client) WriteFile(ctx context.Context, f agent.File, r io.Reader) error {
	_, err := upload(ctx, "host.WriteFile", c.rpc.WriteFile, &hostv1.WriteFileRequest{File: fileOut(f)}, body[hostv1.WriteFileRequest]{
		from: r, pack: func(b []byte) *hostv1.WriteFileRequest { return &hostv1.WriteFileRequest{Data: b} },
	})
	return err
}

// MakeDir implements agent.Files.
func (c *Client) MakeDir(ctx context.Context, f agent.File) error {
	_, err := call(ctx, "MakeDir", c.rpc.MakeDir, fileOut(f))
	return err
}

// MakeMinimal implements agent.Artifacts.
func (c *Client) MakeMinimal(ctx context.Context) (agent.Image, error) {
	m, err := call(ctx, "MakeMinimal", c.rpc.MakeMinimal, &hostv1.MakeMinimalRequest{})
	if err != nil {
		return agent.Image{}, err
	}
	return imageIn(m), nil
}

// ImportImage implements agent.Artifacts.
func (c *Client) ImportImage(ctx context.Context, kind agent.ImportKind, r io.Reader) (agent.Image, error) {
	m, err := upload(ctx, "host.ImportImage", c.rpc.ImportImage, &hostv1.ImportImageRequest{Kind: string(kind)}, body[hostv1.ImportImageRequest]{
		from: r, pack: func(b []byte) *hostv1.ImportImageRequest { return &hostv1.ImportImageRequest{Data: b} },
	})
	if err != nil {
		return agent.Image{}, err
	}
	return imageIn(m), nil
}

// body is what follows the first message of an upload.
type body[Req any] struct {
	from io.Reader
	pack func([]byte) *Req
}

// upload sends first and the body and returns the answer. When the reader
// breaks the call is cut, or the host would take what it has for the whole.
func upload[Req, Res any](
	ctx context.Context, op string, open func(context.Context) *connect.ClientStreamForClient[Req, Res], first *Req, b body[Req],
) (*Res, error) {
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := open(call)
	err := stream.Send(first)
	if err == nil {
		err = sendAll(b.from, func(p []byte) error { return stream.Send(b.pack(p)) })
	}
	var ce *connect.Error
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &ce) {
		return nil, err // without closing the stream, which would end it well; cancel cuts it
	}
	res, cerr := stream.CloseAndReceive()
	if cerr != nil {
		return nil, fromWire(ctx, op, cerr) // says more than a failed send
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fromWire(ctx, op, err)
	}
	return res.Msg, nil
}

// HasArtifact implements agent.Artifacts.
func (c *Client) HasArtifact(ctx context.Context, d lehr.Digest) (bool, error) {
	m, err := call(ctx, "HasArtifact", c.rpc.HasArtifact, &hostv1.HasArtifactRequest{Digest: string(d)})
	return m.GetPresent(), err
}

// ListArtifacts implements agent.Artifacts.
func (c *Client) ListArtifacts(ctx context.Context) ([]agent.Artifact, error) {
	m, err := call(ctx, "ListArtifacts", c.rpc.ListArtifacts, &hostv1.ListArtifactsRequest{})
	if err != nil {
		return nil, err
	}
	var list []agent.Artifact
	for _, a := range m.GetArtifacts() {
		list = append(list, agent.Artifact{
			Digest: lehr.Digest(a.GetDigest()), Bytes: a.GetSizeBytes(), Age: a.GetAge().AsDuration(), Idle: a.GetIdle().AsDuration(), Cached: a.GetCached(),
			Kind: agent.ArtifactKind(a.GetKind()),
		})
	}
	return list, nil
}

// FlattenRootfs implements agent.Artifacts.
func (c *Client) FlattenRootfs(ctx context.Context, id lehr.SandboxID) (agent.Image, error) {
	m, err := call(ctx, "FlattenRootfs", c.rpc.FlattenRootfs, &hostv1.FlattenRootfsRequest{SandboxId: string(id)})
	if err != nil {
		return agent.Image{}, err
	}
	return imageIn(m), nil
}

// CreateSnapshot implements agent.Artifacts.
func (c *Client) CreateSnapshot(ctx context.Context, id lehr.SandboxID) (agent.Snapshot, error) {
	m, err := call(ctx, "CreateSnapshot", c.rpc.CreateSnapshot, &hostv1.CreateSnapshotRequest{SandboxId: string(id)})
	if err != nil {
		return agent.Snapshot{}, err
	}
	return snapshotIn(m), nil
}

// RemoveArtifact implements agent.Artifacts.
func (c *Client) RemoveArtifact(ctx context.Context, d lehr.Digest) error {
	_, err := call(ctx, "RemoveArtifact", c.rpc.RemoveArtifact, &hostv1.RemoveArtifactRequest{Digest: string(d)})
	return err
}
