package solo

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// Waits before the agent is started again after it ended by itself.
const (
	firstRestart = 100 * time.Millisecond
	lastRestart  = 5 * time.Second
	steadyTime   = 2 * time.Second // a life this long was not a failed start
)

// supervisor keeps one agent process alive. It is used by one goroutine.
type supervisor struct {
	args     []string
	log      *slog.Logger
	stopTime time.Duration // after SIGTERM, before SIGKILL
}

// run starts the agent, again whenever it ends, until ctx ends; then it asks
// the agent to end and waits for it.
func (s *supervisor) run(ctx context.Context) error {
	wait := firstRestart
	for {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > steadyTime {
			wait = firstRestart
		}
		s.log.Error("the agent ended, it is started again", "error", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRestart)
	}
}

// once is one life of the agent. The agent holds the reading end of a pipe,
// whose writing end only this process has: however this process ends, the agent
// sees the pipe close and ends too.
func (s *supervisor) once(ctx context.Context) error {
	life, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd := exec.CommandContext(ctx, s.args[0], append(slices.Clone(s.args[1:]), "--life-fd", "3")...)
	cmd.ExtraFiles = []*os.File{life}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	// A group of its own: Ctrl-C at the terminal is for us, and we tell the agent.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = s.stopTime
	err = cmd.Start()
	_ = life.Close() // ours only as long as the child needed it
	if err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	return errors.New("it exited with code 0")
}
