package process

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
)

// Size is that of a terminal, in characters.
type Size struct {
	Columns, Rows uint16
}

// Resize changes the terminal's size; the foreground processes get SIGWINCH.
// Errors: Conflict when the process has no terminal, or it is closed.
func (p *Process) Resize(size Size) error {
	if p.Spec.Terminal == nil {
		return noTerminal()
	}
	if err := setSize(p.stdio.in, size); err != nil {
		return errs.New(errs.Conflict, "the process's terminal is closed").WithCode("stdin_closed")
	}
	return nil
}

func noTerminal() error {
	return errs.New(errs.Conflict, "the process has no terminal").WithField("pty").
		WithRemedy("start it with a pty")
}

func hasTerminal() error {
	return errs.New(errs.Conflict, "the process has a terminal and no separate standard input").WithField("stdin").
		WithRemedy("write to the pty; its end of input is the byte 4 (Ctrl-D)")
}

// openTerminal makes a terminal of the user u: our end, which is non-blocking,
// and the child's.
func openTerminal(u account.User, size Size) (ours, theirs *os.File, err error) {
	fd, err := openMultiplexer()
	if err != nil {
		return nil, nil, err
	}
	if theirs, err = openPeer(fd, u); err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	// Non-blocking, so that the file has deadlines.
	ours = os.NewFile(uintptr(fd), "terminal")
	if err = setSize(ours, size); err != nil {
		_ = ours.Close()
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

func openMultiplexer() (fd int, err error) {
	for _, path := range []string{"/dev/ptmx", "/dev/pts/ptmx"} {
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == nil {
			return fd, nil
		}
	}
	return -1, os.NewSyscallError("open ptmx", err)
}

// openPeer opens the child's end and gives it to the user, as login programs
// do, so that what runs in it may open it again by its name.
func openPeer(fd int, u account.User) (*os.File, error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, os.NewSyscallError("TIOCSPTLCK", err)
	}
	peer, err := openPeerByNumber(fd)
	if err != nil {
		return nil, os.NewSyscallError("open terminal", err)
	}
	// Where the file system does not know owners, everybody may write to it.
	_ = unix.Fchown(peer, int(u.UID), int(u.GID))
	_ = unix.Fchmod(peer, 0o620)
	return os.NewFile(uintptr(peer), "terminal"), nil
}

// openPeerByNumber opens the child's end from ours, which no path in the
// sandbox can lead astray; kernels before 4.13 only know its name.
func openPeerByNumber(fd int) (int, error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, flags)
	if errno == 0 {
		return int(peer), nil
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return -1, err
	}
	return unix.Open("/dev/pts/"+strconv.Itoa(n), flags, 0)
}

func setSize(file *os.File, size Size) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = conn.Control(func(fd uintptr) {
		failure = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: size.Columns, Row: size.Rows})
	})
	return errors.Join(err, failure)
}
