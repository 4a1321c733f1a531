// Package place decides where a sandbox goes. It is a pure function of the
// hosts as last seen and the request: hard filters first, each refusal with its
// reason, then a score.
package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// Host is a host as the scheduler last saw it.
type Host struct {
	ID        lehr.HostID
	Name      string
	State     lehr.HostState
	Engine    lehr.Digest
	Capacity  lehr.Resources
	Free      lehr.Resources
	Teams     []lehr.TeamID        // empty: every team
	Artifacts map[lehr.Digest]bool // what it holds of the request's artifacts; nil: not known
}

// Policy says how full hosts may get and how they are filled. Overcommit is how
// many times its share a sandbox's size may count less than it asks for: an
// idle sandbox needs a small part of it.
type Policy struct {
	MemoryOvercommit int32 // on free memory; at least 1
	DiskOvercommit   int32 // on free disk; at least 1
	CPUOvercommit    int32 // processors of one sandbox for each processor of the host; at least 1
	Pack             bool  // fill hosts up one by one instead of spreading
	Distributed      bool  // artifacts are fetched where they are missing: no refusal for them
}

// DefaultPolicy spreads, and counts an eighth of the memory and a quarter of
// the disk that sandboxes ask for.
var DefaultPolicy = Policy{MemoryOvercommit: 8, DiskOvercommit: 4, CPUOvercommit: 4}

// Candidate is a host that would do.
type Candidate struct {
	ID    lehr.HostID
	Score float64 // higher is better; comparable within one answer only
}

// Refusal is a host that would not do.
type Refusal struct {
	ID     lehr.HostID
	Code   Code
	Reason string // for people, the numbers named
}

// Code says in one word why a host was refused.
type Code string

// The refusals. The first four pass by themselves or with another request.
const (
	RefusedState    Code = "state"    // not ready
	RefusedTeam     Code = "team"     // reserved for other teams
	RefusedEngine   Code = "engine"   // the snapshot belongs to another engine
	RefusedArtifact Code = "artifact" // it lacks the image or snapshot
	RefusedSize     Code = "size"     // it is too small even when empty
	RefusedFull     Code = "full"     // not enough is free now
)

// Decision is the ordered outcome for one request.
type Decision struct {
	Candidates []Candidate // best first
	Refusals   []Refusal   // in the order of the hosts given
}

// Decide orders hosts for a request. It never fails; without candidates the
// refusals say why.
func Decide(hosts []Host, p lehr.Placement, policy Policy) Decision {
	var d Decision
	for i := range hosts {
		h := &hosts[i]
		if code, reason := refuse(h, p, policy); code != "" {
			d.Refusals = append(d.Refusals, Refusal{ID: h.ID, Code: code, Reason: reason})
			continue
		}
		d.Candidates = append(d.Candidates, Candidate{ID: h.ID, Score: score(h, p, policy)})
	}
	slices.SortStableFunc(d.Candidates, func(a, b Candidate) int {
		if c := cmp.Compare(b.Score, a.Score); c != 0 {
			return c
		}
		return cmp.Compare(a.ID, b.ID)
	})
	return d
}

// Explain returns the refusals as one sentence.
func (d Decision) Explain() string {
	if len(d.Refusals) == 0 {
		return "no host has joined"
	}
	parts := make([]string, len(d.Refusals))
	for i, r := range d.Refusals {
		parts[i] = fmt.Sprintf("%s: %s", r.ID, r.Reason)
	}
	return strings.Join(parts, "; ")
}

func refuse(h *Host, p lehr.Placement, policy Policy) (Code, string) {
	if h.State != lehr.HostReady {
		return RefusedState, fmt.Sprintf("is %s", h.State)
	}
	if len(h.Teams) > 0 && !slices.Contains(h.Teams, p.TeamID) {
		return RefusedTeam, "is reserved for other teams"
	}
	if p.Engine != "" && h.Engine != p.Engine {
		return RefusedEngine, fmt.Sprintf("runs engine %s, the snapshot needs %s", short(h.Engine), short(p.Engine))
	}
	if missing := lacks(h, p, policy); missing != "" {
		return RefusedArtifact, fmt.Sprintf("lacks artifact %s", short(missing))
	}
	if reason := tooSmall(h.Capacity, p.Resources, policy); reason != "" {
		return RefusedSize, reason
	}
	if reason := tooFull(h.Free, p.Resources, policy); reason != "" {
		return RefusedFull, reason
	}
	return "", ""
}

func lacks(h *Host, p lehr.Placement, policy Policy) lehr.Digest {
	if policy.Distributed || h.Artifacts == nil {
		return ""
	}
	for _, d := range p.Artifacts {
		if d != "" && !h.Artifacts[d] {
			return d
		}
	}
	return ""
}

func tooSmall(capacity, need lehr.Resources, policy Policy) string {
	switch {
	case need.VCPUs > capacity.VCPUs*max(policy.CPUOvercommit, 1):
		return fmt.Sprintf("has %d processors, %d asked (%d for each are allowed)", capacity.VCPUs, need.VCPUs, max(policy.CPUOvercommit, 1))
	case need.MemoryMB > capacity.MemoryMB:
		return fmt.Sprintf("has %d MB of memory, %d asked", capacity.MemoryMB, need.MemoryMB)
	case need.DiskMB > capacity.DiskMB:
		return fmt.Sprintf("has %d MB of disk, %d asked", capacity.DiskMB, need.DiskMB)
	}
	return ""
}

func tooFull(free, need lehr.Resources, policy Policy) string {
	switch {
	case need.MemoryMB/max(policy.MemoryOvercommit, 1) > free.MemoryMB:
		return fmt.Sprintf("has %d MB of memory free for %d asked", free.MemoryMB, need.MemoryMB)
	case need.DiskMB/max(policy.DiskOvercommit, 1) > free.DiskMB:
		return fmt.Sprintf("has %d MB of disk free for %d asked", free.DiskMB, need.DiskMB)
	}
	return ""
}

// score prefers, in this order: hosts that no attempt was lost on, hosts that
// hold the artifacts, and hosts with much (or, packing, little) left in their
// scarcest resource.
func score(h *Host, p lehr.Placement, policy Policy) float64 {
	s := scarcest(h)
	if policy.Pack {
		s = 1 - s
	}
	for _, d := range p.Artifacts {
		if h.Artifacts[d] {
			s += 2
		}
	}
	if slices.Contains(p.Avoid, h.ID) {
		s -= 100
	}
	return s
}

// scarcest is the free fraction of the resource that runs out first, 0 to 1.
func scarcest(h *Host) float64 {
	f := 1.0
	for _, r := range [][2]int32{
		{h.Free.VCPUs, h.Capacity.VCPUs}, {h.Free.MemoryMB, h.Capacity.MemoryMB}, {h.Free.DiskMB, h.Capacity.DiskMB},
	} {
		if r[1] > 0 {
			f = min(f, float64(r[0])/float64(r[1]))
		}
	}
	return max(f, 0)
}

func short(d lehr.Digest) string {
	const digits = 12
	hex := d.Hex()
	return hex[:min(digits, len(hex))]
}
