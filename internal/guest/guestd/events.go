package guestd

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	rpc "github.com/lehr-dev/lehr/api/gen/envd/process"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/process"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// keepaliveDefault is the time between keepalive events where the client names
// none.
const keepaliveDefault = 90 * time.Second

// errQuiet ends a wait for output after the keepalive interval.
var errQuiet = errors.New("no output for the keepalive interval")

// eventStream sends the events of one process to one client: start, data*,
// end, with keepalives where nothing else is said.
type eventStream struct {
	process *process.Process
	sub     *process.Subscription
	send    func(*rpc.ProcessEvent) error
	trailer http.Header
}

func (s *eventStream) run(ctx context.Context, h http.Header) error {
	err := s.send(&rpc.ProcessEvent{Event: &rpc.ProcessEvent_Start{
		Start: &rpc.ProcessEvent_StartEvent{Pid: uint32(s.process.PID)},
	}})
	if err != nil {
		return err
	}
	every := keepalive(h)
	for {
		chunk, err := s.next(ctx, every)
		switch {
		case err == nil:
			err = s.send(data(chunk))
		case errors.Is(err, errQuiet):
			err = s.send(&rpc.ProcessEvent{Event: &rpc.ProcessEvent_Keepalive{
				Keepalive: &rpc.ProcessEvent_KeepAlive{},
			}})
		case err == io.EOF:
			return s.end(h)
		default:
			return rpcError(err)
		}
		if err != nil {
			return err
		}
	}
}

func (s *eventStream) next(ctx context.Context, every time.Duration) (process.Chunk, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, every, errQuiet)
	defer cancel()
	return s.sub.Next(ctx)
}

// end sends the end event. A process that Connect's own time limit has ended is
// a failed call, as its client has given up on it; our limit's end is data.
func (s *eventStream) end(h http.Header) error {
	end := s.process.End()
	if end.TimedOut && h.Get(wire.HeaderTimeLimit) == "" && h.Get(wire.HeaderConnectTimeout) != "" {
		return rpcError(errs.New(errs.Timeout, "the process was ended by the call's time limit"))
	}
	if end.TimedOut {
		s.trailer.Set(wire.TrailerEnded, wire.EndedByTimeLimit)
	}
	if end.Status.Signaled() {
		s.trailer.Set(wire.TrailerSignal, strconv.Itoa(int(end.Status.Signal())))
	}
	return s.send(&rpc.ProcessEvent{Event: &rpc.ProcessEvent_End{End: endEvent(end, s.process.Spec.Limit)}})
}

func endEvent(end process.End, limit time.Duration) *rpc.ProcessEvent_EndEvent {
	e := &rpc.ProcessEvent_EndEvent{ExitCode: int32(end.Status.ExitStatus()), Exited: end.Status.Exited()}
	e.Status = "exit status " + strconv.Itoa(end.Status.ExitStatus())
	if end.Status.Signaled() {
		e.Status = "signal: " + end.Status.Signal().String()
	}
	failure := e.Status
	if end.TimedOut {
		failure = "the time limit of " + limit.String() + " has ended the process"
	}
	if end.Status.Signaled() || e.ExitCode != 0 {
		e.Error = &failure
	}
	return e
}

func data(chunk process.Chunk) *rpc.ProcessEvent {
	d := &rpc.ProcessEvent_DataEvent{}
	switch chunk.Stream {
	case process.Stdout:
		d.Output = &rpc.ProcessEvent_DataEvent_Stdout{Stdout: chunk.Data}
	case process.Stderr:
		d.Output = &rpc.ProcessEvent_DataEvent_Stderr{Stderr: chunk.Data}
	case process.Terminal:
		d.Output = &rpc.ProcessEvent_DataEvent_Pty{Pty: chunk.Data}
	}
	return &rpc.ProcessEvent{Event: &rpc.ProcessEvent_Data{Data: d}}
}

// keepalive reads the interval a client asks for, whole seconds.
func keepalive(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get(wire.HeaderKeepalive), 10, 16)
	if err != nil || n == 0 {
		return keepaliveDefault
	}
	return time.Duration(n) * time.Second
}

// timeLimit reads how long a process may run: our header, else Connect's.
func timeLimit(h http.Header) (time.Duration, error) {
	text := cmp.Or(h.Get(wire.HeaderTimeLimit), h.Get(wire.HeaderConnectTimeout))
	if text == "" {
		return 0, nil
	}
	// Ten digits are the most Connect allows, and some 115 days.
	ms, err := strconv.ParseUint(text, 10, 64)
	if err != nil || len(text) > 10 {
		return 0, errs.New(errs.Invalid, "the time limit is not a number of milliseconds").WithField("timeout")
	}
	return time.Duration(ms) * time.Millisecond, nil
}
