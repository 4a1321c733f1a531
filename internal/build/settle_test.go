package build

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// Nobody stares at a log that says nothing while the base is made.
func TestLogSaysThatTheBaseIsMade(t *testing.T) {
	t.Parallel()
	for took, want := range map[time.Duration]int{0: 0, 30 * time.Second: 1} {
		inWorld(t, func(w *world) {
			w.host().Hook = func(ctx context.Context, method string, _ lehr.SandboxID) error {
				if method != "MakeMinimal" {
					return nil
				}
				time.Sleep(took) // the bubble's time
				return ctx.Err()
			}
			w.work(w.svc, WorkerOptions{Embedded: true})
			b := w.create(w.request("RUN work"))
			said := 0
			for batch, err := range w.svc.Logs(w.ctx(), LogQuery{TeamID: w.team, BuildID: b.ID, Follow: true}) {
				if err != nil {
					t.Fatalf("Logs() = %v", err)
				}
				for _, l := range batch {
					if strings.HasPrefix(l.Text, "making the base minimal") {
						said++
					}
				}
			}
			if said != want {
				t.Errorf("with a base made in %s the log says so %d times, want %d", took, said, want)
			}
		})
	}
}
