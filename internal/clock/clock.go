// Package clock is the one way Lehr reads the time and waits for it, so that
// tests decide what time it is. Real is the machine's clock, Fake one that a
// test moves by hand.
//
// Leases are not counted by this clock but by the database's.
package clock

import (
	"context"
	"time"
)

// Clock tells the time and waits. All methods are safe for concurrent use.
type Clock interface {
	// Now returns the present time. Real's carries a monotonic reading.
	Now() time.Time
	// After returns a channel that gets the time once, d from now.
	After(d time.Duration) <-chan time.Time
	// NewTimer returns a timer that fires once, d from now; at once where d is
	// not positive.
	NewTimer(d time.Duration) Timer
	// NewTicker returns a ticker with period d, which must be positive. A tick
	// nobody took is dropped.
	NewTicker(d time.Duration) Ticker
	// Sleep waits for d or until ctx ends; then it returns ctx's cause.
	Sleep(ctx context.Context, d time.Duration) error
}

// Timer fires once.
type Timer interface {
	// C is the channel that gets the time; it is never closed.
	C() <-chan time.Time
	// Stop keeps the timer from firing and reports whether it did. A value that
	// was not received is dropped, as with time.Timer since Go 1.23.
	Stop() bool
	// Reset makes the timer fire d from now and reports whether it was pending.
	Reset(d time.Duration) bool
}

// Ticker fires again and again.
type Ticker interface {
	// C is the channel that gets the time of each tick; it is never closed.
	C() <-chan time.Time
	// Stop ends the ticks.
	Stop()
}

// Real returns the machine's clock.
func Real() Clock { return realClock{} }

type realClock struct{}

func (realClock) Now() time.Time                         { return time.Now() }
func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
func (realClock) NewTimer(d time.Duration) Timer         { return realTimer{time.NewTimer(d)} }
func (realClock) NewTicker(d time.Duration) Ticker       { return realTicker{time.NewTicker(d)} }

func (c realClock) Sleep(ctx context.Context, d time.Duration) error { return sleep(ctx, c, d) }

type realTimer struct{ t *time.Timer }

func (t realTimer) C() <-chan time.Time        { return t.t.C }
func (t realTimer) Stop() bool                 { return t.t.Stop() }
func (t realTimer) Reset(d time.Duration) bool { return t.t.Reset(d) }

type realTicker struct{ t *time.Ticker }

func (t realTicker) C() <-chan time.Time { return t.t.C }
func (t realTicker) Stop()               { t.t.Stop() }

// sleep is Sleep in terms of a clock's timer.
func sleep(ctx context.Context, c Clock, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d <= 0 {
		return nil
	}
	timer := c.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
