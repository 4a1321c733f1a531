package account

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// keep leaves an id as it is in setresuid and setresgid.
const keep = ^uintptr(0)

// Do runs f with the user's rights: every path f opens, makes or removes is
// resolved and checked by the kernel as this user, and what f creates belongs
// to it. f must do its system calls on the calling goroutine and should only
// open things; reading and writing can follow outside.
//
// Linux keeps credentials per thread. The goroutine is pinned to its thread,
// the thread's effective ids and groups are switched with raw calls (the
// library's own would switch every thread) and switched back. Real and saved
// ids stay root's, so the user can neither signal nor trace the thread. A
// thread that cannot be switched back is never used again: it ends with the
// goroutine, and Do returns an error.
//
// setfsuid would say the same in fewer words, but gVisor does not have it.
func (u User) Do(f func() error) error {
	if u.UID == 0 && u.GID == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- u.onThread(f) }()
	return <-done
}

// onThread runs on a goroutine of its own, so that leaving without unlocking
// ends the thread and nothing else.
func (u User) onThread(f func() error) error {
	runtime.LockOSThread()
	before, err := unix.Getgroups()
	if err != nil {
		return errs.Wrap(err, errs.Internal, "account.Do", "reading the daemon's groups")
	}
	if err := u.assume(); err != nil {
		return errs.Wrap(err, errs.Internal, "account.Do", "taking the user's rights")
	}
	result := f()
	if err := restore(before); err != nil {
		return errs.Wrap(err, errs.Internal, "account.Do", "giving the user's rights back")
	}
	runtime.UnlockOSThread()
	return result
}

func (u User) assume() error {
	if err := setgroups(u.Groups); err != nil {
		return err
	}
	if err := setres(unix.SYS_SETRESGID, uintptr(u.GID)); err != nil {
		return err
	}
	return setres(unix.SYS_SETRESUID, uintptr(u.UID))
}

func restore(groups []int) error {
	if err := setres(unix.SYS_SETRESUID, 0); err != nil {
		return err
	}
	if err := setres(unix.SYS_SETRESGID, 0); err != nil {
		return err
	}
	list := make([]uint32, len(groups))
	for i, g := range groups {
		list[i] = uint32(g)
	}
	return setgroups(list)
}

// setres changes the effective id of this thread.
func setres(call, id uintptr) error {
	if _, _, errno := unix.RawSyscall(call, keep, id, keep); errno != 0 {
		return errno
	}
	return nil
}

func setgroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return errno
	}
	return nil
}
