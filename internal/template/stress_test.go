package template_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/build"
	"github.com/lehr-dev/lehr/internal/bus/membus"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/sandbox"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
	"github.com/lehr-dev/lehr/internal/template"
)

// crowd is all services on one store and one scripted host, whose builds make
// the same few artifacts again and again.
type crowd struct {
	t         *testing.T
	store     store.Store
	host      *agenttest.Host
	team      lehr.TeamID
	builds    *build.BuildService
	sandboxes *sandbox.Service
	templates *template.Service
	missing   atomic.Int64 // named or claimed, and gone
	names     []string
}

// SelectHost returns the only host.
func (c *crowd) SelectHost(context.Context, lehr.Placement) (lehr.HostID, error) {
	return c.host.ID, nil
}

// GetForHost returns the only host.
func (c *crowd) GetForHost(lehr.HostID) (agent.Agent, error) { return c.host, nil }

// wrap changes a store, for the controls.
type wrap func(store.Store) store.Store

func newCrowd(t *testing.T, w wrap) *crowd {
	t.Helper()
	s, err := lite.Open(t.Context(), lite.Options{Path: lite.Memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c := &crowd{t: t, store: w(s), host: agenttest.NewHost(), names: []string{"a", "b", "c"}}
	c.host.Repeat, c.host.ArtifactAge = 2, time.Hour
	team, err := s.Accounts().EnsureTeam(t.Context(), "testers")
	if err != nil {
		t.Fatal(err)
	}
	c.team = team.ID
	if _, err := s.Hosts().Put(t.Context(), lehr.Host{ID: c.host.ID, State: lehr.HostReady}); err != nil {
		t.Fatal(err)
	}
	c.templates = template.New(template.Options{
		Templates: c.store.Templates(), Hosts: s.Hosts(), Scheduler: c, Pool: c,
		Collect: time.Millisecond, Young: time.Nanosecond,
	})
	c.builds = build.New(build.Options{
		Store: c.store, Bus: membus.New(), Scheduler: c, Pool: c, Bases: c.templates,
		Timing: build.Timing{Poll: 5 * time.Millisecond, Sweep: 5 * time.Millisecond, StartSettle: time.Millisecond},
	})
	c.sandboxes = sandbox.New(sandbox.Options{Store: c.store, Scheduler: c, Pool: c, Bases: c.templates})
	return c
}

// run lets everybody work at once until limit builds have ended, then waits until
// nothing is under way.
func (c *crowd) run(limit int) {
	ctx, stop := context.WithCancel(context.Background())
	wait, err := c.builds.StartWorkers(ctx, build.WorkerOptions{Workers: 4})
	if err != nil {
		c.t.Fatal(err)
	}
	var services, users sync.WaitGroup
	services.Go(func() { _ = c.templates.Run(ctx) })
	for n := range 4 {
		users.Go(func() { c.build(rand.New(rand.NewPCG(1, uint64(n))), limit/4) })
	}
	busy, quiet := context.WithCancel(ctx)
	var others sync.WaitGroup
	others.Go(func() { c.createSandboxes(busy) })
	others.Go(func() { c.removeTemplates(busy) })
	others.Go(func() { c.look(busy) })
	users.Wait()
	quiet()
	others.Wait()
	c.settle()
	stop()
	wait()
	services.Wait()
}

// build starts builds one after another and cancels some.
func (c *crowd) build(r *rand.Rand, n int) {
	for i := range n {
		p := build.CreateParams{TeamID: c.team, Name: c.names[r.IntN(len(c.names))], Recipe: []string{"RUN x"}, SkipPrePost: true}
		if i%3 == 0 {
			p.Recipe, p.Healthcheck = []string{"RUN x", "START y"}, "CMD z"
		}
		b, _, err := c.builds.Create(context.Background(), p)
		if err != nil {
			c.t.Errorf("Create() = %v", err)
			return
		}
		if i%4 == 0 {
			_, _ = c.builds.Cancel(context.Background(), c.team, b.ID) // may be too late
		}
		c.await(b.ID)
	}
}

func (c *crowd) await(id lehr.BuildID) {
	for {
		b, err := c.builds.Get(context.Background(), c.team, id)
		if err != nil {
			c.t.Errorf("Get() = %v", err)
			return
		}
		if b.Status.Terminal() {
			if b.Status == lehr.BuildFailed || b.Attempt > 1 {
				c.missing.Add(1)
				c.t.Logf("build %s is %s after %d attempts: %+v", id, b.Status, b.Attempt, b.Error)
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// createSandboxes uses what is published: its artifact must be there.
func (c *crowd) createSandboxes(ctx context.Context) {
	for ctx.Err() == nil {
		for _, name := range c.names {
			box, _, err := c.sandboxes.Create(context.Background(), sandbox.CreateParams{TeamID: c.team, Template: name})
			switch {
			case err == nil:
				_, _ = c.sandboxes.Kill(context.Background(), c.team, box.ID)
			case errs.CodeOf(err) == "image_missing" || errs.CodeOf(err) == "snapshot_missing":
				c.missing.Add(1)
			}
		}
	}
}

func (c *crowd) removeTemplates(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		_ = c.templates.Remove(context.Background(), c.team, c.names[i%len(c.names)]) // may not be there, or be in use
		time.Sleep(2 * time.Millisecond)
	}
}

// look compares versions with what the host holds: what is named before and after
// the host was asked must be there.
func (c *crowd) look(ctx context.Context) {
	for ctx.Err() == nil {
		before := c.named()
		held := c.host.ArtifactList()
		after := c.named()
		for d, v := range before {
			if after[d] == v && !slices.Contains(held, d) {
				c.missing.Add(1)
			}
		}
	}
}

// named is the artifacts that visible versions name, with one of those.
func (c *crowd) named() map[lehr.Digest]lehr.VersionID {
	all := map[lehr.Digest]lehr.VersionID{}
	list, err := c.store.Templates().List(context.Background(), store.ListTemplates{TeamID: c.team, Limit: 100})
	if err != nil {
		c.t.Errorf("List() = %v", err)
	}
	for _, t := range list {
		for _, d := range []lehr.Digest{t.Version.ImageDigest, t.Version.SnapshotDigest} {
			if d != "" {
				all[d] = t.Version.ID
			}
		}
	}
	return all
}

// settle waits until the host holds what versions name and nothing else.
func (c *crowd) settle() {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		named, extra := c.named(), []lehr.Digest{}
		for _, d := range c.host.ArtifactList() {
			if _, ok := named[d]; !ok {
				extra = append(extra, d)
			}
		}
		condemned, err := c.store.Templates().Condemned(context.Background(), 0, 100)
		if err == nil && len(extra) == 0 && len(condemned) == 0 && len(c.host.Live()) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("left: artifacts %v, removals %v (%v), sandboxes %v", extra, condemned, err, c.host.Live())
		}
	}
}

// TestCollectionUnderLoad lets builds of the same content, cancels, sandboxes,
// removals of templates and collections work against each other: nothing that is
// named or claimed is removed, and everything else is gone at the end.
func TestCollectionUnderLoad(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, func(s store.Store) store.Store { return s })
	c.run(100)
	if n := c.missing.Load(); n > 0 {
		t.Errorf("%d times something was gone that was needed", n)
	}
}

// Without claims the same test sees what is missing: it is not blind.
func TestCollectionUnderLoadSeesMissingClaims(t *testing.T) {
	t.Parallel()
	for try := range 20 {
		c := newCrowd(t, func(s store.Store) store.Store { return claimless{s} })
		c.run(24)
		if c.missing.Load() > 0 {
			return
		}
		t.Logf("try %d: nobody was hit", try)
	}
	t.Error("without claims nothing was ever missing: the check is blind")
}

// claimless is a store whose claims protect nothing.
type claimless struct{ store.Store }

func (s claimless) Templates() store.Templates { return claimlessTemplates{s.Store.Templates()} }

type claimlessTemplates struct{ store.Templates }

func (claimlessTemplates) Claim(context.Context, lehr.Fence, store.Held) error { return nil }
