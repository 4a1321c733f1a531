package metrics_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/metrics"
	"github.com/lehr-dev/lehr/internal/store"
)

type counted struct{}

func (counted) Census(context.Context) (store.Census, error) {
	return store.Census{
		Builds:    map[lehr.BuildStatus]int64{lehr.BuildRunning: 2},
		Sandboxes: map[lehr.SandboxState]int64{lehr.SandboxRunning: 3},
	}, nil
}

func TestFigures(t *testing.T) {
	t.Parallel()
	m := metrics.New()
	m.CountAlive(counted{})
	m.Held("host-1", agent.Info{Disk: agent.Disk{TotalBytes: 100, FreeBytes: 40}, Pool: agent.Pool{Ready: 5, Size: 6}}, []agent.Artifact{
		{Digest: "a", Bytes: 10, Kind: agent.KindImage},
		{Digest: "b", Bytes: 5, Kind: agent.KindImage},
		{Digest: "c", Bytes: 7, Kind: agent.KindSnapshot},
		{Digest: "d", Bytes: 3, Kind: agent.KindImage, Cached: true},
	})
	m.Freed("host-1", agent.Artifact{Bytes: 11, Kind: agent.KindSnapshot})
	host := m.WithCalls(agenttest.NewHost())
	if _, err := host.CreateSandbox(t.Context(), agent.CreateSandbox{ID: lehr.NewSandboxID(), Image: "none"}); err == nil {
		t.Error("CreateSandbox(an image that is not there) = nil, want the host's error")
	}
	res := httptest.NewRecorder()
	m.Handler().ServeHTTP(res, httptest.NewRequest("GET", "/metrics", nil))
	body := res.Body.String()
	for _, want := range []string{
		`lehr_artifact_bytes{host="host-1",kind="image"} 15`, `lehr_artifact_bytes{host="host-1",kind="snapshot"} 7`,
		`lehr_artifact_bytes{host="host-1",kind="cached"} 3`, `lehr_artifacts{host="host-1",kind="image"} 2`,
		`lehr_host_disk_bytes{host="host-1",what="free"} 40`, `lehr_pool_slots{host="host-1",what="ready"} 5`,
		`lehr_collected_artifacts_total{kind="snapshot"} 1`, `lehr_collected_bytes_total{kind="snapshot"} 11`,
		`lehr_builds{state="running"} 2`, `lehr_builds{state="pending"} 0`, `lehr_sandboxes{state="running"} 3`,
		`lehr_host_call_seconds_count{call="create",outcome="error"} 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("/metrics lacks %q", want)
		}
	}
}
