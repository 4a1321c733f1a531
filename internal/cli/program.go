package cli

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/program"
)

// Program is the whole process: it runs the command line it was started with
// and returns its exit code.
func Program() int {
	if err := program.KeepDescriptors(); err != nil {
		fmt.Fprintln(os.Stderr, "lehr: inherited descriptors cannot be kept back:", err)
		return ExitPlatform
	}
	if err := failpoint.Install(os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "lehr:", err)
		return ExitUsage
	}
	ctx, stop := program.Context(false)
	defer stop()
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	// Taken, so that a write to a reader that is gone fails, and what the
	// command holds is given back, where the signal would end the process.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	defer signal.Stop(pipes)
	return Main(ctx, Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, LookupEnv: os.LookupEnv, Signals: interrupts,
	})
}
