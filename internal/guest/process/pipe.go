package process

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Times after a process has ended.
const (
	// silence is how long a pipe somebody else still holds must be quiet for
	// output to count as complete.
	silence = 150 * time.Millisecond
	// patience is how long a pipe that is never quiet is followed.
	patience = time.Second
)

// pipe makes a pipe of which our end is non-blocking (so it has deadlines) and
// the child's end is not, as programs expect.
func pipe(oursReads bool) (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	our, their := fds[1], fds[0]
	if oursReads {
		our, their = fds[0], fds[1]
	}
	if err := unix.SetNonblock(our, true); err != nil {
		unix.Close(our)
		unix.Close(their)
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(our), "pipe"), os.NewFile(uintptr(their), "pipe"), nil
}

// pump moves the output of one pipe to publish until it is complete. ended is
// closed, and the pipe's read deadline set, when the process has ended. pump
// reports whether the pipe has been closed by its writers.
//
// What the process itself wrote is in the pipe by then; it is read whole,
// however slowly publish takes it. Only what others may still write is subject
// to silence and patience.
func pump(file *os.File, ended <-chan struct{}, publish func([]byte)) (closed bool) {
	buf := make([]byte, readSize)
	var late *lateReader
	for {
		n, err := file.Read(buf)
		if n > 0 {
			publish(buf[:n])
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
		if late == nil && isClosed(ended) {
			late = &lateReader{owed: unread(file) + n, until: time.Now().Add(patience)}
		}
		if late != nil && !late.goOn(file, n) {
			return false
		}
	}
}

// lateReader decides how long a pipe is read after its process has ended.
type lateReader struct {
	owed  int       // bytes that were in the pipe when the end was noticed
	until time.Time // end of patience
}

// goOn reports whether to read again, after n bytes were read, and sets the
// deadline for it.
func (l *lateReader) goOn(file *os.File, n int) bool {
	l.owed -= n
	waiting := unread(file) > 0
	if n == 0 && !waiting {
		return false
	}
	if l.owed <= 0 && time.Now().After(l.until) {
		return false
	}
	return file.SetReadDeadline(time.Now().Add(silence)) == nil
}

// unread returns the number of bytes waiting in the pipe (TIOCINQ is FIONREAD).
func unread(file *os.File) int {
	conn, err := file.SyscallConn()
	if err != nil {
		return 0
	}
	var n int
	err = conn.Control(func(fd uintptr) {
		n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	})
	if err != nil {
		return 0
	}
	return n
}

// discard reads a pipe until its writers have closed it, so that they are
// neither blocked nor killed for writing, and closes it.
func discard(file *os.File) {
	defer file.Close()
	if file.SetReadDeadline(time.Time{}) != nil {
		return
	}
	buf := make([]byte, 4<<10)
	for {
		if _, err := file.Read(buf); err != nil {
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
