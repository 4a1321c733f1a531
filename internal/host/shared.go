package host

import (
	"context"
	"sync"
)

// shared lets concurrent calls share one run of the same work. The work goes on
// while the host lives, whoever stops waiting for it.
type shared[T any] struct {
	mu      sync.Mutex
	running *run[T]
}

// run is one run of the work.
type run[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// do returns the outcome of work, joining a run that is under way. start runs a
// function in the background, or returns false when that is too late.
func (s *shared[T]) do(ctx context.Context, start func(func()) bool, work func() (T, error)) (T, error) {
	var none T
	s.mu.Lock()
	r := s.running
	if r == nil {
		r = &run[T]{done: make(chan struct{})}
		if !start(func() { s.finish(r, work) }) {
			s.mu.Unlock()
			return none, errClosed
		}
		s.running = r
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

func (s *shared[T]) finish(r *run[T], work func() (T, error)) {
	r.value, r.err = work()
	s.mu.Lock()
	s.running = nil
	s.mu.Unlock()
	close(r.done)
}
