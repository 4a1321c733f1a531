package membus

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/bus"
	"github.com/lehr-dev/lehr/internal/bus/bustest"
	"github.com/lehr-dev/lehr/internal/clock"
)

func TestBus(t *testing.T) {
	t.Parallel()
	bustest.Exercise(t, func(t *testing.T) bus.Bus {
		b := New()
		t.Cleanup(func() { _ = b.Close() })
		return b
	})
}

func TestWaitsByItsClock(t *testing.T) {
	t.Parallel()
	fake := clock.NewFake(time.Unix(0, 0))
	b := NewWithClock(fake)
	done := make(chan bool)
	go func() {
		_, ok, _ := b.PopBuild(t.Context(), time.Hour)
		done <- ok
	}()
	if err := fake.WaitFor(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	fake.Advance(time.Hour)
	if <-done {
		t.Error("PopBuild() found a wake-up nobody pushed")
	}
}

func TestEndedSubscriptionsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New()
		ctx, cancel := context.WithCancel(t.Context())
		for range 1000 {
			for _, topic := range []bus.Topic{"a", "b", "c"} {
				if _, err := b.Subscribe(ctx, topic); err != nil {
					t.Fatal(err)
				}
			}
		}
		cancel()
		synctest.Wait()
		if left := len(b.topics); left != 0 {
			t.Errorf("%d topics are left", left)
		}
	})
}
