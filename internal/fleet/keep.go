package fleet

import (
	"context"
	"log/slog"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Waits between two tries to reach a host.
const (
	firstRedial = 100 * time.Millisecond
	lastRedial  = 5 * time.Second
)

// Keep holds a connection to m until ctx ends: it dials, records the host,
// reads its heartbeat, and after Patience without one records it as unreachable
// and dials again. One Keep runs for each host.
func (p *HostClientPool) Keep(ctx context.Context, m Member) error {
	log := p.o.Log.With("host", m.Name)
	wait := firstRedial
	for {
		c, err := p.connect(ctx, m)
		if err == nil {
			log.Info("host connected", "id", c.record.ID, "engine", c.info.Engine)
			wait = firstRedial
			err = p.hold(ctx, c)
			p.release(ctx, c)
			closeAgent(c.agent, log)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		log.Log(ctx, levelOf(wait), "host not connected", "error", err, "again_in", wait)
		if err := p.o.Clock.Sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, lastRedial)
	}
}

// levelOf keeps the first failures quiet: an agent that starts is not there yet.
func levelOf(wait time.Duration) slog.Level {
	if wait < time.Second {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

func (p *HostClientPool) connect(ctx context.Context, m Member) (*connection, error) {
	a, err := m.Dial(ctx)
	if err != nil {
		return nil, err
	}
	info, record, err := p.look(ctx, a, m.Name)
	if err != nil {
		closeAgent(a, p.o.Log)
		return nil, err
	}
	return p.add(a, info, record), nil
}

// look asks the host for its state and records it.
func (p *HostClientPool) look(ctx context.Context, a agent.Agent, name string) (agent.Info, lehr.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, p.o.Patience)
	defer cancel()
	info, err := a.Info(ctx)
	if err != nil {
		return agent.Info{}, lehr.Host{}, err
	}
	record, err := p.o.Hosts.Put(ctx, lehr.Host{
		ID: info.HostID, Name: name, State: p.state(ctx, info.HostID),
		Platform: info.Platform, EngineDigest: info.EngineDigest, Capacity: info.Capacity,
	})
	return info, record, err
}

// state is ready but for hosts that an operator drains or has removed.
func (p *HostClientPool) state(ctx context.Context, id lehr.HostID) lehr.HostState {
	known, err := p.o.Hosts.Get(ctx, id)
	if err == nil && (known.State == lehr.HostDraining || known.State == lehr.HostRemoved) {
		return known.State
	}
	return lehr.HostReady
}

// hold reads heartbeats until the connection is lost or ctx ends.
func (p *HostClientPool) hold(ctx context.Context, c *connection) error {
	tick := p.o.Clock.NewTicker(p.o.Heartbeat)
	defer tick.Stop()
	seen := p.o.Clock.Now()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.broken:
			return errs.New(errs.Unavailable, "the connection was given up")
		case <-tick.C():
		}
		info, record, err := p.look(ctx, c.agent, c.record.Name)
		if err == nil && info.HostID != c.record.ID {
			return errs.New(errs.Conflict, "host %s now calls itself %s", c.record.ID, info.HostID)
		}
		if err == nil {
			seen = p.o.Clock.Now()
			p.refresh(c, info, record)
			continue
		}
		if p.o.Clock.Now().Sub(seen) >= p.o.Patience {
			return err
		}
	}
}

// release takes a lost connection out of use and records the host as
// unreachable; the latter also when ctx has ended, within a short limit.
func (p *HostClientPool) release(ctx context.Context, c *connection) {
	p.mu.Lock()
	p.evict(c)
	record := c.record
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if record.State == lehr.HostReady {
		record.State = lehr.HostUnreachable
	}
	if _, err := p.o.Hosts.Put(ctx, record); err != nil {
		p.o.Log.Warn("recording a lost host", "id", record.ID, "error", err)
	}
}
