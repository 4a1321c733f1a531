package gvisor

import (
	"time"

	gvisorlog "gvisor.dev/gvisor/pkg/log"
)

// discard is a gVisor log emitter that drops everything.
type discard struct{}

var _ gvisorlog.Emitter = discard{}

// Emit implements gVisor's log.Emitter.
func (discard) Emit(int, gvisorlog.Level, time.Time, string, ...any) {}
