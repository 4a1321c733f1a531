package initd

import (
	"os"
	"os/signal"
	"syscall"
)

// KeepAlive makes the daemon deaf to the signals that would end it, and returns
// a function that undoes this. They are caught rather than ignored: ignoring is
// inherited by the commands it starts. SIGKILL cannot be caught; only root in
// the sandbox can send it, and ends the sandbox with it.
func KeepAlive() (stop func()) {
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped,
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGTERM,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE, syscall.SIGALRM, syscall.SIGVTALRM,
		syscall.SIGPROF, syscall.SIGIO, syscall.SIGPWR, syscall.SIGTSTP, syscall.SIGTTIN,
		syscall.SIGTTOU, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGTRAP, syscall.SIGSYS,
		syscall.SIGSTKFLT, syscall.SIGWINCH)
	return func() { signal.Stop(dropped) }
}
