package host

import (
	"context"
	"log/slog"
	"sync"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Pool says which slots a host keeps ready, so that a sandbox of that shape
// starts without waiting for its isolation. The zero Pool keeps none.
type Pool struct {
	Size      int            // slots for booting
	Restore   int            // slots for restoring
	Resources lehr.Resources // their shape
}

// pool keeps slots ready. One goroutine fills it, one slot at a time; takers
// that find none prepare their own.
type pool struct {
	engine engine.Engine
	want   Pool
	log    *slog.Logger
	low    chan struct{} // capacity 1: the filler looks again
	done   chan struct{} // closed when the filler has ended

	mu    sync.Mutex
	ready map[engine.Kind][]engine.SlotID
}

// newPool returns a pool that is filled until life ends. Slots that are left
// then are the engine's to remove: Close destroys what was never started.
func newPool(life context.Context, e engine.Engine, want Pool, log *slog.Logger) *pool {
	p := &pool{
		engine: e, want: want, log: log, low: make(chan struct{}, 1), done: make(chan struct{}),
		ready: map[engine.Kind][]engine.SlotID{},
	}
	go p.fill(life)
	return p
}

// wait waits for the filler, which ends with its context.
func (p *pool) wait() { <-p.done }

// take returns a slot of that shape, a ready one if there is one.
func (p *pool) take(ctx context.Context, kind engine.Kind, r lehr.Resources) (engine.SlotID, error) {
	if slot, ok := p.pop(kind, r); ok {
		return slot, nil
	}
	return p.engine.Prepare(ctx, engine.PrepareSpec{Kind: kind, Resources: r})
}

func (p *pool) pop(kind engine.Kind, r lehr.Resources) (engine.SlotID, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ready := p.ready[kind]
	if r != p.want.Resources || len(ready) == 0 {
		return "", false
	}
	p.ready[kind] = ready[1:]
	select {
	case p.low <- struct{}{}:
	default:
	}
	return ready[0], true
}

// state is how full the pool is. A nil pool is one that is not there yet.
func (p *pool) state() agent.Pool {
	if p == nil {
		return agent.Pool{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	ready := 0
	for _, slots := range p.ready {
		ready += len(slots)
	}
	return agent.Pool{Ready: int32(ready), Size: int32(p.want.Size + p.want.Restore)}
}

// fill keeps the pool full until ctx ends. After a failure it waits for the
// next taker instead of trying for ever.
func (p *pool) fill(ctx context.Context) {
	defer close(p.done)
	for {
		for kind, ok := p.missing(); ok; kind, ok = p.missing() {
			slot, err := p.engine.Prepare(ctx, engine.PrepareSpec{Kind: kind, Resources: p.want.Resources})
			if err != nil {
				if ctx.Err() == nil && errs.KindOf(err) != errs.Exhausted {
					p.log.Warn("a slot could not be prepared ahead", "kind", kind, "error", err)
				}
				break
			}
			p.mu.Lock()
			p.ready[kind] = append(p.ready[kind], slot)
			p.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-p.low:
		}
	}
}

// missing returns a kind of which there are too few.
func (p *pool) missing() (engine.Kind, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.ready[engine.KindBoot]) < p.want.Size:
		return engine.KindBoot, true
	case len(p.ready[engine.KindRestore]) < p.want.Restore:
		return engine.KindRestore, true
	}
	return "", false
}
