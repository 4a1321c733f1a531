package build

import (
	"context"

	"github.com/lehr-dev/lehr/internal/errs"
)

// WorkerOptions says how a process works on builds.
type WorkerOptions struct {
	Workers int    // concurrent builds; 2 when zero
	Name    string // of this process, for attempts; the host's name and process id when empty
	// Embedded says that no other process works on the store: all attempts of
	// an earlier life are taken back at start.
	Embedded bool
}

// StartWorkers starts the workers, the reaper and the sweeper and returns; they
// end with ctx. wait returns when all have ended: running builds are given back
// and their sandboxes destroyed by then.
func (s *BuildService) StartWorkers(ctx context.Context, o WorkerOptions) (wait func(), err error) {
	return nil, errs.New(errs.Unsupported, "not built yet")
}
