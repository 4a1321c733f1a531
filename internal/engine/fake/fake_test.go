package fake_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/fake"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestSuite(t *testing.T) {
	t.Parallel()
	enginetest.Exercise(t, func(t *testing.T) enginetest.Subject { return newSubject(t, fake.NewWorld(fake.Options{})) })
}

func newSubject(t *testing.T, w *fake.World) enginetest.Subject {
	t.Helper()
	reopen := func(*testing.T) engine.Engine { return w.Open() }
	return enginetest.Subject{
		Engine: w.Open(), Image: newImage(t), Crash: reopen, Reopen: reopen,
		Leaks:       func(context.Context) ([]string, error) { return w.Belongings(), nil },
		KillSandbox: func(_ context.Context, slot engine.SlotID) error { w.Lose(slot); return nil },
		CPUTime: func(_ context.Context, slot engine.SlotID) (time.Duration, error) {
			return w.Machine(slot).CPU(), nil
		},
		Processes: fake.MaxProcesses + 1,
	}
}

// newImage returns the suite's tree in the fake's format: the tar itself.
func newImage(t *testing.T) engine.Rootfs {
	t.Helper()
	b := enginetest.RootTar()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return engine.Rootfs{Path: path, Digest: lehr.DigestOf(b)}
}
