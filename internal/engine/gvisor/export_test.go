package gvisor

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/jail"
)

// Crash lets go of everything as the end of the process would, without
// cleaning up.
func (e *Engine) Crash() error {
	e.mu.Lock()
	e.closed = true
	close(e.closing)
	for _, s := range e.slots {
		s.abandon()
	}
	e.mu.Unlock()
	e.work.Wait()
	return e.releaseFiles()
}

// SentryPID returns the sentry's process, 0 when there is none.
func (e *Engine) SentryPID(id engine.SlotID) int {
	s, err := e.find(id)
	if err != nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.Sentry.PID
}

// Group returns the slot's control group.
func (e *Engine) Group(id engine.SlotID) *jail.Group { return e.groups.Group(string(id)) }

// startListening does what a sentry does with its socket.
func startListening(file *os.File) error { return unix.Listen(int(file.Fd()), 4) }

func gettid() int { return unix.Gettid() }
