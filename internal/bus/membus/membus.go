// Package membus is the bus of a control plane that is alone: signals stay
// inside the process.
package membus

import (
	"context"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/bus"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// maxWakeUps is how many wake-ups wait for workers; more are dropped, since
// that many workers find the queue by themselves.
const maxWakeUps = 1024

// Bus implements bus.Bus. It is safe for concurrent use.
type Bus struct {
	clock   clock.Clock
	wakeUps chan lehr.BuildID
	closed  chan struct{}

	mu     sync.Mutex
	topics map[bus.Topic]map[*subscription]struct{} // nil once closed; no topic is empty
}

// subscription is one Subscribe; tokens holds at most one.
type subscription struct {
	tokens chan struct{}
	forget func() bool // takes the wait for the end of its context back
}

var _ bus.Bus = (*Bus)(nil)

// New returns a bus that waits by the machine's clock.
func New() *Bus { return NewWithClock(clock.Real()) }

// NewWithClock returns a bus whose PopBuild waits by c.
func NewWithClock(c clock.Clock) *Bus {
	return &Bus{
		clock:   c,
		wakeUps: make(chan lehr.BuildID, maxWakeUps),
		closed:  make(chan struct{}),
		topics:  map[bus.Topic]map[*subscription]struct{}{},
	}
}

// PushBuild implements bus.Bus. It never waits.
func (b *Bus) PushBuild(ctx context.Context, id lehr.BuildID) error {
	if err := b.usable(ctx, "bus.PushBuild"); err != nil {
		return err
	}
	select {
	case b.wakeUps <- id:
	default:
	}
	return nil
}

// PopBuild implements bus.Bus.
func (b *Bus) PopBuild(ctx context.Context, wait time.Duration) (lehr.BuildID, bool, error) {
	const op = "bus.PopBuild"
	if err := b.usable(ctx, op); err != nil {
		return "", false, err
	}
	select {
	case id := <-b.wakeUps:
		return id, true, nil
	default:
	}
	timer := b.clock.NewTimer(wait)
	defer timer.Stop()
	select {
	case id := <-b.wakeUps:
		return id, true, nil
	case <-timer.C():
		return "", false, nil
	case <-ctx.Done():
	case <-b.closed:
	}
	return "", false, b.usable(ctx, op)
}

// Publish implements bus.Bus. It never waits.
func (b *Bus) Publish(ctx context.Context, topic bus.Topic) error {
	if err := b.usable(ctx, "bus.Publish"); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.topics[topic] {
		select {
		case s.tokens <- struct{}{}:
		default: // the token nobody took yet stands for this one too
		}
	}
	return nil
}

// Subscribe implements bus.Bus.
func (b *Bus) Subscribe(ctx context.Context, topic bus.Topic) (<-chan struct{}, error) {
	const op = "bus.Subscribe"
	if err := b.usable(ctx, op); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics == nil {
		return nil, closedError(op)
	}
	s := &subscription{tokens: make(chan struct{}, 1)}
	if b.topics[topic] == nil {
		b.topics[topic] = map[*subscription]struct{}{}
	}
	b.topics[topic][s] = struct{}{}
	s.forget = context.AfterFunc(ctx, func() { b.unsubscribe(topic, s) })
	return s.tokens, nil
}

func (b *Bus) unsubscribe(topic bus.Topic, s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.topics[topic], s)
	if len(b.topics[topic]) == 0 {
		delete(b.topics, topic)
	}
}

// Close implements bus.Bus. It may be called twice; who waits in PopBuild gets
// Unavailable.
func (b *Bus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics == nil {
		return nil
	}
	close(b.closed)
	for _, subscriptions := range b.topics {
		for s := range subscriptions {
			s.forget()
		}
	}
	b.topics = nil
	return nil
}

// usable tells why op cannot be done: the bus is closed or ctx has ended.
func (b *Bus) usable(ctx context.Context, op string) error {
	select {
	case <-b.closed:
		return closedError(op)
	default:
	}
	if ctx.Err() != nil {
		return errs.Wrap(context.Cause(ctx), errs.KindOf(ctx.Err()), op, "the caller left")
	}
	return nil
}

func closedError(op string) error {
	return errs.New(errs.Unavailable, "the bus is closed").WithOp(op)
}
