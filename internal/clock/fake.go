package clock

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Fake is a clock that stands still until Advance moves it. Timers fire inside
// Advance, in the order of their times, before it returns.
type Fake struct {
	mu      sync.Mutex
	now     time.Time
	waiters map[*waiter]struct{}
	changed chan struct{} // closed and replaced whenever waiters changes
}

// waiter is a pending timer or ticker. Its fields are guarded by Fake.mu.
type waiter struct {
	fake   *Fake
	at     time.Time
	period time.Duration // zero for timers
	c      chan time.Time
}

// NewFake returns a clock that says start, in UTC.
func NewFake(start time.Time) *Fake {
	return &Fake{now: start.UTC(), waiters: map[*waiter]struct{}{}, changed: make(chan struct{})}
}

// Now returns the time Advance has moved to.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// After returns a channel that gets the time once Advance has passed d.
func (f *Fake) After(d time.Duration) <-chan time.Time { return f.NewTimer(d).C() }

// NewTimer returns a timer that Advance fires.
func (f *Fake) NewTimer(d time.Duration) Timer {
	w := &waiter{fake: f, c: make(chan time.Time, 1)}
	w.Reset(d)
	return w
}

// NewTicker returns a ticker that Advance fires; a period that is not positive
// panics, as with time.NewTicker.
func (f *Fake) NewTicker(d time.Duration) Ticker {
	if d <= 0 {
		panic(fmt.Sprintf("clock: ticker with period %v", d))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &waiter{fake: f, at: f.now.Add(d), period: d, c: make(chan time.Time, 1)}
	f.add(w)
	return fakeTicker{w}
}

// Sleep waits until Advance has passed d or ctx ends.
func (f *Fake) Sleep(ctx context.Context, d time.Duration) error { return sleep(ctx, f, d) }

// Advance moves the clock forward by d and fires what falls due. A negative d
// moves it back, as an administrator may, and fires nothing.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	target := f.now.Add(d)
	for w := f.earliest(target); w != nil; w = f.earliest(target) {
		f.now = maxTime(f.now, w.at)
		f.fire(w)
	}
	f.now = target
}

// WaitFor blocks until at least n timers, tickers and sleepers are pending, so
// that a test advances only once its subject waits. It returns ctx's cause
// where that does not happen.
func (f *Fake) WaitFor(ctx context.Context, n int) error {
	for {
		f.mu.Lock()
		pending, changed := len(f.waiters), f.changed
		f.mu.Unlock()
		if pending >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("clock: %d of %d waiters: %w", pending, n, context.Cause(ctx))
		}
	}
}

// earliest returns the waiter that falls due first, up to and including t.
func (f *Fake) earliest(t time.Time) *waiter {
	var first *waiter
	for w := range f.waiters {
		if !w.at.After(t) && (first == nil || w.at.Before(first.at)) {
			first = w
		}
	}
	return first
}

func (f *Fake) fire(w *waiter) {
	select {
	case w.c <- f.now:
	default: // a tick nobody took
	}
	if w.period > 0 {
		w.at = w.at.Add(w.period)
		return
	}
	f.remove(w)
}

func (f *Fake) add(w *waiter) {
	f.waiters[w] = struct{}{}
	f.signal()
}

func (f *Fake) remove(w *waiter) bool {
	_, pending := f.waiters[w]
	delete(f.waiters, w)
	f.signal()
	return pending
}

func (f *Fake) signal() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// C returns the waiter's channel.
func (w *waiter) C() <-chan time.Time { return w.c }

// Stop takes the waiter out and drops a value nobody received.
func (w *waiter) Stop() bool {
	w.fake.mu.Lock()
	defer w.fake.mu.Unlock()
	return w.stop()
}

func (w *waiter) stop() bool {
	pending := w.fake.remove(w)
	select {
	case <-w.c:
	default:
	}
	return pending
}

// Reset makes the waiter fire d from now.
func (w *waiter) Reset(d time.Duration) bool {
	w.fake.mu.Lock()
	defer w.fake.mu.Unlock()
	pending := w.stop()
	w.at = w.fake.now.Add(d)
	if d <= 0 {
		w.c <- w.fake.now
		return pending
	}
	w.fake.add(w)
	return pending
}

type fakeTicker struct{ w *waiter }

func (t fakeTicker) C() <-chan time.Time { return t.w.C() }
func (t fakeTicker) Stop()               { t.w.Stop() }

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
