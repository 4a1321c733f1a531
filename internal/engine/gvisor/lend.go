package gvisor

import (
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
)

// lendMemory raises the sandbox's memory limit for the time in which the sentry
// makes a tar: it holds each file whole in its own heap, and a file may be as
// large as the disk. The caller holds op and calls takeMemoryBack.
func (s *slot) lendMemory() error {
	s.lent.Lock()
	defer s.lent.Unlock()
	r := s.rec.Resources
	if err := s.group.SetMemory(groupLimits(r).MemoryBytes + int64(r.DiskMB)<<20); err != nil {
		return err
	}
	s.lending = true
	return nil
}

// takeMemoryBack lowers the limit again in the background: that waits for the
// sentry's collector to give the memory back, and for the host to write the
// sandbox's dirty pages. The caller is counted in e.work.
func (s *slot) takeMemoryBack() {
	s.lent.Lock()
	s.lending = false
	s.lent.Unlock()
	s.e.work.Add(1)
	go s.keepLowering()
}

// keepLowering tries until the limit is the sandbox's own again, or lent again,
// or nobody is left to limit.
func (s *slot) keepLowering() {
	defer s.e.work.Done()
	const again = 500 * time.Millisecond
	tick := time.NewTicker(again)
	defer tick.Stop()
	for !s.lowerMemory() {
		select {
		case <-s.ended:
			return
		case <-s.e.closing:
			return
		case <-tick.C:
		}
	}
}

// lowerMemory reports whether there is nothing more to try.
func (s *slot) lowerMemory() bool {
	s.lent.Lock()
	defer s.lent.Unlock()
	if s.lending {
		return true
	}
	err := s.group.SetMemory(groupLimits(s.rec.Resources).MemoryBytes)
	if errs.IsKind(err, errs.Exhausted) {
		return false
	}
	if err != nil && !s.isDown() {
		s.e.log.Error("the memory limit of a sandbox cannot be lowered again", "slot", s.id, "error", err)
	}
	return true
}
