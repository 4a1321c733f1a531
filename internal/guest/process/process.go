package process

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Process is a started process. Its methods are safe for concurrent use.
type Process struct {
	PID  int
	Spec Spec

	order    uint64 // among those of its supervisor; set before anybody knows it
	children children
	stdio    *stdio
	hub      *hub
	ended    chan struct{} // closed when the process has ended
	done     chan struct{} // closed when its output is complete too
	writing  chan struct{} // held by the one writer of stdin

	mu       sync.Mutex
	status   syscall.WaitStatus
	timedOut bool
	limit    *time.Timer
}

// End is how a process ended.
type End struct {
	Status   syscall.WaitStatus
	TimedOut bool // Spec.Limit ended it
}

func newProcess(spec Spec, pid int, stdio *stdio, c children) *Process {
	return &Process{
		PID: pid, Spec: spec, children: c, stdio: stdio, hub: newHub(),
		ended: make(chan struct{}), done: make(chan struct{}), writing: make(chan struct{}, 1),
	}
}

// Subscribe returns the output from now on, preceded by what was kept while
// nobody was subscribed. Errors: Exhausted beyond 64 subscriptions.
func (p *Process) Subscribe() (*Subscription, error) {
	if p.hub.crowded() {
		return nil, errs.New(errs.Exhausted, "more than %d clients follow the process", maxSubscribers)
	}
	return p.hub.subscribe(), nil
}

// End returns how the process ended. It is valid once a subscription has
// returned io.EOF or Done is closed.
func (p *Process) End() End {
	p.mu.Lock()
	defer p.mu.Unlock()
	return End{Status: p.status, TimedOut: p.timedOut}
}

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends sig to the process's group. SIGKILL ends all of Kill's.
func (p *Process) Signal(sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		p.Kill()
		return nil
	}
	if err := p.children.Signal(p.PID, sig, true); err != nil && !errors.Is(err, syscall.ESRCH) {
		return errs.Wrap(err, errs.Invalid, "process.Signal", "the signal could not be sent")
	}
	return nil
}

// Kill ends the process, its group, its session and its descendants. It is a
// no-op when the process has ended: what it left behind then lives on.
func (p *Process) Kill() {
	if isClosed(p.ended) {
		return
	}
	killTree(p.PID, p.children)
}

// armLimit starts the clock of Spec.Limit.
func (p *Process) armLimit() {
	if p.Spec.Limit <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = time.AfterFunc(p.Spec.Limit, func() {
		p.mu.Lock()
		p.timedOut = true
		p.mu.Unlock()
		p.Kill()
	})
}

// exited records the end and lets the readers know.
func (p *Process) exited(status syscall.WaitStatus) {
	p.mu.Lock()
	p.status = status
	inTime := p.limit == nil || p.limit.Stop()
	if inTime || !status.Signaled() {
		p.timedOut = false
	}
	p.mu.Unlock()
	close(p.ended)
	deadline := time.Now().Add(silence)
	for _, out := range p.stdio.out {
		// A reader that has seen the end of its pipe has closed it already.
		_ = out.file.SetReadDeadline(deadline)
	}
	// A terminal is closed by its reader.
	_ = p.CloseStdin()
}

// Write writes data to standard input, waiting while the pipe is full. Errors:
// Conflict when there is no open standard input; the cause of ctx.
func (p *Process) Write(ctx context.Context, data []byte) error {
	if p.Spec.Terminal != nil {
		return hasTerminal()
	}
	return p.write(ctx, data)
}

// Type writes data to the terminal as if it were typed, waiting while nobody
// reads it. Errors: Conflict when there is no open terminal; the cause of ctx.
func (p *Process) Type(ctx context.Context, data []byte) error {
	if p.Spec.Terminal == nil {
		return noTerminal()
	}
	return p.write(ctx, data)
}

func (p *Process) write(ctx context.Context, data []byte) error {
	if p.stdio.in == nil || isClosed(p.ended) {
		return stdinClosed()
	}
	select {
	case p.writing <- struct{}{}:
		defer func() { <-p.writing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = p.stdio.in.SetWriteDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	_, err := p.stdio.in.Write(data)
	if !stop() {
		<-interrupted
		_ = p.stdio.in.SetWriteDeadline(time.Time{})
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.Cause(ctx)
	}
	return stdinClosed()
}

func stdinClosed() error {
	return errs.New(errs.Conflict, "the process's standard input is closed").WithCode("stdin_closed")
}

// CloseStdin ends standard input; a second call does nothing. Errors: Conflict
// when the process has a terminal, which has no end but a typed one.
func (p *Process) CloseStdin() error {
	if p.Spec.Terminal != nil {
		return hasTerminal()
	}
	if p.stdio.in != nil {
		_ = p.stdio.in.Close()
	}
	return nil
}
