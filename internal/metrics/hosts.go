package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// hostFigures is what hosts hold and what was removed from them.
type hostFigures struct {
	artifacts, artifactBytes *prometheus.GaugeVec
	disk                     *prometheus.GaugeVec
	pool                     *prometheus.GaugeVec
	removed, removedBytes    *prometheus.CounterVec
}

func newHostFigures() hostFigures {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	return hostFigures{
		artifacts:     gauge("lehr_artifacts", "Artifacts that a host holds, when it was last collected.", "host", "kind"),
		artifactBytes: gauge("lehr_artifact_bytes", "Bytes of the artifacts that a host holds, when it was last collected.", "host", "kind"),
		disk:          gauge("lehr_host_disk_bytes", "Size of a host's disk, what is free, and what new work leaves free.", "host", "what"),
		pool:          gauge("lehr_pool_slots", "Slots that a host keeps ready, and how many it wants.", "host", "what"),
		removed:       counter("lehr_collected_artifacts_total", "Artifacts removed as garbage.", "kind"),
		removedBytes:  counter("lehr_collected_bytes_total", "Bytes of the artifacts removed as garbage.", "kind"),
	}
}

func (f hostFigures) all() []prometheus.Collector {
	return []prometheus.Collector{f.artifacts, f.artifactBytes, f.disk, f.pool, f.removed, f.removedBytes}
}

// Held takes note of what a host holds. It is called whenever a collection looks.
func (m *Metrics) Held(id lehr.HostID, info agent.Info, held []agent.Artifact) {
	host := string(id)
	count, bytes := map[string]float64{}, map[string]float64{}
	for _, kind := range []string{string(agent.KindImage), string(agent.KindSnapshot), kindCached} {
		count[kind], bytes[kind] = 0, 0
	}
	for _, a := range held {
		count[kindOf(a)]++
		bytes[kindOf(a)] += float64(a.Bytes)
	}
	for kind := range count {
		m.hosts.artifacts.WithLabelValues(host, kind).Set(count[kind])
		m.hosts.artifactBytes.WithLabelValues(host, kind).Set(bytes[kind])
	}
	m.hosts.disk.WithLabelValues(host, "total").Set(float64(info.Disk.TotalBytes))
	m.hosts.disk.WithLabelValues(host, "free").Set(float64(info.Disk.FreeBytes))
	m.hosts.disk.WithLabelValues(host, "reserve").Set(float64(info.Disk.ReserveBytes))
	m.hosts.pool.WithLabelValues(host, "ready").Set(float64(info.Pool.Ready))
	m.hosts.pool.WithLabelValues(host, "size").Set(float64(info.Pool.Size))
}

// Freed counts an artifact that was removed.
func (m *Metrics) Freed(_ lehr.HostID, a agent.Artifact) {
	m.hosts.removed.WithLabelValues(kindOf(a)).Inc()
	m.hosts.removedBytes.WithLabelValues(kindOf(a)).Add(float64(a.Bytes))
}

// kindCached is of bases that a registry has too.
const kindCached = "cached"

func kindOf(a agent.Artifact) string {
	switch {
	case a.Cached:
		return kindCached
	case a.Kind == "":
		return string(agent.KindImage)
	}
	return string(a.Kind)
}
