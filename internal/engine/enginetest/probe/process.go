package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// exit ends the first process, and with it the sandbox.
func exit(args []string) (string, error) {
	code, err := strconv.Atoi(arg(args, 0))
	if err != nil {
		return "", err
	}
	os.Exit(code)
	return "", nil
}

// spawn starts a child that sleeps for ever and reports its pid.
func spawn([]string) (string, error) {
	cmd := exec.Command(os.Args[0], "sleep")
	if err := cmd.Start(); err != nil {
		return "", err
	}
	go func() { _ = cmd.Wait() }() // reaps it; how it ended is of no interest
	return fmt.Sprintf("pid=%d", cmd.Process.Pid), nil
}

// alive reports whether a pid exists.
func alive(args []string) (string, error) {
	pid, err := strconv.Atoi(arg(args, 0))
	if err != nil {
		return "", err
	}
	return strconv.FormatBool(unix.Kill(pid, 0) == nil), nil
}

// fork makes args[0] processes as cheaply as can be (no exec, no memory of
// their own), reports how many there were when the first fork failed, and ends
// them again.
func (m *memory) fork(args []string) (string, error) {
	n, err := strconv.Atoi(arg(args, 0))
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var failed error
	for len(m.forked) < n && failed == nil {
		var pid int
		if pid, failed = cloneSleeper(); failed == nil {
			m.forked = append(m.forked, pid)
		}
	}
	started := len(m.forked)
	for _, pid := range m.forked {
		_ = unix.Kill(pid, unix.SIGKILL) // it is our unreaped child, so it exists
	}
	for _, pid := range m.forked {
		_, _ = unix.Wait4(pid, nil, 0, nil)
	}
	m.forked = nil
	return fmt.Sprintf("started=%d", started), failed
}

// cloneSleeper forks without exec; the child does nothing but raw system calls,
// because the Go runtime does not live on in it.
//
//go:norace
func cloneSleeper() (int, error) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	for pid == 0 {
		syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
	return int(pid), nil
}

// whoami reports what the sandbox sees of itself.
func whoami([]string) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return "", err
	}
	total := uint64(info.Totalram) * uint64(info.Unit) >> 20
	return fmt.Sprintf("uid=%d pid=%d nproc=%d mem_mb=%d hostname=%s",
		os.Getuid(), os.Getpid(), runtime.NumCPU(), total, host), nil
}

// burn keeps args[0] threads busy for args[1] milliseconds and reports the CPU
// time it was charged, the wall time, and the work that it got done.
func burn(args []string) (string, error) {
	threads, err := strconv.Atoi(arg(args, 0))
	if err != nil {
		return "", err
	}
	ms, err := strconv.Atoi(arg(args, 1))
	if err != nil {
		return "", err
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads + 2))
	before, start := cpuTime(), time.Now()
	var stop atomic.Bool
	var work atomic.Int64
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			var n int64
			for !stop.Load() {
				n++
			}
			work.Add(n)
		})
	}
	time.Sleep(time.Duration(ms) * time.Millisecond)
	stop.Store(true)
	wg.Wait()
	return fmt.Sprintf("cpu_ns=%d wall_ns=%d work=%d", cpuTime()-before, time.Since(start), work.Load()), nil
}

// cpuTime returns the CPU time of this process in nanoseconds.
func cpuTime() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// describe puts the errno's name first.
func describe(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return strings.TrimSpace(unix.ErrnoName(errno)) + ": " + err.Error()
	}
	return err.Error()
}
