// Package control wires a control plane: services over a store and a bus, the
// connections to hosts, and the API. The embedded default and the server role
// differ only in what they hand in.
package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/api"
	"github.com/lehr-dev/lehr/internal/build"
	"github.com/lehr-dev/lehr/internal/bus"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/fleet"
	"github.com/lehr-dev/lehr/internal/gateway"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/metrics"
	"github.com/lehr-dev/lehr/internal/place"
	"github.com/lehr-dev/lehr/internal/sandbox"
	"github.com/lehr-dev/lehr/internal/seal"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/template"
)

// Options are the parts of a control plane; all are required but HostNames, Key
// and Gateway.
type Options struct {
	Store    store.Store
	Bus      bus.Bus
	Hosts    []fleet.Member // whom to keep connections to
	Workers  int
	Embedded bool // no other process works on the store
	// CacheBytes is what bases from registries may take on a host; 0: a share of
	// its disk.
	CacheBytes int64
	HostNames  []string
	Key        *seal.Key // nil: sandboxes have no access tokens
	Gateway    Gateway   // zero: none
	Log        *slog.Logger
}

// Gateway says under which names sandboxes are served.
type Gateway struct {
	Domain string // without a port
	Scheme string // of the URLs that callers are told: "http" or "https"
	Port   string // of those URLs; empty where the scheme's own is meant
}

// Control is one control plane. Handler may be served from the start; Run makes
// it work.
type Control struct {
	o         Options
	pool      *fleet.HostClientPool
	builds    *build.BuildService
	templates *template.Service
	sandboxes *sandbox.Service
	gateway   *gateway.Gateway // nil: none
	handler   http.Handler
	ready     atomic.Bool
}

// New wires a control plane and starts nothing.
func New(o Options) *Control {
	c := &Control{o: o}
	var token func(lehr.SandboxID) string
	var digest func([]byte) lehr.Digest
	if o.Key != nil {
		token, digest = o.Key.AccessToken, o.Key.Digest
	}
	clk := clock.Real()
	figures := metrics.New()
	figures.CountAlive(o.Store.Templates())
	c.o.Hosts = measured(o.Hosts, figures)
	c.pool = fleet.NewHostClientPool(fleet.Options{Hosts: o.Store.Hosts(), Clock: clk, Log: o.Log})
	scheduler := fleet.NewHostScheduler(c.pool, place.DefaultPolicy)
	c.templates = template.New(template.Options{
		Templates: o.Store.Templates(), Hosts: o.Store.Hosts(), Scheduler: scheduler, Pool: c.pool, Clock: clk, Log: o.Log,
		Embedded: o.Embedded, CacheBytes: o.CacheBytes, Held: figures.Held, Freed: figures.Freed,
	})
	builds := build.Options{
		Store: o.Store, Bus: o.Bus, Scheduler: scheduler, Pool: c.pool, Bases: c.templates, Clock: clk, Log: o.Log,
	}
	if o.Key != nil {
		builds.Vault = o.Key
	}
	c.builds = build.New(builds)
	c.sandboxes = sandbox.New(sandbox.Options{
		Store: o.Store, Scheduler: scheduler, Pool: c.pool, Bases: c.templates, Clock: clk, Log: o.Log,
		AccessToken: token, Digest: digest, Embedded: o.Embedded,
	})
	c.handler = api.New(api.Options{
		Builds: c.builds, Templates: c.templates, Sandboxes: c.sandboxes, Accounts: o.Store.Accounts(),
		Ready: c.readiness, Metrics: figures.Handler(), HostNames: o.HostNames, Log: o.Log,
		Gateway: o.Gateway.forAPI(token),
	})
	if o.Gateway.Domain != "" {
		c.gateway = gateway.New(gateway.Options{
			Sandboxes: c.sandboxes, AccessToken: token, Domain: o.Gateway.Domain, HostNames: o.HostNames, Log: o.Log,
		})
		c.handler = c.gateway.Handler(c.handler)
	}
	return c
}

// forAPI is the gateway as callers of the API are told of it.
func (g Gateway) forAPI(token func(lehr.SandboxID) string) api.Gateway {
	if g.Domain == "" {
		return api.Gateway{}
	}
	domain := g.Domain
	if g.Port != "" {
		domain = net.JoinHostPort(domain, g.Port)
	}
	return api.Gateway{Scheme: g.Scheme, Domain: domain, AccessToken: token}
}

// Handler serves the API and, in front of it, the gateway.
func (c *Control) Handler() http.Handler { return c.handler }

// WaitHosts returns once a host is connected.
func (c *Control) WaitHosts(ctx context.Context) error { return c.pool.WaitReady(ctx) }

// SetReady says whether /readyz answers 200.
func (c *Control) SetReady(ready bool) { c.ready.Store(ready) }

func (c *Control) readiness() error {
	if c.ready.Load() {
		return nil
	}
	return errs.New(errs.Unavailable, "the server is starting or stopping").WithCode("not_ready").WithRemedy("try again in a moment")
}

// Run works until ctx ends: it keeps the hosts connected, runs the workers and
// the loops of the services. When it returns running builds were given back;
// the hosts' connections end last, because giving back needs them.
func (c *Control) Run(ctx context.Context) error {
	hosts, stopHosts := context.WithCancel(context.WithoutCancel(ctx))
	var keepers errgroup.Group
	for _, m := range c.o.Hosts {
		keepers.Go(func() error { return c.pool.Keep(hosts, m) })
	}
	defer func() {
		stopHosts()
		_ = keepers.Wait() // ends with the context's own error
	}()

	wait, err := c.builds.StartWorkers(ctx, build.WorkerOptions{Workers: c.o.Workers, Embedded: c.o.Embedded})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // told to stop while starting
	case err != nil:
		return err
	}
	defer wait()

	if c.gateway != nil {
		defer c.gateway.Close()
	}
	loops, ctx := errgroup.WithContext(ctx)
	loops.Go(func() error { return c.sandboxes.Run(ctx) })
	loops.Go(func() error { return c.templates.Run(ctx) })
	loops.Go(func() error { return c.makeBases(ctx) })
	err = loops.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// makeBases makes minimal ahead of the first build that needs it. A failure is
// told and left to that build, which tries again.
func (c *Control) makeBases(ctx context.Context) error {
	if err := c.pool.WaitReady(ctx); err != nil {
		return err
	}
	for _, host := range c.pool.Connected() {
		a, err := c.pool.GetForHost(host)
		if err == nil {
			_, err = c.templates.Minimal(ctx, a)
		}
		if err != nil && ctx.Err() == nil {
			c.o.Log.Warn("the base minimal could not be made yet", "host", host, "error", err)
		}
	}
	return context.Cause(ctx)
}

// measured has the calls to hosts measured.
func measured(hosts []fleet.Member, m *metrics.Metrics) []fleet.Member {
	all := make([]fleet.Member, 0, len(hosts))
	for _, h := range hosts {
		dial := h.Dial
		h.Dial = func(ctx context.Context) (agent.Agent, error) {
			a, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			return m.WithCalls(a), nil
		}
		all = append(all, h)
	}
	return all
}
