package gvisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// processID names a process beyond the reuse of its number: by its start time
// and the boot of the machine.
type processID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
	Boot  string `json:"boot"`
}

// identify returns the identity of a running or unreaped process.
func identify(pid int) (processID, error) {
	start, _, err := processStat(pid)
	if err != nil {
		return processID{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return processID{}, err
	}
	return processID{PID: pid, Start: start, Boot: string(bytes.TrimSpace(boot))}, nil
}

// processStat returns start time and state letter of a process.
func processStat(pid int) (start uint64, state byte, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name may hold spaces and brackets; the fields behind it do not.
	_, rest, ok := strings.Cut(string(data[bytes.LastIndexByte(data, ')')+1:]), " ")
	fields := strings.Fields(rest)
	const startField = 19 // of the fields behind the name
	if !ok || len(fields) <= startField {
		return 0, 0, fmt.Errorf("malformed stat of process %d", pid)
	}
	start, err = strconv.ParseUint(fields[startField], 10, 64)
	return start, fields[0][0], err
}

// process is a sentry that this process watches, its child or not. Its methods
// are safe for concurrent use.
type process struct {
	id processID
	fd *os.File // pidfd
}

// openProcess returns a handle of the process with that identity, nil when it
// is gone.
func openProcess(id processID) (*process, error) {
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	p := &process{id: id, fd: os.NewFile(uintptr(fd), "pidfd")}
	now, err := identify(id.PID)
	if err != nil || now != id {
		return nil, p.fd.Close() // another process with the same number
	}
	return p, nil
}

// kill sends SIGKILL. A process that is gone is no error.
func (p *process) kill() error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if errors.Is(sent, unix.ESRCH) {
		sent = nil
	}
	return errors.Join(err, sent)
}

// wait returns once the process has ended, and says how where this process is
// its parent; it reaps it then. It fails when close was called first.
func (p *process) wait() (how string, err error) {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return "", err
	}
	err = conn.Read(func(fd uintptr) bool {
		ready, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return ready > 0
	})
	if err != nil {
		return "", err
	}
	var status unix.WaitStatus
	pid, err := unix.Wait4(p.id.PID, &status, unix.WNOHANG, nil)
	switch {
	case err != nil || pid != p.id.PID:
		return "ended with an unknown status", nil // another process is or was its parent
	case status.Signaled():
		return "was killed by signal " + status.Signal().String(), nil
	default:
		return fmt.Sprintf("ended with exit status %d", status.ExitStatus()), nil
	}
}

// over reports whether the process has ended, reaped or not.
func (p *process) over() bool {
	start, state, err := processStat(p.id.PID)
	return err != nil || start != p.id.Start || state == 'Z' || state == 'X'
}

func (p *process) close() { _ = p.fd.Close() }
