package template

import (
	"cmp"
	"slices"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const (
	// pressedAge is what an artifact without a version must have on a host near
	// its disk's end: its maker claims it within that time.
	pressedAge = 10 * time.Second
	// cacheShare is what bases from registries may take of a host's disk where
	// nothing else is said: one in so many bytes.
	cacheShare = 5
	// pressedFree is what a collection under pressure wants free, in reserves.
	pressedFree = 2
)

// policy says which artifacts of a host may go, if nobody needs them.
type policy struct {
	young      time.Duration        // no version, no claim: left alone below that age
	cacheIdle  time.Duration        // cached and not used for that long: goes
	cacheBytes int64                // of cached ones together, the least recently used go first
	wanted     int64                // bytes to free beyond that, of cached ones
	freed      map[lehr.Digest]bool // go at once: their versions are forgotten
}

func (s *Service) policy(d agent.Disk) policy {
	p := policy{young: s.othersAge(s.o.Young), cacheIdle: s.o.CacheIdle, cacheBytes: s.o.CacheBytes}
	if p.cacheBytes <= 0 {
		p.cacheBytes = max(d.TotalBytes/cacheShare, 0)
	}
	if d.TotalBytes == 0 && s.o.CacheBytes <= 0 {
		p.cacheBytes = 1<<63 - 1 // nothing is known of the disk
	}
	if d.Low() {
		p.young = min(p.young, pressedAge)
		p.wanted = pressedFree*d.ReserveBytes - d.FreeBytes
	}
	return p
}

// garbage returns what may go: artifacts of nobody first, then cached ones, the
// least recently used first. Whether a version or a build needs one of them is
// for the caller to find out.
func (p policy) garbage(held []agent.Artifact) []agent.Artifact {
	var gone, cached []agent.Artifact
	var kept int64
	for _, a := range held {
		switch {
		case p.freed[a.Digest]:
			gone = append(gone, a)
		case a.Cached:
			cached = append(cached, a)
			kept += a.Bytes
		case a.Age >= p.young:
			gone = append(gone, a)
		}
	}
	slices.SortFunc(cached, func(a, b agent.Artifact) int {
		return cmp.Or(-cmp.Compare(a.Idle, b.Idle), cmp.Compare(a.Digest, b.Digest))
	})
	wanted := p.wanted
	for _, a := range cached {
		if a.Idle < p.cacheIdle && kept <= p.cacheBytes && wanted <= 0 {
			break
		}
		gone = append(gone, a)
		kept -= a.Bytes
		wanted -= a.Bytes
	}
	return gone
}
