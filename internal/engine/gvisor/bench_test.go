package gvisor_test

import (
	"slices"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// benchShape is the default shape of a build's sandbox, with less disk.
var benchShape = lehr.Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 1024}

// timings collects how long the stages of a benchmark took.
type timings map[string][]time.Duration

// time runs f as one more sample of a stage.
func (d timings) time(b *testing.B, stage string, f func() error) {
	b.Helper()
	start := time.Now()
	if err := f(); err != nil {
		b.Fatalf("%s: %v", stage, err)
	}
	d[stage] = append(d[stage], time.Since(start))
}

// report prints least, median and greatest of each stage in milliseconds.
func (d timings) report(b *testing.B) {
	b.Helper()
	b.ReportMetric(0, "ns/op")
	for stage, all := range d {
		slices.Sort(all)
		ms := func(t time.Duration) float64 { return float64(t.Microseconds()) / 1000 }
		b.ReportMetric(ms(all[0]), stage+"-min-ms")
		b.ReportMetric(ms(all[len(all)/2]), stage+"-p50-ms")
		b.ReportMetric(ms(all[len(all)-1]), stage+"-max-ms")
	}
}

// benchEngine returns an engine with a network and what boots the probe on it.
func benchEngine(b *testing.B) (engine.Engine, engine.StartSpec) {
	b.Helper()
	f := newFixture(b)
	e := f.open(b, b.TempDir(), newTestNetwork(b))
	b.Cleanup(func() { _ = e.Close() })
	return e, engine.StartSpec{Image: f.image, Guest: f.guest, Hostname: "probe", Init: probewire.Init(), Env: []string{"A=b"}}
}

// answers waits until the probe answers a verb.
func answers(b *testing.B, sb engine.Sandbox, verb ...string) func() error {
	return func() error {
		for {
			_, err := enginetest.Run(b.Context(), sb, verb[0], verb[1:]...)
			if err == nil || b.Context().Err() != nil {
				return err
			}
			time.Sleep(300 * time.Microsecond) // the probe is not listening yet
		}
	}
}

// BenchmarkBoot measures a sandbox from an image, one at a time:
// go test -bench Boot -benchtime 20x.
func BenchmarkBoot(b *testing.B) {
	e, spec := benchEngine(b)
	d := timings{}
	for b.Loop() {
		var slot engine.SlotID
		d.time(b, "prepare", func() (err error) {
			slot, err = e.Prepare(b.Context(), engine.PrepareSpec{Kind: engine.KindBoot, Resources: benchShape})
			return err
		})
		d.time(b, "start", func() error { return e.Start(b.Context(), slot, spec) })
		d.time(b, "answer", answers(b, e.Sandbox(slot), "echo"))
		d.time(b, "destroy", func() error { return e.Destroy(b.Context(), slot) })
	}
	d.report(b)
}

// BenchmarkRestore measures snapshots and restores of a probe that holds some
// memory.
func BenchmarkRestore(b *testing.B) {
	for _, mb := range []string{"0", "64"} {
		b.Run(mb+"MB", func(b *testing.B) { benchRestore(b, mb) })
	}
}

func benchRestore(b *testing.B, mb string) {
	e, spec := benchEngine(b)
	d := timings{}
	boot, err := e.Prepare(b.Context(), engine.PrepareSpec{Kind: engine.KindBoot, Resources: benchShape})
	if err != nil {
		b.Fatal(err)
	}
	if err := e.Start(b.Context(), boot, spec); err != nil {
		b.Fatal(err)
	}
	original := e.Sandbox(boot)
	if err := answers(b, original, "eat", mb)(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		snap := &engine.Snapshot{Dir: b.TempDir()}
		d.time(b, "snapshot", func() (err error) {
			snap.Info, err = original.Snapshot(b.Context(), snap.Dir)
			return err
		})
		var slot engine.SlotID
		d.time(b, "prepare", func() (err error) {
			slot, err = e.Prepare(b.Context(), engine.PrepareSpec{Kind: engine.KindRestore, Resources: benchShape})
			return err
		})
		restored := spec
		restored.Snapshot = snap
		d.time(b, "restore", func() error { return e.Start(b.Context(), slot, restored) })
		d.time(b, "answer", answers(b, e.Sandbox(slot), "echo"))
		if err := e.Destroy(b.Context(), slot); err != nil {
			b.Fatal(err)
		}
	}
	if err := e.Destroy(b.Context(), boot); err != nil {
		b.Fatal(err)
	}
	d.report(b)
}
