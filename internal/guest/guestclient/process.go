package guestclient

import (
	"context"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/process"
)

const killSignal = 9

// Process names a running process by number or, where that is 0, by tag.
type Process struct {
	PID uint32
	Tag string
}

func (p Process) selector() *process.ProcessSelector {
	if p.PID == 0 {
		return &process.ProcessSelector{Selector: &process.ProcessSelector_Tag{Tag: p.Tag}}
	}
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Pid{Pid: p.PID}}
}

// ProcessInfo describes a running process, as the sandbox tells it.
type ProcessInfo struct {
	Process
	Cmd []string
	Cwd string
}

// List returns the processes that were started through the daemon and run.
func (c *Client) List(ctx context.Context) ([]ProcessInfo, error) {
	resp, err := c.processes.List(ctx, connect.NewRequest(&process.ListRequest{}))
	if err != nil {
		return nil, rpcError(ctx, err)
	}
	list := make([]ProcessInfo, 0, len(resp.Msg.GetProcesses()))
	for _, p := range resp.Msg.GetProcesses() {
		list = append(list, ProcessInfo{
			Process: Process{PID: p.GetPid(), Tag: p.GetTag()},
			Cmd:     append([]string{p.GetConfig().GetCmd()}, p.GetConfig().GetArgs()...),
			Cwd:     p.GetConfig().GetCwd(),
		})
	}
	return list, nil
}

// Signal sends a signal to a process's group; SIGKILL (9) ends its descendants
// too. Errors: NotFound with code "process_unknown".
func (c *Client) Signal(ctx context.Context, p Process, signal int32) error {
	_, err := c.processes.SendSignal(ctx, connect.NewRequest(&process.SendSignalRequest{
		Process: p.selector(), Signal: process.Signal(signal),
	}))
	if err != nil {
		return rpcError(ctx, err)
	}
	return nil
}

// SendInput writes to a process's standard input; it returns when the pipe has
// taken all of it. Errors: Conflict when the input is closed.
func (c *Client) SendInput(ctx context.Context, p Process, data []byte) error {
	_, err := c.processes.SendInput(ctx, connect.NewRequest(&process.SendInputRequest{
		Process: p.selector(),
		Input:   &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: data}},
	}))
	if err != nil {
		return rpcError(ctx, err)
	}
	return nil
}

// CloseStdin ends a process's standard input.
func (c *Client) CloseStdin(ctx context.Context, p Process) error {
	_, err := c.processes.CloseStdin(ctx, connect.NewRequest(&process.CloseStdinRequest{Process: p.selector()}))
	if err != nil {
		return rpcError(ctx, err)
	}
	return nil
}
