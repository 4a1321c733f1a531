package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/process"
	"github.com/lehr-dev/lehr/api/gen/envd/process/processconnect"
)

// Processes starts processes in one sandbox and attaches to them.
type Processes struct{ rpc processconnect.ProcessClient }

// Size is the size of a terminal in characters.
type Size struct{ Cols, Rows uint16 }

// Command is what Start runs.
type Command struct {
	Args []string          // argv; Args[0] is looked up in PATH
	Env  map[string]string // added to the sandbox's default environment
	Cwd  string            // "" is the default directory
	Tag  string            // a name to find the process by
	// Terminal gives the process a terminal of that size; nil gives it pipes.
	Terminal *Size
	// Stdin keeps standard input open for Write; otherwise it is empty. A
	// terminal always has it.
	Stdin bool
	// Linger lets the process live on when its stream ends before it; otherwise
	// the end of ctx, Close or a broken connection kills it and its children.
	Linger bool
}

// Stream says where output came from.
type Stream string

// The streams.
const (
	Stdout   Stream = "stdout"
	Stderr   Stream = "stderr"
	Terminal Stream = "terminal"
)

// Exit is how a process ended.
type Exit struct {
	Code   int // 128 + Signal when a signal ended it
	Signal int // 0 when it exited by itself
}

// ErrLost is the error of a connection that broke, or fell silent, before the
// process had ended.
var ErrLost = errors.New("the connection to the sandbox was lost")

// A living connection carries something at least this often.
const (
	keepaliveEvery = 15 * time.Second
	silentFor      = 3 * keepaliveEvery
)

// Start starts a process and returns once it runs. ctx ends the stream; its
// deadline does not reach the process. Errors: ErrorDetail names
// "command_not_found", "command_not_executable", "user_unknown" and
// "workdir_missing".
func (p *Processes) Start(ctx context.Context, c Command) (*Process, error) {
	if len(c.Args) == 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no command was given"))
	}
	req := connect.NewRequest(startRequest(c))
	if !c.Linger {
		req.Header().Set(headerOnDisconnect, "kill")
	}
	req.Header().Set(headerKeepalive, strconv.Itoa(int(keepaliveEvery.Seconds())))
	call, cancel := withoutDeadline(ctx)
	stream, err := p.rpc.Start(call, req)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	return follow(&Process{rpc: p.rpc, ctx: ctx, cancel: cancel, terminal: c.Terminal != nil}, stream, (*process.StartResponse).GetEvent)
}

func startRequest(c Command) *process.StartRequest {
	stdin := c.Stdin || c.Terminal != nil
	m := &process.StartRequest{
		Process: &process.ProcessConfig{Cmd: c.Args[0], Args: c.Args[1:], Envs: c.Env}, Stdin: &stdin,
	}
	if c.Cwd != "" {
		m.Process.Cwd = &c.Cwd
	}
	if c.Tag != "" {
		m.Tag = &c.Tag
	}
	if c.Terminal != nil {
		m.Pty = pty(*c.Terminal)
	}
	return m
}

func pty(s Size) *process.PTY {
	return &process.PTY{Size: &process.PTY_Size{Cols: uint32(s.Cols), Rows: uint32(s.Rows)}}
}

// Attach follows a running process, beginning with what it wrote while nobody
// did. terminal says whether it was started with one. The end of the stream
// leaves the process alone.
func (p *Processes) Attach(ctx context.Context, pid uint32, terminal bool) (*Process, error) {
	req := connect.NewRequest(&process.ConnectRequest{Process: byPID(pid)})
	req.Header().Set(headerKeepalive, strconv.Itoa(int(keepaliveEvery.Seconds())))
	call, cancel := withoutDeadline(ctx)
	stream, err := p.rpc.Connect(call, req)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	return follow(&Process{rpc: p.rpc, ctx: ctx, cancel: cancel, terminal: terminal}, stream, (*process.ConnectResponse).GetEvent)
}

// List returns the processes that were started through the guest daemon and
// still run.
func (p *Processes) List(ctx context.Context) ([]*process.ProcessInfo, error) {
	res, err := p.rpc.List(ctx, connect.NewRequest(&process.ListRequest{}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetProcesses(), nil
}

// Output runs a command to its end and returns what it wrote to standard
// output, at most limit bytes of it, and to standard error, at most 4 KB.
func (p *Processes) Output(ctx context.Context, c Command, limit int) (stdout, stderr []byte, exit Exit, err error) {
	run, err := p.Start(ctx, c)
	if err != nil {
		return nil, nil, Exit{}, err
	}
	defer run.Close()
	for {
		from, b, err := run.Next()
		if errors.Is(err, io.EOF) {
			return stdout, stderr, run.Exit(), nil
		}
		if err != nil {
			return stdout, stderr, Exit{}, err
		}
		if from == Stderr {
			stderr = append(stderr, b[:min(len(b), max(0, 4096-len(stderr)))]...)
		} else {
			stdout = append(stdout, b[:min(len(b), max(0, limit-len(stdout)))]...)
		}
	}
}

// withoutDeadline returns a context that ends with ctx but has no deadline: it
// would travel along and become the process's.
func withoutDeadline(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	call, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	return call, func(cause error) { stop(); cancel(cause) }
}

func byPID(pid uint32) *process.ProcessSelector {
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Pid{Pid: pid}}
}

// Process is a process that Start or Attach follows. Next belongs to one
// goroutine; the other methods may be called from any.
type Process struct {
	rpc      processconnect.ProcessClient
	ctx      context.Context // of the caller
	cancel   context.CancelCauseFunc
	receive  func() (*process.ProcessEvent, error) // io.EOF when the stream ends well
	trailer  func() http.Header
	close    func() error
	watchdog *time.Timer
	terminal bool
	pid      uint32
	exit     Exit

	mu   sync.Mutex
	lost bool // the watchdog ended the call
}

// follow waits for the start event of a stream and makes p its reader.
func follow[M any](p *Process, s *connect.ServerStreamForClient[M], event func(*M) *process.ProcessEvent) (*Process, error) {
	p.trailer, p.close = s.ResponseTrailer, s.Close
	p.receive = func() (*process.ProcessEvent, error) {
		if s.Receive() {
			return event(s.Msg()), nil
		}
		if err := s.Err(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	p.watchdog = time.AfterFunc(silentFor, p.giveUp)
	first, err := p.event()
	if err == nil && first.GetStart() == nil {
		err = fmt.Errorf("%w: the stream does not begin with a start", ErrLost)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	p.pid = first.GetStart().GetPid()
	return p, nil
}

func (p *Process) giveUp() {
	p.mu.Lock()
	p.lost = true
	p.mu.Unlock()
	p.cancel(ErrLost)
}

// event reads one event. What the server says is passed on; what breaks the
// connection is ErrLost.
func (p *Process) event() (*process.ProcessEvent, error) {
	e, err := p.receive()
	if err == nil {
		p.watchdog.Reset(silentFor)
		return e, nil
	}
	p.mu.Lock()
	lost := p.lost
	p.mu.Unlock()
	switch {
	case p.ctx.Err() != nil:
		return nil, context.Cause(p.ctx)
	case lost, errors.Is(err, io.EOF):
		return nil, ErrLost
	case connect.IsWireError(err) || ErrorDetail(err) != nil:
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrLost, err)
}

// PID is the process's number in the sandbox.
func (p *Process) PID() uint32 { return p.pid }

// Next returns the next output; b is the caller's. io.EOF says that the process
// has ended, and Exit how; ErrLost that the connection broke before.
func (p *Process) Next() (from Stream, b []byte, err error) {
	for {
		e, err := p.event()
		if err != nil {
			return "", nil, err
		}
		switch ev := e.GetEvent().(type) {
		case *process.ProcessEvent_Data:
			switch o := ev.Data.GetOutput().(type) {
			case *process.ProcessEvent_DataEvent_Stdout:
				return Stdout, o.Stdout, nil
			case *process.ProcessEvent_DataEvent_Stderr:
				return Stderr, o.Stderr, nil
			case *process.ProcessEvent_DataEvent_Pty:
				return Terminal, o.Pty, nil
			}
		case *process.ProcessEvent_End:
			_, _ = p.receive() // the trailer comes after the last message
			p.exit = exitOf(ev.End, p.trailer())
			return "", nil, io.EOF
		}
	}
}

// exitOf bounds the sandbox's numbers to what a process can have.
func exitOf(end *process.ProcessEvent_EndEvent, trailer http.Header) Exit {
	if end.GetExited() {
		return Exit{Code: int(end.GetExitCode() & 0xff)}
	}
	signal, err := strconv.ParseUint(trailer.Get(trailerSignal), 10, 6)
	if err != nil || signal == 0 {
		signal = 9
	}
	return Exit{Code: 128 + int(signal), Signal: int(signal)}
}

// Exit is how the process ended, once Next has returned io.EOF.
func (p *Process) Exit() Exit { return p.exit }

// Write sends input and returns once the sandbox has taken it. Calls that
// follow each other keep their order.
func (p *Process) Write(ctx context.Context, b []byte) error {
	in := &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: b}}
	if p.terminal {
		in.Input = &process.ProcessInput_Pty{Pty: b}
	}
	_, err := p.rpc.SendInput(ctx, connect.NewRequest(&process.SendInputRequest{Process: byPID(p.pid), Input: in}))
	return err
}

// CloseStdin ends the standard input.
func (p *Process) CloseStdin(ctx context.Context) error {
	_, err := p.rpc.CloseStdin(ctx, connect.NewRequest(&process.CloseStdinRequest{Process: byPID(p.pid)}))
	return err
}

// Resize changes the size of the process's terminal.
func (p *Process) Resize(ctx context.Context, s Size) error {
	_, err := p.rpc.Update(ctx, connect.NewRequest(&process.UpdateRequest{Process: byPID(p.pid), Pty: pty(s)}))
	return err
}

// Signal sends a signal, by number, to the process's group.
func (p *Process) Signal(ctx context.Context, number int) error {
	_, err := p.rpc.SendSignal(ctx, connect.NewRequest(&process.SendSignalRequest{Process: byPID(p.pid), Signal: process.Signal(number)}))
	return err
}

// Close ends the stream; it may be called twice.
func (p *Process) Close() {
	p.watchdog.Stop()
	p.cancel(nil)
	_ = p.close() // what is left of the stream is of no interest
}
