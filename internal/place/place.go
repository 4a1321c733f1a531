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
	Free      lehr.Resources       // capacity less what was promised; may be negative
	Teams     []lehr.TeamID        // empty: every team
	Artifacts map[lehr.Digest]bool // what it holds of the request's artifacts; nil: not known
}

// Policy says how full hosts may get and how they are filled. Overcommit is how
// many times its memory and disk a host may promise, because an idle sandbox
// needs a small part of what it was promised; no single sandbox may be larger
// than the host. Processors are shared: only one sandbox's number is bounded.
type Policy struct {
	MemoryOvercommit int32 // at least 1
	DiskOvercommit   int32 // at least 1
	CPUOvercommit    int32 // processors of one sandbox for each processor of the host; at least 1
	Pack             bool  // fill hosts up one by one instead of spreading
	Distributed      bool  // artifacts are fetched where they are missing: no refusal for them
}

// DefaultPolicy spreads, and promises eight times the memory and four times the
// disk.
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
	if reason := tooFull(h, p.Resources, policy); reason != "" {
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

func tooFull(h *Host, need lehr.Resources, policy Policy) string {
	memory := left(h.Free.MemoryMB, h.Capacity.MemoryMB, policy.MemoryOvercommit)
	disk := left(h.Free.DiskMB, h.Capacity.DiskMB, policy.DiskOvercommit)
	switch {
	case int64(need.MemoryMB) > memory:
		return fmt.Sprintf("can promise %d MB more memory, %d asked", memory, need.MemoryMB)
	case int64(need.DiskMB) > disk:
		return fmt.Sprintf("can promise %d MB more disk, %d asked", disk, need.DiskMB)
	}
	return ""
}

// left is what may still be promised.
func left(free, capacity, overcommit int32) int64 {
	return int64(free) + int64(max(overcommit, 1)-1)*int64(capacity)
}

// score prefers, in this order: hosts that no attempt was lost on, hosts that
// hold the artifacts, and hosts with much (or, packing, little) left in their
// scarcest resource.
func score(h *Host, p lehr.Placement, policy Policy) float64 {
	s := scarcest(h, policy)
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

// scarcest is the part of the resource that runs out first which is not yet
// promised, 1 for an empty host. Processors may be promised without end, so
// theirs may be negative.
func scarcest(h *Host, policy Policy) float64 {
	part := func(free, capacity, overcommit int32) float64 {
		if capacity <= 0 {
			return 1
		}
		return float64(left(free, capacity, overcommit)) / float64(int64(max(overcommit, 1))*int64(capacity))
	}
	return min(
		part(h.Free.VCPUs, h.Capacity.VCPUs, policy.CPUOvercommit),
		part(h.Free.MemoryMB, h.Capacity.MemoryMB, policy.MemoryOvercommit),
		part(h.Free.DiskMB, h.Capacity.DiskMB, policy.DiskOvercommit),
	)
}

func short(d lehr.Digest) string {
	const digits = 12
	hex := d.Hex()
	return hex[:min(digits, len(hex))]
}
