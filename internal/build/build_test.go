package build

import (
	"slices"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestBuildPublishesABaseVersion(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = shell(map[string]agenttest.Script{"echo hi": exits(0, "hi\n", "")})
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.build(w.request("ENV A=1", "RUN echo hi", "WORKDIR /app"))
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if b.Artifact == nil || b.Artifact.Type != lehr.TypeBase || b.Artifact.ImageDigest == "" {
			t.Fatalf("artifact = %+v, want a base image", b.Artifact)
		}
		if got := len(b.Steps); got != 3 || b.CurrentStep != 3 || b.TotalSteps != 3 {
			t.Errorf("%d steps, at %d of %d, want 3 of each", got, b.CurrentStep, b.TotalSteps)
		}
		v, err := w.store.Templates().Version(w.ctx(), b.Artifact.Version)
		if err != nil || v.Config.Workdir != "/app" || !slices.Contains(v.Config.Env, lehr.EnvVar{Name: "A", Value: "1"}) {
			t.Errorf("version's config = %+v, %v, want A=1 and /app", v.Config, err)
		}
		if lines := w.lines(b.ID); !slices.Contains(lines, "stdout: hi") || !strings.HasPrefix(lines[0], "system: attempt 1 begins") {
			t.Errorf("log = %q, want the begin of the attempt first, and hi", lines)
		}
		w.wantGapless(b.ID)
		w.wantNothingLeft()
	})
}
