package clock_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/clock"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestFakeFiresInOrder(t *testing.T) {
	t.Parallel()
	fake := clock.NewFake(start)
	late, early := fake.After(2*time.Second), fake.NewTimer(time.Second)
	fake.Advance(3 * time.Second)
	if got, want := <-early.C(), start.Add(time.Second); !got.Equal(want) {
		t.Errorf("early timer fired at %v, want %v", got, want)
	}
	if got, want := <-late, start.Add(2*time.Second); !got.Equal(want) {
		t.Errorf("late timer fired at %v, want %v", got, want)
	}
	if got, want := fake.Now(), start.Add(3*time.Second); !got.Equal(want) {
		t.Errorf("Now() = %v, want %v", got, want)
	}
}

func TestFakeStopAndReset(t *testing.T) {
	t.Parallel()
	fake := clock.NewFake(start)
	timer := fake.NewTimer(time.Second)
	if !timer.Stop() || timer.Stop() {
		t.Error("Stop() must be true for a pending timer, then false")
	}
	if timer.Reset(time.Minute) {
		t.Error("Reset() of a stopped timer = true, want false")
	}
	fake.Advance(59 * time.Second)
	if len(timer.C()) != 0 {
		t.Error("timer fired early")
	}
	fake.Advance(time.Second)
	if timer.Stop() {
		t.Error("Stop() of a fired timer = true, want false")
	}
	if len(timer.C()) != 0 {
		t.Error("Stop() left the value of the fired timer")
	}
	timer.Reset(-time.Second)
	if len(timer.C()) != 1 {
		t.Error("a timer in the past did not fire at once")
	}
}

func TestFakeTicker(t *testing.T) {
	t.Parallel()
	fake := clock.NewFake(start)
	ticker := fake.NewTicker(time.Second)
	for i := 1; i <= 3; i++ {
		fake.Advance(time.Second)
		if got, want := <-ticker.C(), start.Add(time.Duration(i)*time.Second); !got.Equal(want) {
			t.Errorf("tick %d at %v, want %v", i, got, want)
		}
	}
	fake.Advance(10 * time.Second)
	if got := len(ticker.C()); got != 1 {
		t.Errorf("%d ticks are kept, want 1", got)
	}
	ticker.Stop()
	fake.Advance(time.Second)
	if len(ticker.C()) != 0 {
		t.Error("a stopped ticker ticks")
	}
}

func TestSleep(t *testing.T) {
	t.Parallel()
	fake := clock.NewFake(start)
	done := make(chan error, 1)
	go func() { done <- fake.Sleep(t.Context(), time.Hour) }()
	if err := fake.WaitFor(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	fake.Advance(time.Hour)
	if err := <-done; err != nil {
		t.Errorf("Sleep() = %v, want nil", err)
	}
	for name, c := range map[string]clock.Clock{"fake": fake, "real": clock.Real()} {
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := c.Sleep(ctx, time.Hour); !errors.Is(err, cause) {
			t.Errorf("%s: Sleep(cancelled) = %v, want %v", name, err, cause)
		}
		if err := c.Sleep(t.Context(), 0); err != nil {
			t.Errorf("%s: Sleep(0) = %v, want nil", name, err)
		}
	}
}

func TestReal(t *testing.T) {
	t.Parallel()
	c := clock.Real()
	if before := c.Now(); c.Now().Before(before) {
		t.Error("Now() went back")
	}
	if err := c.Sleep(t.Context(), time.Microsecond); err != nil {
		t.Errorf("Sleep() = %v, want nil", err)
	}
	<-c.After(time.Microsecond)
	timer := c.NewTimer(time.Hour)
	if !timer.Reset(time.Microsecond) {
		t.Error("Reset() of a pending timer = false, want true")
	}
	<-timer.C()
	ticker := c.NewTicker(time.Microsecond)
	<-ticker.C()
	<-ticker.C()
	ticker.Stop()
}

func TestWaitForGivesUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := clock.NewFake(start).WaitFor(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("WaitFor() = %v, want %v", err, context.Canceled)
	}
}
