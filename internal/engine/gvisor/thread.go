package gvisor

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on a thread of its own that is never the process's main one:
// what the main thread is in (namespaces, control groups) counts for the whole
// process in many places. f returns, besides its result, whether the thread is
// back in the state it was found in; if not, the thread ends with its goroutine.
func onThread(f func() (clean bool, err error)) error {
	done := make(chan error, 1)
	go runOnThread(f, done)
	return <-done
}

func runOnThread(f func() (bool, error), done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// Hold the main thread until another one has done the work.
		defer runtime.UnlockOSThread()
		inner := make(chan error, 1)
		go runOnThread(f, inner)
		done <- <-inner
		return
	}
	clean, err := f()
	if clean {
		runtime.UnlockOSThread()
	}
	done <- err
}

// enterNetwork moves the calling thread, which must be locked, into the network
// namespace at path, and returns how to move it back.
func enterNetwork(path string) (leave func() error, err error) {
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(err, before.Close())
	}
	defer func() { _ = ns.Close() }()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, errors.Join(os.NewSyscallError("setns", err), before.Close())
	}
	return func() error {
		err := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET)
		return errors.Join(err, before.Close())
	}, nil
}
