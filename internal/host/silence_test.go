package host

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/clock"
)

// A call that waits for a daemon which stands still is given up; one that waits
// for a busy daemon, or a paused sandbox, is not.
func TestCallsOfAStoppedDaemonEnd(t *testing.T) {
	t.Parallel()
	never := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	tests := []struct {
		name    string
		running bool
		health  func(context.Context) error
		given   bool // up
	}{
		{"stopped", true, never, true},
		{"paused", false, never, false},
		{"answers", true, func(context.Context) error { return nil }, false},
		{"answers late", true, func(ctx context.Context) error {
			select {
			case <-time.After(silenceLook - time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := hearing{clock: clock.Real(), running: func() bool { return tt.running }, health: tt.health}
				err := h.run(t.Context(), func(ctx context.Context) error {
					select {
					case <-time.After(time.Hour):
						return nil
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				})
				if got := errors.Is(err, errSilent); got != tt.given || !tt.given && err != nil {
					t.Errorf("run = %v, want it given up: %v", err, tt.given)
				}
			})
		})
	}
}
