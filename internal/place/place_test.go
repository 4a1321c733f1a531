package place

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/lehr"
)

var big = lehr.Resources{VCPUs: 8, MemoryMB: 16384, DiskMB: 100000}

func host(id string, change ...func(*Host)) Host {
	h := Host{ID: lehr.HostID(id), State: lehr.HostReady, Capacity: big, Free: big}
	for _, f := range change {
		f(&h)
	}
	return h
}

func request(change ...func(*lehr.Placement)) lehr.Placement {
	p := lehr.Placement{TeamID: "team-a", Resources: lehr.DefaultResources}
	for _, f := range change {
		f(&p)
	}
	return p
}

func TestDecideRefusesWithReason(t *testing.T) {
	t.Parallel()
	const image = lehr.Digest("sha256:aaaa")
	tests := []struct {
		name string
		host Host
		p    lehr.Placement
		want Code
	}{
		{"draining", host("h", func(h *Host) { h.State = lehr.HostDraining }), request(), RefusedState},
		{"other team", host("h", func(h *Host) { h.Teams = []lehr.TeamID{"team-b"} }), request(), RefusedTeam},
		{"other engine", host("h", func(h *Host) { h.Engine = "sha256:1" }), request(func(p *lehr.Placement) { p.Engine = "sha256:2" }), RefusedEngine},
		{"artifact missing", host("h", func(h *Host) { h.Artifacts = map[lehr.Digest]bool{} }), request(func(p *lehr.Placement) { p.Artifacts = []lehr.Digest{image} }), RefusedArtifact},
		{"memory too small", host("h"), request(func(p *lehr.Placement) { p.Resources.MemoryMB = 20000 }), RefusedSize},
		{"too many processors", host("h"), request(func(p *lehr.Placement) { p.Resources.VCPUs = 33 }), RefusedSize},
		{"disk too small", host("h"), request(func(p *lehr.Placement) { p.Resources.DiskMB = 100001 }), RefusedSize},
		{"memory used up", host("h", func(h *Host) { h.Free.MemoryMB = 511 - 7*16384 }), request(), RefusedFull},
		{"disk used up", host("h", func(h *Host) { h.Free.DiskMB = 5119 - 3*100000 }), request(), RefusedFull},
		{"fits", host("h"), request(), ""},
		{"fits although asked for more than is free", host("h", func(h *Host) { h.Free.MemoryMB = 512 - 7*16384 }), request(), ""},
		{"own team", host("h", func(h *Host) { h.Teams = []lehr.TeamID{"team-a"} }), request(), ""},
		{"artifacts unknown", host("h"), request(func(p *lehr.Placement) { p.Artifacts = []lehr.Digest{image} }), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := Decide([]Host{tt.host}, tt.p, DefaultPolicy)
			if tt.want == "" {
				if len(d.Candidates) != 1 || len(d.Refusals) != 0 {
					t.Fatalf("Decide() = %+v, want one candidate", d)
				}
				return
			}
			if len(d.Refusals) != 1 || d.Refusals[0].Code != tt.want || d.Refusals[0].Reason == "" {
				t.Fatalf("Decide() = %+v, want one refusal with code %q and a reason", d, tt.want)
			}
			if !strings.Contains(d.Explain(), d.Refusals[0].Reason) {
				t.Errorf("Explain() = %q, want it to hold %q", d.Explain(), d.Refusals[0].Reason)
			}
		})
	}
}

func TestDecideOrder(t *testing.T) {
	t.Parallel()
	const image = lehr.Digest("sha256:aaaa")
	half := func(h *Host) { h.Free.MemoryMB /= 2 }
	cached := func(h *Host) { h.Artifacts = map[lehr.Digest]bool{image: true} }
	wants := func(p *lehr.Placement) { p.Artifacts = []lehr.Digest{image} }
	tests := []struct {
		name   string
		hosts  []Host
		p      lehr.Placement
		policy Policy
		want   string
	}{
		{"spread", []Host{host("a", half), host("b")}, request(), DefaultPolicy, "[b a]"},
		{"pack", []Host{host("b"), host("a", half)}, request(), Policy{Pack: true}, "[a b]"},
		{"cached wins over free", []Host{host("b"), host("a", half, cached)}, request(wants), DefaultPolicy, "[a b]"},
		{"avoided comes last", []Host{host("a"), host("b", half)}, request(func(p *lehr.Placement) { p.Avoid = []lehr.HostID{"a"} }), DefaultPolicy, "[b a]"},
		{"ties by id", []Host{host("c"), host("a"), host("b")}, request(), DefaultPolicy, "[a b c]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var ids []lehr.HostID
			for _, c := range Decide(tt.hosts, tt.p, tt.policy).Candidates {
				ids = append(ids, c.ID)
			}
			if got := fmt.Sprint(ids); got != tt.want {
				t.Errorf("Decide() order = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestExplainWithoutHosts(t *testing.T) {
	t.Parallel()
	if got := Decide(nil, request(), DefaultPolicy).Explain(); got != "no host has joined" {
		t.Errorf("Explain() = %q, want %q", got, "no host has joined")
	}
}

func BenchmarkDecide(b *testing.B) {
	hosts := make([]Host, 10000)
	for i := range hosts {
		hosts[i] = host(fmt.Sprintf("host-%05d", i), func(h *Host) { h.Free.MemoryMB -= int32(i) })
	}
	p := request()
	for b.Loop() {
		Decide(hosts, p, DefaultPolicy)
	}
}
