package agent_test

import (
	"slices"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// BenchmarkSandbox makes a sandbox over the socket, runs a first and a second
// command and takes it away, one after the other. It waits for the pool in
// between, which it does not count.
func BenchmarkSandbox(b *testing.B) {
	needRoot(b)
	a := start(b, newData(b), 0, host.Pool{Size: 4, Resources: lehr.DefaultResources})
	base := busybox(b, a)
	var created, first, later, destroyed []time.Duration
	for b.Loop() {
		b.StopTimer()
		time.Sleep(150 * time.Millisecond)
		b.StartTimer()
		id := lehr.NewSandboxID()
		created = append(created, took(b, func() error {
			_, err := a.CreateSandbox(b.Context(), agent.CreateSandbox{
				ID: id, TeamID: lehr.PlatformTeam, Image: base.Digest, Resources: lehr.DefaultResources,
			})
			return err
		}))
		run := func() error {
			_, err := a.Exec(b.Context(), agent.Exec{SandboxID: id, Args: []string{"/bin/echo", "hi"}},
				func(lehr.LogStream, []byte) error { return nil })
			return err
		}
		first, later = append(first, took(b, run)), append(later, took(b, run))
		destroyed = append(destroyed, took(b, func() error { return a.DestroySandbox(b.Context(), id) }))
	}
	report(b, "create", created)
	report(b, "first-command", first)
	report(b, "second-command", later)
	report(b, "destroy", destroyed)
}

func took(b *testing.B, f func() error) time.Duration {
	b.Helper()
	start := time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

// report prints the median and the worst.
func report(b *testing.B, name string, d []time.Duration) {
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, name+"-p50-ms")
	b.ReportMetric(float64(d[len(d)-1].Microseconds())/1000, name+"-max-ms")
}
