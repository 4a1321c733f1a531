// Package metrics counts what a control plane does, for Prometheus. Each figure is
// taken by a small decorator or callback around what it measures; nothing depends
// on it.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics is the figures of one control plane, in a registry of its own. It is
// safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	hosts    hostFigures
	calls    *prometheus.HistogramVec
}

// New returns figures that are all zero, and those of the process.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), hosts: newHostFigures(), calls: newCalls()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.calls)
	m.registry.MustRegister(m.hosts.all()...)
	return m
}

// Handler serves the figures.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
