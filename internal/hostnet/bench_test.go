package hostnet

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"
)

// BenchmarkAttachRelease measures making a lease, and removing one alone and in
// company; docs/adr/0004-network.md has the figures.
func BenchmarkAttachRelease(b *testing.B) {
	for _, together := range []int{1, 50} {
		b.Run(fmt.Sprintf("together=%d", together), func(b *testing.B) {
			n := openNetwork(b)
			var made, removed []time.Duration
			round := 0
			for b.Loop() {
				round++
				leases := make([]*Lease, together)
				for i := range leases {
					start := time.Now()
					leases[i] = attach(b, n, fmt.Sprintf("box-%d-%d", round, i))
					made = append(made, time.Since(start))
				}
				start := time.Now()
				for _, lease := range leases {
					_ = lease.Release(context.Background())
				}
				for _, lease := range leases {
					<-lease.Gone()
				}
				removed = append(removed, time.Since(start))
			}
			report(b, "attach", made)
			report(b, "release", removed)
		})
	}
}

// BenchmarkThroughput measures a stream from a sandbox to the outside and back,
// through the rules.
func BenchmarkThroughput(b *testing.B) {
	n := openNetwork(b)
	lease := attach(b, n, "box")
	conn, err := dialFrom(lease.NamespacePath(), "tcp4", outsidePort(publicAddress), 0)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	block := make([]byte, 1<<20)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		written := make(chan error, 1)
		go func() {
			_, err := conn.Write(block)
			written <- err
		}()
		if _, err := io.CopyN(io.Discard, conn, int64(len(block))); err != nil {
			b.Fatal(err)
		}
		if err := <-written; err != nil {
			b.Fatal(err)
		}
	}
}

// report adds the median and the largest of samples.
func report(b *testing.B, name string, samples []time.Duration) {
	b.Helper()
	slices.Sort(samples)
	b.ReportMetric(float64(len(samples)), name+"-n")
	b.ReportMetric(samples[len(samples)/2].Seconds()*1000, name+"-p50-ms")
	b.ReportMetric(samples[len(samples)-1].Seconds()*1000, name+"-max-ms")
}
