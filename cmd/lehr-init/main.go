// Command lehr-init is the first process of every sandbox: it serves the guest
// protocol on port 49983, starts commands and buries the dead. It takes no
// arguments; LEHR_OPERATOR_SHA256 names its operator.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/lehr-dev/lehr/internal/guest/account"
	"github.com/lehr-dev/lehr/internal/guest/guestd"
	"github.com/lehr-dev/lehr/internal/guest/initd"
	"github.com/lehr-dev/lehr/internal/guest/process"
	"github.com/lehr-dev/lehr/internal/guest/wire"
	"github.com/lehr-dev/lehr/internal/program"
)

// memoryLimit is where the collector starts to work harder, in bytes. It is no
// cap, and well above what the daemon needs: a tight one slows restores.
const memoryLimit = 64 << 20

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("the guest daemon has ended", "error", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	debug.SetMemoryLimit(memoryLimit)
	syscall.Umask(0o022)
	if err := os.Chdir("/"); err != nil {
		return err
	}
	defer initd.KeepAlive()()
	secret := initd.OpenSecret(wire.EnvOperatorSHA256, os.Getenv(wire.EnvOperatorSHA256), "")
	defer secret.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reaper := initd.NewReaper()
	reaped := make(chan struct{})
	go func() { defer close(reaped); reaper.Run(ctx) }()
	processes := process.NewSupervisor(reaper)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("0.0.0.0", strconv.Itoa(wire.Port)))
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	server := guestd.New(guestd.Options{
		Version: program.Version(), Processes: processes, System: initd.NewHost(),
		Secret: secret, Users: account.NewDatabase("/etc/passwd", "/etc/group"), Log: log,
	})
	err = server.Serve(ctx, listener)
	closing, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer done()
	_ = processes.Close(closing)
	cancel()
	<-reaped
	return err
}
