package fleet

import (
	"context"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/place"
)

// askArtifacts bounds how long one host may take to say what it holds.
const askArtifacts = time.Second

// hostWait bounds the wait for a first connection: an agent that is starting,
// or was just lost and starts again, costs a moment and no error.
const hostWait = 5 * time.Second

// HostScheduler chooses among the hosts of a pool. It is safe for concurrent
// use.
type HostScheduler struct {
	pool   *HostClientPool
	policy place.Policy
}

// NewHostScheduler returns a scheduler over pool.
func NewHostScheduler(pool *HostClientPool, policy place.Policy) *HostScheduler {
	return &HostScheduler{pool: pool, policy: policy}
}

// SelectHost returns the best connected host for p and counts p against it
// until its next heartbeat. Exhausted names every host's reason; its code is
// "no_host" where none is ready, "no_fit" where none would ever do, and
// "no_room" where one may later.
func (s *HostScheduler) SelectHost(ctx context.Context, p lehr.Placement) (lehr.HostID, error) {
	if err := s.awaitHost(ctx); err != nil {
		return "", err
	}
	hosts, agents := s.pool.view()
	if len(hosts) > 1 {
		askHosts(ctx, hosts, agents, p.Artifacts)
	}
	d := place.Decide(hosts, p, s.policy)
	for _, c := range d.Candidates {
		if s.pool.promise(c.ID, p.Resources) {
			return c.ID, nil
		}
	}
	if engineOnly(d) {
		return "", errs.New(errs.Unsupported, "the snapshot was made by another engine than that of any host: %s", d.Explain()).
			WithCode("snapshot_unfit").WithOp("fleet.SelectHost").WithRemedy("build the template again")
	}
	return "", errs.New(errs.Exhausted, "no host can take %d processors, %d MB of memory and %d MB of disk: %s",
		p.Resources.VCPUs, p.Resources.MemoryMB, p.Resources.DiskMB, d.Explain()).
		WithCode(refusalCode(d)).WithOp("fleet.SelectHost").
		WithRemedy("ask for less, end sandboxes, or add a host")
}

// awaitHost returns when a host is connected or hostWait is over; the error is
// the end of ctx.
func (s *HostScheduler) awaitHost(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	if s.pool.WaitReady(wait) != nil && ctx.Err() != nil {
		return errs.Wrap(context.Cause(ctx), errs.KindOf(ctx.Err()), "fleet.SelectHost", "the wait for a host was given up")
	}
	return nil
}

// engineOnly reports whether hosts are there and the engine is what keeps every
// one of them away.
func engineOnly(d place.Decision) bool {
	for _, r := range d.Refusals {
		if r.Code != place.RefusedEngine {
			return false
		}
	}
	return len(d.Refusals) > 0
}

func refusalCode(d place.Decision) string {
	never := 0
	ready := 0
	for _, r := range d.Refusals {
		if r.Code != place.RefusedState {
			ready++
		}
		if r.Code == place.RefusedSize || r.Code == place.RefusedEngine {
			never++
		}
	}
	switch {
	case ready == 0:
		return "no_host"
	case never == len(d.Refusals):
		return "no_fit"
	}
	return "no_room"
}

// view returns the hosts as last seen, less what was promised since.
func (p *HostClientPool) view() ([]place.Host, []agent.Agent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hosts := make([]place.Host, 0, len(p.hosts))
	agents := make([]agent.Agent, 0, len(p.hosts))
	for _, c := range p.hosts {
		free := c.info.Free
		free.VCPUs -= c.promise.VCPUs
		free.MemoryMB -= c.promise.MemoryMB
		free.DiskMB -= c.promise.DiskMB
		hosts = append(hosts, place.Host{
			ID: c.record.ID, Name: c.record.Name, State: c.record.State, Engine: c.info.EngineDigest,
			Capacity: c.info.Capacity, Free: free,
		})
		agents = append(agents, c.agent)
	}
	return hosts, agents
}

// promise counts r against a host until its next heartbeat; false when the
// host has gone.
func (p *HostClientPool) promise(id lehr.HostID, r lehr.Resources) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.hosts[id]
	if !ok {
		return false
	}
	c.promise.VCPUs += r.VCPUs
	c.promise.MemoryMB += r.MemoryMB
	c.promise.DiskMB += r.DiskMB
	return true
}

// askHosts fills in what each host holds of the artifacts, asking all at once;
// a host that does not answer counts as holding nothing.
func askHosts(ctx context.Context, hosts []place.Host, agents []agent.Agent, artifacts []lehr.Digest) {
	ctx, cancel := context.WithTimeout(ctx, askArtifacts)
	defer cancel()
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() {
			held := make(map[lehr.Digest]bool, len(artifacts))
			for _, d := range artifacts {
				if ok, err := agents[i].HasArtifact(ctx, d); err == nil && ok {
					held[d] = true
				}
			}
			hosts[i].Artifacts = held
		})
	}
	wg.Wait()
}
