package initd

import (
	"context"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Sync writes out the sandbox's file systems.
func (h *Host) Sync() { unix.Sync() }

// EndProcesses kills every process of the sandbox but the daemon and returns
// when they are gone. Errors: Conflict when the daemon is not process 1 and
// would kill what is not the sandbox's; the cause of ctx.
func (h *Host) EndProcesses(ctx context.Context) error {
	if os.Getpid() != 1 {
		return errs.New(errs.Conflict, "the guest daemon is not process 1 here")
	}
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		// From process 1, -1 is everybody else; none left is an error.
		if err := syscall.Kill(-1, syscall.SIGKILL); err == syscall.ESRCH {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
