package guestd

import (
	"cmp"
	"context"
	"maps"
	"math"
	"net/http"
	"syscall"

	"connectrpc.com/connect"

	rpc "github.com/lehr-dev/lehr/api/gen/envd/process"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/files"
	"github.com/lehr-dev/lehr/internal/guest/process"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// processService is the Connect service process.Process.
type processService struct {
	server *Server
}

// maxList is how much of arguments and environments one list tells, in bytes.
// What is more are processes without them: a sandbox's user may have started
// thousands with megabytes each.
const maxList = 2 << 20

// List returns the processes that were started here and still run.
func (s *processService) List(context.Context, *connect.Request[rpc.ListRequest]) (*connect.Response[rpc.ListResponse], error) {
	answer := &rpc.ListResponse{}
	left := maxList
	for _, p := range s.server.opt.Processes.List() {
		dir := text(p.Spec.Dir)
		info := &rpc.ProcessInfo{Pid: uint32(p.PID), Config: &rpc.ProcessConfig{Cmd: p.Spec.Command, Cwd: &dir}}
		if left -= specSize(p.Spec); left >= 0 {
			info.Config.Args, info.Config.Envs = p.Spec.Args, p.Spec.Extra
		}
		if p.Spec.Tag != "" {
			info.Tag = &p.Spec.Tag
		}
		answer.Processes = append(answer.Processes, info)
	}
	return connect.NewResponse(answer), nil
}

func specSize(spec process.Spec) (n int) {
	for _, arg := range spec.Args {
		n += len(arg)
	}
	for name, value := range spec.Extra {
		n += len(name) + len(value)
	}
	return n
}

// maxTag bounds a process's name, in bytes.
const maxTag = 256

// Start starts a process and streams its events. The process outlives the
// stream unless the request says otherwise; see package wire for how.
func (s *processService) Start(ctx context.Context, req *connect.Request[rpc.StartRequest], stream *connect.ServerStream[rpc.StartResponse]) error {
	spec, err := s.server.spec(req.Header(), req.Msg)
	if err != nil {
		return rpcError(err)
	}
	p, sub, err := s.server.opt.Processes.Start(spec)
	if err != nil {
		return rpcError(err)
	}
	defer sub.Close()
	if req.Header().Get(wire.HeaderOnDisconnect) == wire.OnDisconnectKill {
		defer p.Kill()
	}
	events := eventStream{process: p, sub: sub, trailer: stream.ResponseTrailer()}
	events.send = func(e *rpc.ProcessEvent) error { return stream.Send(&rpc.StartResponse{Event: e}) }
	return events.run(ctx, req.Header())
}

// Connect attaches to a running process: its stream begins with what was
// written while nobody was attached.
func (s *processService) Connect(ctx context.Context, req *connect.Request[rpc.ConnectRequest], stream *connect.ServerStream[rpc.ConnectResponse]) error {
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return err
	}
	sub, subErr := p.Subscribe()
	if subErr != nil {
		return rpcError(subErr)
	}
	defer sub.Close()
	events := eventStream{process: p, sub: sub, trailer: stream.ResponseTrailer()}
	events.send = func(e *rpc.ProcessEvent) error { return stream.Send(&rpc.ConnectResponse{Event: e}) }
	return events.run(ctx, req.Header())
}

// Update changes the size of a process's terminal.
func (s *processService) Update(_ context.Context, req *connect.Request[rpc.UpdateRequest]) (*connect.Response[rpc.UpdateResponse], error) {
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetPty() == nil {
		return connect.NewResponse(&rpc.UpdateResponse{}), nil
	}
	size, sizeErr := terminalSize(req.Msg.GetPty())
	if sizeErr == nil {
		sizeErr = p.Resize(size)
	}
	if sizeErr != nil {
		return nil, rpcError(sizeErr)
	}
	return connect.NewResponse(&rpc.UpdateResponse{}), nil
}

// SendInput writes to standard input, or to the terminal, and returns when that
// has taken it.
func (s *processService) SendInput(ctx context.Context, req *connect.Request[rpc.SendInputRequest]) (*connect.Response[rpc.SendInputResponse], error) {
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if err := input(ctx, p, req.Msg.GetInput()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&rpc.SendInputResponse{}), nil
}

// StreamInput writes what a client streams to one process, in order.
func (s *processService) StreamInput(ctx context.Context, stream *connect.ClientStream[rpc.StreamInputRequest]) (*connect.Response[rpc.StreamInputResponse], error) {
	var p *process.Process
	for stream.Receive() {
		switch e := stream.Msg().GetEvent().(type) {
		case *rpc.StreamInputRequest_Start:
			found, err := s.find(e.Start.GetProcess())
			if err != nil {
				return nil, err
			}
			p = found
		case *rpc.StreamInputRequest_Data:
			if p == nil {
				return nil, rpcError(errs.New(errs.Invalid, "the stream must begin with a start event"))
			}
			if err := input(ctx, p, e.Data.GetInput()); err != nil {
				return nil, err
			}
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&rpc.StreamInputResponse{}), nil
}

// SendSignal sends a signal to a process's group; SIGKILL ends its session and
// descendants too.
func (s *processService) SendSignal(_ context.Context, req *connect.Request[rpc.SendSignalRequest]) (*connect.Response[rpc.SendSignalResponse], error) {
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	n := req.Msg.GetSignal()
	if n < 1 || n > 64 {
		return nil, rpcError(errs.New(errs.Invalid, "signal %d does not exist", n).WithField("signal"))
	}
	if err := p.Signal(syscall.Signal(n)); err != nil {
		return nil, rpcError(err)
	}
	return connect.NewResponse(&rpc.SendSignalResponse{}), nil
}

// CloseStdin ends a process's standard input; a second call does nothing.
func (s *processService) CloseStdin(_ context.Context, req *connect.Request[rpc.CloseStdinRequest]) (*connect.Response[rpc.CloseStdinResponse], error) {
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if err := p.CloseStdin(); err != nil {
		return nil, rpcError(err)
	}
	return connect.NewResponse(&rpc.CloseStdinResponse{}), nil
}

func (s *processService) find(sel *rpc.ProcessSelector) (*process.Process, error) {
	p, err := s.server.opt.Processes.Find(process.Selector{PID: sel.GetPid(), Tag: sel.GetTag()})
	return p, rpcError(err)
}

func input(ctx context.Context, p *process.Process, in *rpc.ProcessInput) error {
	switch data := in.GetInput().(type) {
	case *rpc.ProcessInput_Pty:
		return rpcError(p.Type(ctx, data.Pty))
	case *rpc.ProcessInput_Stdin:
		return rpcError(p.Write(ctx, data.Stdin))
	}
	return rpcError(errs.New(errs.Invalid, "the input is neither stdin nor pty").WithField("input"))
}

// What a terminal is whose client does not say.
const (
	defaultTerm    = "xterm-256color"
	defaultColumns = 80
	defaultRows    = 24
)

func terminalSize(pty *rpc.PTY) (process.Size, error) {
	columns, rows := pty.GetSize().GetCols(), pty.GetSize().GetRows()
	if columns > math.MaxUint16 || rows > math.MaxUint16 {
		return process.Size{}, errs.New(errs.Invalid, "a terminal of %d columns and %d rows", columns, rows).
			WithField("pty.size").WithRemedy("name at most %d of each", math.MaxUint16)
	}
	return process.Size{Columns: cmp.Or(uint16(columns), defaultColumns), Rows: cmp.Or(uint16(rows), defaultRows)}, nil
}

// spec turns a request into what is started.
func (s *Server) spec(h http.Header, req *rpc.StartRequest) (process.Spec, error) {
	var terminal *process.Size
	if req.Pty != nil {
		size, err := terminalSize(req.GetPty())
		if err != nil {
			return process.Spec{}, err
		}
		terminal = &size
	}
	init := s.current()
	user, err := s.userOf(h, "", init)
	if err != nil {
		return process.Spec{}, err
	}
	if len(req.GetTag()) > maxTag {
		return process.Spec{}, errs.New(errs.Invalid, "the tag has %d bytes, and %d is the most", len(req.GetTag()), maxTag).WithField("tag")
	}
	config := req.GetProcess()
	dir, err := files.Resolve(config.GetCwd(), init.DefaultWorkdir, user.Home)
	if err != nil {
		return process.Spec{}, err
	}
	limit, err := timeLimit(h)
	if err != nil {
		return process.Spec{}, err
	}
	env := config.GetEnvs()
	if h.Get(wire.HeaderCleanEnv) != "1" {
		env = s.environment(user, init, env)
	}
	if terminal != nil && env["TERM"] == "" {
		env = maps.Clone(env)
		if env == nil {
			env = map[string]string{}
		}
		env["TERM"] = defaultTerm
	}
	return process.Spec{
		Command: config.GetCmd(), Args: config.GetArgs(), Env: pairs(env), Extra: config.GetEnvs(), Dir: dir,
		User: user, Stdin: req.Stdin == nil || req.GetStdin(), Tag: req.GetTag(), Limit: limit,
		Terminal: terminal,
	}, nil
}
