package hostnet

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace made by this process.
type namespace struct {
	file   *os.File        // keeps the namespace alive
	handle *netlink.Handle // a netlink socket inside it
}

// newNamespace makes an empty network namespace without IPv6.
//
// The work is done on a locked thread that is not the process's main thread:
// gVisor takes /proc/self/ns/net, the main thread's, for the namespace to
// return to. The thread goes back before it is unlocked; where it cannot it is
// never unlocked, and the runtime throws it away.
func newNamespace() (ns *namespace, err error) {
	offMainThread(func() (back bool) {
		ns, back, err = unshareThread()
		return back
	})
	return ns, err
}

// offMainThread runs fn on a locked thread that is not the process's main one,
// and waits for it. The thread is used again only where fn returns true.
func offMainThread(fn func() (reusable bool)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			offMainThread(fn) // this goroutine occupies the main thread, the next runs elsewhere
			runtime.UnlockOSThread()
			return
		}
		if fn() {
			runtime.UnlockOSThread()
		}
	}()
	<-done
}

// unshareThread makes a namespace on the calling, locked thread and reports
// whether the thread is back where it was.
func unshareThread() (ns *namespace, back bool, err error) {
	home, err := openThreadNamespace()
	if err != nil {
		return nil, true, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, true, fmt.Errorf("unshare: %w", err)
	}
	ns, err = describeThreadNamespace()
	if backErr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); backErr != nil {
		if ns != nil {
			ns.close()
		}
		return nil, false, fmt.Errorf("go back to the host's namespace: %w", backErr)
	}
	return ns, true, err
}

// describeThreadNamespace prepares the calling thread's fresh namespace and
// opens what is needed of it.
func describeThreadNamespace() (*namespace, error) {
	for _, conf := range []string{"all", "default"} {
		if err := writeSysctl("net/ipv6/conf/"+conf+"/disable_ipv6", "1"); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	file, err := openThreadNamespace()
	if err != nil {
		return nil, err
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &namespace{file: file, handle: handle}, nil
}

// path returns where another process finds the namespace while this one lives.
func (ns *namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd())
}

// close lets go of the namespace.
func (ns *namespace) close() {
	ns.handle.Close()
	ns.file.Close()
}

// openThreadNamespace opens the calling thread's network namespace.
func openThreadNamespace() (*os.File, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the thread's network namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), "netns"), nil
}

// writeSysctl sets one value under /proc/sys, in the calling thread's network
// namespace.
func writeSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}
