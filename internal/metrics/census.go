package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// censusLimit bounds the question to the store.
const censusLimit = 5 * time.Second

// censusSource counts what is alive.
type censusSource interface {
	Census(ctx context.Context) (store.Census, error)
}

// census asks the store whenever the figures are asked for.
type census struct {
	source            censusSource
	builds, sandboxes *prometheus.Desc
}

// CountAlive adds how many builds and sandboxes are alive, by state.
func (m *Metrics) CountAlive(s censusSource) {
	m.registry.MustRegister(&census{
		source:    s,
		builds:    prometheus.NewDesc("lehr_builds", "Builds that have not ended, by state.", []string{"state"}, nil),
		sandboxes: prometheus.NewDesc("lehr_sandboxes", "Sandboxes that have not ended, by state.", []string{"state"}, nil),
	})
}

// Describe implements prometheus.Collector.
func (c *census) Describe(out chan<- *prometheus.Desc) { out <- c.builds; out <- c.sandboxes }

// Collect implements prometheus.Collector. A store that does not answer leaves the
// figures out.
func (c *census) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), censusLimit)
	defer cancel()
	alive, err := c.source.Census(ctx)
	if err != nil {
		return
	}
	for _, state := range []lehr.BuildStatus{lehr.BuildPending, lehr.BuildRunning} {
		out <- prometheus.MustNewConstMetric(c.builds, prometheus.GaugeValue, float64(alive.Builds[state]), string(state))
	}
	for _, state := range []lehr.SandboxState{
		lehr.SandboxCreating, lehr.SandboxRunning, lehr.SandboxPausing, lehr.SandboxPaused, lehr.SandboxResuming,
	} {
		out <- prometheus.MustNewConstMetric(c.sandboxes, prometheus.GaugeValue, float64(alive.Sandboxes[state]), string(state))
	}
}
