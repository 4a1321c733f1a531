package hostrpc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What flows through a tunnel is cut into frames, each after its length in four
// bytes, big-endian. A frame of length 0 is the clean end of its direction. A
// connection that ends without one was broken off: callers must not take half
// an answer for the whole.
const (
	frameHeader = 4
	frameBytes  = 32 << 10 // how much is copied at once, in each direction
	maxFrame    = 1 << 20  // more is nonsense
)

// errBroken is the end of a connection that was broken off.
var errBroken = &net.OpError{Op: "read", Net: "tunnel", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

// frameReader reads what the frames carry; io.EOF is the clean end.
type frameReader struct {
	from  *bufio.Reader
	left  int // of the present frame
	ended bool
}

// Read implements io.Reader. After an error that is a time limit reading goes on
// where it was.
func (f *frameReader) Read(p []byte) (int, error) {
	if f.ended {
		return 0, io.EOF
	}
	if f.left == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	n, err := f.from.Read(p[:min(len(p), f.left)])
	f.left -= n
	if errors.Is(err, io.EOF) {
		err = errBroken
	}
	return n, err
}

// next reads the header of the next frame.
func (f *frameReader) next() error {
	h, err := f.from.Peek(frameHeader) // keeps what is there on errors
	if errors.Is(err, io.EOF) {
		return errBroken
	}
	if err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(h)
	_, _ = f.from.Discard(frameHeader) // it is there
	switch {
	case n == 0:
		f.ended = true
		return io.EOF
	case n > maxFrame:
		return errBroken
	}
	f.left = int(n)
	return nil
}

// putLength writes a frame's length in front of it.
func putLength(frame []byte, n int) []byte {
	binary.BigEndian.PutUint32(frame, uint32(n))
	return frame[:frameHeader+n]
}

// tunnel copies between a caller and a port of a sandbox, one goroutine each
// way. It ends when the caller hangs up or anything breaks; a clean end of one
// direction is passed on as such and leaves the other as it is.
type tunnel struct {
	outer  net.Conn      // to the caller
	from   *bufio.Reader // what the caller sends
	inner  net.Conn      // into the sandbox
	linger time.Duration
	once   sync.Once
}

// run copies until the tunnel has ended.
func (t *tunnel) run() {
	var ways sync.WaitGroup
	ways.Go(func() {
		t.inward()
		t.breakOff()
	})
	ways.Go(func() {
		if !t.outward() {
			t.breakOff()
		}
	})
	ways.Wait()
}

// breakOff closes both ends at once.
func (t *tunnel) breakOff() {
	t.once.Do(func() {
		_ = t.inner.Close()
		_ = t.outer.Close()
	})
}

// outward copies from the sandbox to the caller until the sandbox's clean end;
// false when it broke.
func (t *tunnel) outward() bool {
	buf := make([]byte, frameHeader+frameBytes)
	for {
		n, err := t.inner.Read(buf[frameHeader:])
		if n > 0 {
			if _, werr := t.outer.Write(putLength(buf, n)); werr != nil {
				return false
			}
		}
		if errors.Is(err, io.EOF) {
			_, err = t.outer.Write(putLength(buf, 0))
			return err == nil
		}
		if err != nil {
			return false
		}
	}
}

// inward copies from the caller to the sandbox until the caller hangs up. When
// the sandbox takes no more, what else comes is thrown away: what the sandbox
// still says shall reach the caller, and the other direction ends by itself.
func (t *tunnel) inward() {
	frames := &frameReader{from: t.from}
	buf := make([]byte, frameBytes)
	for taken := true; ; {
		n, err := frames.Read(buf)
		if n > 0 && taken {
			var gone bool
			if taken, gone = t.give(buf[:n]); gone {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return
		}
	}
	if half, ok := t.inner.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // a sandbox that is gone ends the other direction
	}
	_, _ = t.from.ReadByte() // nothing may come any more but the end
}

// give writes b into the sandbox, however long that takes while the caller is
// there. taken is false when the sandbox takes nothing any more; gone says that
// the caller has hung up and the sandbox does not take what it left.
func (t *tunnel) give(b []byte) (taken, gone bool) {
	for {
		if err := t.inner.SetWriteDeadline(time.Now().Add(t.linger)); err != nil {
			return false, false
		}
		n, err := t.inner.Write(b)
		b = b[n:]
		switch {
		case err == nil:
			return true, false
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return false, false
		case hungUp(t.outer): // however slowly the sandbox takes it
			return false, true
		}
	}
}

// hungUp reports whether the peer has closed a connection on which nobody
// half-closes.
func hungUp(conn net.Conn) bool {
	handle, ok := conn.(syscall.Conn)
	if !ok {
		return false // its end shows when it is read
	}
	raw, err := handle.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil
}
