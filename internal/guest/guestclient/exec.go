package guestclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/process"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/wire"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// ExecRequest is one command.
type ExecRequest struct {
	Cmd      []string          // argv; Cmd[0] is looked up in PATH
	Env      map[string]string // added to the default environment
	CleanEnv bool              // Env is all there is
	Cwd      string            // "" is the default directory
	User     string            // "" is the default user; or a name, "uid", "uid:gid"
	Tag      string            // a name to find the process by
	Timeout  time.Duration     // ends the command and its children; 0 is none
	Stdin    io.Reader         // nil: empty input
	// Linger lets the command live on when the call ends before it; otherwise
	// the end of ctx or of the connection kills it and its children.
	Linger bool
}

// Output receives output in order; b is valid only during the call. Its error
// ends the call.
type Output func(stream lehr.LogStream, b []byte) error

// Exit is how a command ended.
type Exit struct {
	Code     int32 // 128 + Signal when a signal ended it
	Signal   int32 // 0 when it exited by itself
	TimedOut bool  // ExecRequest.Timeout ended it
}

// Exec runs a command and streams its output to out as it arrives. The exit is
// data; an error means that the command could not be run (Invalid with codes
// "command_not_found", "command_not_executable", "user_unknown" or
// "workdir_missing") or was not seen to end (Unavailable, out's error, or the
// cause of ctx).
func (c *Client) Exec(ctx context.Context, r ExecRequest, out Output) (Exit, error) {
	if len(r.Cmd) == 0 {
		return Exit{}, errs.New(errs.Invalid, "no command was given").WithCode(wire.CodeCommandNotFound).WithField("cmd")
	}
	call, cancel := withoutDeadline(ctx)
	defer cancel()
	stream, err := c.processes.Start(call, startRequest(r))
	if err != nil {
		return Exit{}, rpcError(ctx, err)
	}
	defer stream.Close()
	exec := &execution{ctx: ctx, client: c, out: out, stdin: r.Stdin}
	defer exec.stopInput()
	return watch(exec, stream, (*process.StartResponse).GetEvent)
}

// Connect streams the output of a running process, beginning with what was
// written while nobody was attached, until it ends. Errors: NotFound with code
// "process_unknown", and as Exec.
func (c *Client) Connect(ctx context.Context, sel Process, out Output) (Exit, error) {
	call, cancel := withoutDeadline(ctx)
	defer cancel()
	stream, err := c.processes.Connect(call, connect.NewRequest(&process.ConnectRequest{Process: sel.selector()}))
	if err != nil {
		return Exit{}, rpcError(ctx, err)
	}
	defer stream.Close()
	exec := &execution{ctx: ctx, client: c, out: out}
	return watch(exec, stream, (*process.ConnectResponse).GetEvent)
}

// watch hands on what a process writes until it ends.
func watch[M any](exec *execution, stream *connect.ServerStreamForClient[M], event func(*M) *process.ProcessEvent) (Exit, error) {
	for stream.Receive() {
		done, err := exec.event(event(stream.Msg()))
		if err != nil {
			return Exit{}, err
		}
		if done {
			// The trailer comes after the last message.
			_ = stream.Receive()
			return exec.exit(stream.ResponseTrailer()), nil
		}
	}
	return Exit{}, endedEarly(exec.ctx, stream.Err())
}

// withoutDeadline returns a context that ends with ctx but has no deadline: a
// deadline would travel in the call's headers and become the process's.
func withoutDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	call, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	return call, func() { stop(); cancel(context.Canceled) }
}

func endedEarly(ctx context.Context, err error) error {
	if err == nil {
		return errs.New(errs.Unavailable, "the guest daemon ended the stream before the process").WithOp("guest.Exec")
	}
	return rpcError(ctx, err)
}

func startRequest(r ExecRequest) *connect.Request[process.StartRequest] {
	stdin := r.Stdin != nil
	msg := &process.StartRequest{
		Process: &process.ProcessConfig{Cmd: r.Cmd[0], Args: r.Cmd[1:], Envs: r.Env},
		Stdin:   &stdin,
	}
	if r.Cwd != "" {
		msg.Process.Cwd = &r.Cwd
	}
	if r.Tag != "" {
		msg.Tag = &r.Tag
	}
	req := connect.NewRequest(msg)
	h := req.Header()
	if r.User != "" {
		h.Set(wire.HeaderUser, r.User)
	}
	if r.CleanEnv {
		h.Set(wire.HeaderCleanEnv, "1")
	}
	if r.Timeout > 0 {
		h.Set(wire.HeaderTimeLimit, strconv.FormatInt(max(1, r.Timeout.Milliseconds()), 10))
	}
	if !r.Linger {
		h.Set(wire.HeaderOnDisconnect, wire.OnDisconnectKill)
	}
	return req
}

// execution is a command on its way.
type execution struct {
	ctx    context.Context //nolint:containedctx // lives as long as one call
	client *Client
	out    Output
	stdin  io.Reader
	end    *process.ProcessEvent_EndEvent

	stop context.CancelFunc
	fed  chan struct{} // closed when the input's feeder has ended
}

// event takes one event and reports whether it was the last.
func (e *execution) event(ev *process.ProcessEvent) (done bool, err error) {
	switch ev := ev.GetEvent().(type) {
	case *process.ProcessEvent_Start:
		e.startInput(ev.Start.GetPid())
	case *process.ProcessEvent_Data:
		return false, e.data(ev.Data)
	case *process.ProcessEvent_End:
		e.end = ev.End
		return true, nil
	}
	return false, nil
}

func (e *execution) data(d *process.ProcessEvent_DataEvent) error {
	if e.out == nil {
		return nil
	}
	switch o := d.GetOutput().(type) {
	case *process.ProcessEvent_DataEvent_Stdout:
		return e.out(lehr.StreamStdout, o.Stdout)
	case *process.ProcessEvent_DataEvent_Stderr:
		return e.out(lehr.StreamStderr, o.Stderr)
	}
	return nil
}

// exit reads the end event. Its numbers are the sandbox's word and bounded to
// what a process can have.
func (e *execution) exit(trailer http.Header) Exit {
	exit := Exit{Code: e.end.GetExitCode() & 0xff, TimedOut: trailer.Get(wire.TrailerEnded) == wire.EndedByTimeLimit}
	if e.end.GetExited() {
		return exit
	}
	signal, err := strconv.ParseUint(trailer.Get(wire.TrailerSignal), 10, 6)
	if err != nil || signal == 0 {
		signal = 9
	}
	exit.Signal = int32(signal)
	exit.Code = 128 + exit.Signal
	return exit
}

// inputSize is how much input travels at once.
const inputSize = 32 << 10

// startInput begins to feed the process.
func (e *execution) startInput(pid uint32) {
	if e.stdin == nil || e.fed != nil {
		return
	}
	ctx, cancel := context.WithCancel(e.ctx)
	e.stop, e.fed = cancel, make(chan struct{})
	go func() {
		defer close(e.fed)
		e.feed(ctx, Process{PID: pid})
	}()
}

// feed sends the input and closes it. A process that has ended or closed its
// input wants no more, which is its own affair; a broken connection shows in
// the output's stream.
func (e *execution) feed(ctx context.Context, p Process) {
	buf := make([]byte, inputSize)
	for {
		n, err := e.stdin.Read(buf)
		if n > 0 {
			if sending := e.client.SendInput(ctx, p, buf[:n]); sending != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			_ = e.client.CloseStdin(ctx, p)
			return
		}
		if err != nil {
			_ = e.client.Signal(ctx, p, killSignal)
			return
		}
	}
}

// stopInput ends the feeder. A Read of the caller's own that does not return is
// left to the caller: closing its reader is.
func (e *execution) stopInput() {
	if e.stop != nil {
		e.stop()
	}
}
