package metrics

import (
	"context"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func newCalls() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "lehr_host_call_seconds", Help: "How long hosts took to create sandboxes and to make artifacts.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 14), // 5 ms to 41 s
	}, []string{"call", "outcome"})
}

// timed measures the calls of an agent that make something.
type timed struct {
	agent.Agent
	calls *prometheus.HistogramVec
}

// WithCalls measures what inner does.
func (m *Metrics) WithCalls(inner agent.Agent) agent.Agent { return timed{inner, m.calls} }

func (t timed) observe(call string, began time.Time, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	t.calls.WithLabelValues(call, outcome).Observe(time.Since(began).Seconds())
}

// CreateSandbox implements agent.Sandboxes.
func (t timed) CreateSandbox(ctx context.Context, r agent.CreateSandbox) (agent.Sandbox, error) {
	began := time.Now()
	box, err := t.Agent.CreateSandbox(ctx, r)
	call := "create"
	if r.Snapshot != "" {
		call = "restore"
	}
	t.observe(call, began, err)
	return box, err
}

// FlattenRootfs implements agent.Artifacts.
func (t timed) FlattenRootfs(ctx context.Context, id lehr.SandboxID) (agent.Image, error) {
	began := time.Now()
	image, err := t.Agent.FlattenRootfs(ctx, id)
	t.observe("flatten", began, err)
	return image, err
}

// CreateSnapshot implements agent.Artifacts.
func (t timed) CreateSnapshot(ctx context.Context, id lehr.SandboxID) (agent.Snapshot, error) {
	began := time.Now()
	snapshot, err := t.Agent.CreateSnapshot(ctx, id)
	t.observe("snapshot", began, err)
	return snapshot, err
}

// Close closes what is measured, if it can be closed.
func (t timed) Close() error {
	if c, ok := t.Agent.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
