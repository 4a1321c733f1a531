package process

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

// children makes and reaps child processes. Reaping is one place's business
// because the daemon is process 1 and has children it never started.
type children interface {
	// Start runs fork and delivers the wait status of the child it returns, once.
	Start(fork func() (pid int, err error)) (pid int, ended <-chan syscall.WaitStatus, err error)
	// Signal sends sig to a child started here, or to its process group, as long
	// as it has not been reaped; afterwards it returns syscall.ESRCH.
	Signal(pid int, sig syscall.Signal, group bool) error
}

// Spec says what to start.
type Spec struct {
	Command string   // path, or name searched in PATH of Env
	Args    []string // after the command's name
	Env     []string // "K=V", all there is
	// Extra is the part of Env that the request named, for whoever lists.
	Extra map[string]string
	Dir   string       // absolute
	User  account.User // whose rights and groups
	Stdin bool         // a pipe to write to; otherwise empty input
	// Terminal gives it a controlling terminal of this size instead of pipes.
	Terminal *Size
	Tag      string // "" is none
	// Limit ends the process and what it started after this time; 0 is none.
	Limit time.Duration
}

// Selector names a running process by number or, where that is 0, by tag.
type Selector struct {
	PID uint32
	Tag string
}

// Supervisor starts processes and knows those that run. It is safe for
// concurrent use.
type Supervisor struct {
	children children
	buffers  *buffers

	mu      sync.Mutex
	running map[int]*Process
	started uint64 // how many were ever
	closed  bool
	work    sync.WaitGroup // readers and waiters of all processes
}

// NewSupervisor returns a supervisor whose processes are made by c.
func NewSupervisor(c children) *Supervisor {
	return &Supervisor{children: c, buffers: newBuffers(), running: map[int]*Process{}}
}

// Start starts a process and returns it with a subscription made before its
// first byte of output. It has a session of its own. Errors: Invalid with code
// "command_not_found", "command_not_executable" or "workdir_missing"; Exhausted
// when the sandbox's limits do not allow another process.
func (s *Supervisor) Start(spec Spec) (*Process, *Subscription, error) {
	path, err := program(spec)
	if err != nil {
		return nil, nil, err
	}
	stdio, err := newStdio(spec)
	if err != nil {
		return nil, nil, errs.Wrap(err, errs.Exhausted, "process.Start", "no pipe or terminal could be made")
	}
	defer stdio.closeTheirs()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		stdio.closeOurs()
		return nil, nil, errs.New(errs.Unavailable, "the guest daemon is ending")
	}
	pid, ended, err := s.children.Start(func() (int, error) { return fork(path, spec, stdio) })
	if err != nil {
		stdio.closeOurs()
		return nil, nil, diagnose(spec, path, err)
	}
	p := newProcess(spec, pid, stdio, s.children)
	sub := p.hub.subscribe()
	s.started++
	p.order = s.started
	s.running[pid] = p
	s.work.Go(func() { s.follow(p, ended) })
	return p, sub, nil
}

// follow sees a process through: it passes on the output, waits for the end,
// and forgets the process when both are complete.
func (s *Supervisor) follow(p *Process, ended <-chan syscall.WaitStatus) {
	var pumps sync.WaitGroup
	for _, out := range p.stdio.out {
		pumps.Go(func() { s.drain(p, out) })
	}
	p.armLimit()
	p.exited(<-ended)
	pumps.Wait()
	s.mu.Lock()
	if s.running[p.PID] == p {
		// While its output was read the kernel may have given its number away.
		delete(s.running, p.PID)
	}
	s.mu.Unlock()
	p.hub.close()
	close(p.done)
}

// drain passes on one stream and, when something the process left behind still
// holds its pipe, keeps emptying it. A terminal is hung up: what still uses it
// gets SIGHUP.
func (s *Supervisor) drain(p *Process, out source) {
	closed := s.buffers.pump(out.file, p.ended, func(b []byte) { p.hub.publish(out.stream, b) })
	if closed || out.stream == Terminal {
		out.file.Close()
		return
	}
	s.work.Go(func() { s.buffers.discard(out.file) })
}

// List returns the processes that run, by number.
func (s *Supervisor) List() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Process, 0, len(s.running))
	for _, p := range s.running {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *Process) int { return a.PID - b.PID })
	return list
}

// Find returns a running process; of several with one tag, the one started
// last. Errors: NotFound with code "process_unknown".
func (s *Supervisor) Find(sel Selector) (*Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sel.PID != 0 {
		if p, ok := s.running[int(sel.PID)]; ok {
			return p, nil
		}
		return nil, unknownProcess("process with pid %d not found", sel.PID)
	}
	var found *Process
	for _, p := range s.running {
		if sel.Tag != "" && p.Spec.Tag == sel.Tag && (found == nil || p.order > found.order) {
			found = p
		}
	}
	if found == nil {
		return nil, unknownProcess("process with tag '%s' not found", sel.Tag)
	}
	return found, nil
}

func unknownProcess(format string, args ...any) error {
	return errs.New(errs.NotFound, format, args...).WithCode("process_unknown")
}

// Close kills what runs and waits, until ctx ends, for all readers.
func (s *Supervisor) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, p := range s.List() {
		p.hub.close()
		p.Kill()
	}
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
