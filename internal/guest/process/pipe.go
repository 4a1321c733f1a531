package process

import (
	"errors"
	"io"
	"os"
	"sync"
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

// buffers lends the memory reads go to. A reader holds one only while there is
// something to read, so that an idle process costs none.
type buffers struct {
	pool sync.Pool
}

func newBuffers() *buffers {
	return &buffers{pool: sync.Pool{New: func() any { return new([readSize]byte) }}}
}

// read waits until file has something to read, hands it to publish, and returns
// how much it was. It returns io.EOF when the pipe's writers have closed it.
func (b *buffers) read(file *os.File, publish func([]byte)) (n int, err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var buf *[readSize]byte
	var failure error
	err = conn.Read(func(fd uintptr) (done bool) {
		buf = b.pool.Get().(*[readSize]byte)
		if n, failure = readOnce(int(fd), buf[:]); failure == unix.EAGAIN {
			b.pool.Put(buf)
			buf = nil
			return false
		}
		return true
	})
	if buf == nil {
		return 0, err
	}
	defer b.pool.Put(buf)
	switch {
	case failure != nil:
		return 0, failure
	case n == 0:
		return 0, io.EOF
	}
	publish(buf[:n])
	return n, nil
}

func readOnce(fd int, buf []byte) (n int, err error) {
	n, err = unix.Read(fd, buf)
	for err == unix.EINTR {
		n, err = unix.Read(fd, buf)
	}
	return n, err
}

// pump moves the output of one pipe to publish until it is complete. ended is
// closed, and the pipe's read deadline set, when the process has ended. pump
// reports whether the pipe has been closed by its writers.
//
// What the process itself wrote is in the pipe by then; it is read whole,
// however slowly publish takes it. Only what others may still write is subject
// to silence and patience.
func (b *buffers) pump(file *os.File, ended <-chan struct{}, publish func([]byte)) (closed bool) {
	var late *lateReader
	for {
		n, err := b.read(file, publish)
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
func (b *buffers) discard(file *os.File) {
	defer file.Close()
	if file.SetReadDeadline(time.Time{}) != nil {
		return
	}
	for {
		if _, err := b.read(file, func([]byte) {}); err != nil {
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
