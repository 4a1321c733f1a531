package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxReply bounds what a sentry may answer: it runs hostile code and may be
// taken over.
const maxReply = 4 << 20

// remoteError is a refusal by the sentry, as opposed to a broken connection.
type remoteError string

func (e remoteError) Error() string { return string(e) }

// request and reply are gVisor's urpc format: one JSON value each way on a
// stream, open files beside the first byte. This is written here rather than
// taken from gVisor because every descriptor of ours must be close-on-exec from
// its first moment (another sandbox could inherit it otherwise) and every call
// must end with its context.
type request struct {
	Method string `json:"method"`
	Arg    any    `json:"arg"`
}

type reply struct {
	Success bool            `json:"success"`
	Err     string          `json:"err"`
	Result  json.RawMessage `json:"result"`
}

// controlSocket calls one sentry through its control socket. It is stateless: each
// call has a connection of its own.
type controlSocket struct {
	dir string // of the slot, which holds the socket
}

// socketName is short because the kernel allows 108 bytes for the whole path.
const socketName = "control.sock"

// call invokes method with arg, passes files along, and decodes the result into
// out where that is not nil. The files stay open. It returns a remoteError when
// the sentry refused, the cause of ctx when that ended first.
func (c controlSocket) call(ctx context.Context, method string, arg, out any, files ...*os.File) error {
	conn, err := c.dial()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err = exchange(conn, request{Method: method, Arg: arg}, out, files)
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return fmt.Errorf("%s: %w", method, cause)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// dial connects through an open descriptor of the folder, so that a long path
// of the state folder does not matter.
func (c controlSocket) dial() (*net.UnixConn, error) {
	dir, err := os.Open(c.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: throughFD(dir, socketName), Net: "unix"})
}

// listenControl makes the listening socket that a sentry is born with.
func listenControl(slotDir string) (*os.File, error) {
	dir, err := os.Open(slotDir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), socketName)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: throughFD(dir, socketName)}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), file.Close())
	}
	return file, nil
}

func throughFD(dir *os.File, name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), name)
}

func exchange(conn *net.UnixConn, req request, out any, files []*os.File) error {
	data, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if err := send(conn, data, files); err != nil {
		return err
	}
	var answer reply
	if err := json.NewDecoder(io.LimitReader(conn, maxReply)).Decode(&answer); err != nil {
		return err
	}
	if !answer.Success {
		return remoteError(answer.Err)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer.Result, out)
}

// send writes data, the files beside its first part.
func send(conn *net.UnixConn, data []byte, files []*os.File) error {
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(data, rights, nil)
	runtime.KeepAlive(files)
	if err != nil || n == len(data) {
		return err // nothing may follow: the answer can have come and the other end be gone
	}
	_, err = conn.Write(data[n:])
	return err
}
