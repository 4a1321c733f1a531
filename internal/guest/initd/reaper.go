package initd

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reaper makes children and waits for them in one place. As process 1 it also
// buries the orphans that are handed to it. It is safe for concurrent use; mu
// is held while forking and while reaping, so that a child is never reaped
// before it is known nor signalled after.
//
// As process 1 it forks from one thread that has given CAP_SYS_ADMIN up for
// good: the daemon needs it to take an identity, and no command gets it, not
// root's and not through a setuid program. Nor can a command then trace the
// daemon or read its memory.
type Reaper struct {
	mu       sync.Mutex
	children map[int]chan syscall.WaitStatus
	orphans  bool
	forks    chan func() // run by the forking thread; nil: anywhere
	lessened error       // why that thread could not give the capability up; set before its first fork
}

// NewReaper returns a reaper. Orphans are buried when this is process 1.
func NewReaper() *Reaper {
	r := &Reaper{children: map[int]chan syscall.WaitStatus{}, orphans: os.Getpid() == 1}
	if r.orphans {
		r.forks = make(chan func())
		go r.fork()
	}
	return r
}

// fork runs forks for as long as the daemon lives. Capability sets are a
// thread's own, and the thread is never given back.
func (r *Reaper) fork() {
	runtime.LockOSThread()
	r.lessened = unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0)
	for f := range r.forks {
		f()
	}
}

// onForker runs fork on the forking thread. Where that kept the capability,
// nothing is started.
func (r *Reaper) onForker(fork func() (int, error)) (pid int, err error) {
	if r.forks == nil {
		return fork()
	}
	done := make(chan struct{})
	r.forks <- func() {
		defer close(done)
		if r.lessened != nil {
			err = fmt.Errorf("dropping CAP_SYS_ADMIN: %w", r.lessened)
			return
		}
		pid, err = fork()
	}
	<-done
	return pid, err
}

// Start runs fork, which starts one child and returns its number, and delivers
// the child's wait status once.
func (r *Reaper) Start(fork func() (int, error)) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := r.onForker(fork)
	if err != nil {
		return 0, nil, err
	}
	ended := make(chan syscall.WaitStatus, 1)
	r.children[pid] = ended
	return pid, ended, nil
}

// Signal sends sig to a child, or to the group it leads, as long as it has not
// been reaped; then it returns syscall.ESRCH.
func (r *Reaper) Signal(pid int, sig syscall.Signal, group bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.children[pid]; !ok {
		return syscall.ESRCH
	}
	if group {
		pid = -pid
	}
	return syscall.Kill(pid, sig)
}

// Run reaps until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	defer signal.Stop(died)
	for {
		r.reap()
		select {
		case <-died:
		case <-ctx.Done():
			return
		}
	}
}

// reap takes every child that has ended. Signals merge, so one SIGCHLD may
// stand for many.
func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for pid := range r.children {
		r.wait(pid)
	}
	for r.orphans && r.wait(-1) {
	}
}

// wait takes one ended child among those pid means, without blocking, and
// reports whether there was one.
func (r *Reaper) wait(pid int) bool {
	var status syscall.WaitStatus
	got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
	for err == syscall.EINTR {
		got, err = syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
	}
	if err != nil || got <= 0 {
		return false
	}
	if ended, ok := r.children[got]; ok {
		delete(r.children, got)
		ended <- status
	}
	return true
}
