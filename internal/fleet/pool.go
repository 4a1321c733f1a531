// Package fleet keeps the connections to the hosts' agents, their heartbeats in
// the store, and chooses the host a sandbox goes to.
package fleet

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// hostStore is what the fleet records of hosts.
type hostStore interface {
	Put(ctx context.Context, h lehr.Host) (lehr.Host, error)
	Get(ctx context.Context, id lehr.HostID) (lehr.Host, error)
}

// Options are the parts a HostClientPool works with.
type Options struct {
	Hosts     hostStore
	Clock     clock.Clock   // the machine's
	Log       *slog.Logger  // discarded
	Heartbeat time.Duration // between two looks at a host; 5 s when zero
	Patience  time.Duration // silence after which a host is unreachable; 15 s when zero
}

// Member is a host to keep a connection to.
type Member struct {
	Name string // for people
	// Dial connects to the host's agent. Where the result is an io.Closer it is
	// closed when the connection is given up.
	Dial func(ctx context.Context) (agent.Agent, error)
}

// HostClientPool holds one client for each host, looked after by a Keep each.
// It is safe for concurrent use.
type HostClientPool struct {
	o Options

	mu      sync.Mutex
	hosts   map[lehr.HostID]*connection
	changed chan struct{} // closed and replaced when a host comes or goes
}

// connection is one host. Its fields are guarded by HostClientPool.mu.
type connection struct {
	agent   agent.Agent
	record  lehr.Host
	info    agent.Info
	promise lehr.Resources // placed since info was read
	broken  chan struct{}  // closed by Evict
	evicted bool
}

// NewHostClientPool returns a pool without hosts.
func NewHostClientPool(o Options) *HostClientPool {
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 5 * time.Second
	}
	if o.Patience <= 0 {
		o.Patience = 15 * time.Second
	}
	return &HostClientPool{o: o, hosts: map[lehr.HostID]*connection{}, changed: make(chan struct{})}
}

// GetForHost returns the agent of a host. Unavailable: there is no connection
// to it now.
func (p *HostClientPool) GetForHost(host lehr.HostID) (agent.Agent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.hosts[host]
	if !ok {
		return nil, errs.New(errs.Unavailable, "host %s cannot be reached", host).WithCode("host_unreachable")
	}
	return c.agent, nil
}

// Connected returns the ids of the hosts with a connection, in order.
func (p *HostClientPool) Connected() []lehr.HostID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.hosts))
}

// WaitReady returns once at least one host is connected.
func (p *HostClientPool) WaitReady(ctx context.Context) error {
	for {
		p.mu.Lock()
		n, changed := len(p.hosts), p.changed
		p.mu.Unlock()
		if n > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Evict gives up the connection to a host, whose Keep dials again. It is for
// callers that saw the connection break.
func (p *HostClientPool) Evict(host lehr.HostID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.hosts[host]; ok {
		p.evict(c)
	}
}

// evict takes c out of use; p.mu is held.
func (p *HostClientPool) evict(c *connection) {
	if c.evicted {
		return
	}
	c.evicted = true
	close(c.broken)
	if p.hosts[c.record.ID] == c {
		delete(p.hosts, c.record.ID)
		p.announce()
	}
}

func (p *HostClientPool) announce() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// add puts a fresh connection into use in place of an older one.
func (p *HostClientPool) add(a agent.Agent, info agent.Info, record lehr.Host) *connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &connection{agent: a, record: record, info: info, broken: make(chan struct{})}
	if old, ok := p.hosts[record.ID]; ok {
		p.evict(old)
	}
	p.hosts[record.ID] = c
	p.announce()
	return c
}

func (p *HostClientPool) refresh(c *connection, info agent.Info, record lehr.Host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.info, c.record, c.promise = info, record, lehr.Resources{}
}

func closeAgent(a agent.Agent, log *slog.Logger) {
	if c, ok := a.(io.Closer); ok {
		if err := c.Close(); err != nil {
			log.Warn("closing a host's connection", "error", err)
		}
	}
}
