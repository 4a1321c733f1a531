package gvisor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/gvisor"
)

// TestSuite runs the engine law on real sandboxes.
func TestSuite(t *testing.T) {
	f := newFixture(t)
	enginetest.Exercise(t, func(t *testing.T) enginetest.Subject { return f.subject(t, nil) })
}

// subject returns an engine with the hooks of the suite.
func (f fixture) subject(t *testing.T, network gvisor.Network) enginetest.Subject {
	t.Helper()
	w := &world{f: f, dir: t.TempDir(), network: network}
	w.e = f.open(t, w.dir, network)
	t.Cleanup(func() { w.closeAll(t) })
	return enginetest.Subject{
		Engine:             w.e,
		Image:              f.image,
		Guest:              f.guest,
		Crash:              w.crash,
		Reopen:             w.reopen,
		Leaks:              w.leaks,
		KillSandbox:        w.kill,
		ForeignDescriptors: w.foreign,
		CPUTime:            w.cpuTime,
		Processes:          5000,
	}
}

// world is one state folder and the engine on it.
type world struct {
	f       fixture
	dir     string
	network gvisor.Network
	e       *gvisor.Engine
}

func (w *world) reopen(t *testing.T) engine.Engine {
	t.Helper()
	w.e = w.f.open(t, w.dir, w.network)
	return w.e
}

func (w *world) crash(t *testing.T) engine.Engine {
	t.Helper()
	if err := w.e.Crash(); err != nil {
		t.Fatalf("Crash() = %v", err)
	}
	return w.reopen(t)
}

func (w *world) kill(_ context.Context, id engine.SlotID) error {
	data, err := os.ReadFile(filepath.Join(w.dir, "slots", string(id), "slot.json"))
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(data), `"pid":`)
	digits, _, _ := strings.Cut(rest, ",")
	pid, err := strconv.Atoi(digits)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for { // gone or a zombie
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z") {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

// cpuTime reads the CPU account of a slot's control group.
func (w *world) cpuTime(_ context.Context, id engine.SlotID) (time.Duration, error) {
	return w.e.Group(id).CPUTime()
}
