package fleet

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/place"
)

// records is a hostStore in memory.
type records struct {
	mu    sync.Mutex
	hosts map[lehr.HostID]lehr.Host
}

func (r *records) Put(_ context.Context, h lehr.Host) (lehr.Host, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.SeenAt = time.Now()
	r.hosts[h.ID] = h
	return h, nil
}

func (r *records) Get(_ context.Context, id lehr.HostID) (lehr.Host, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.hosts[id]
	if !ok {
		return lehr.Host{}, errs.New(errs.NotFound, "no host %s", id)
	}
	return h, nil
}

func (r *records) state(id lehr.HostID) lehr.HostState {
	h, _ := r.Get(context.Background(), id)
	return h.State
}

// fleet starts a Keep for each host and ends them with the test.
func fleet(t *testing.T, r *records, hosts ...*agenttest.Host) *HostClientPool {
	t.Helper()
	pool := NewHostClientPool(Options{Hosts: r})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, h := range hosts {
		dial := func(context.Context) (agent.Agent, error) { return h, nil }
		wg.Go(func() { _ = pool.Keep(ctx, Member{Name: "test", Dial: dial}) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	synctest.Wait()
	return pool
}

func newRecords() *records { return &records{hosts: map[lehr.HostID]lehr.Host{}} }

func TestKeepConnectsAndRecords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, r := agenttest.NewHost(), newRecords()
		pool := fleet(t, r, h)
		if err := pool.WaitReady(t.Context()); err != nil {
			t.Fatalf("WaitReady() = %v, want nil", err)
		}
		if a, err := pool.GetForHost(h.ID); err != nil || a != agent.Agent(h) {
			t.Errorf("GetForHost() = %v, %v, want the host's agent", a, err)
		}
		if got := r.state(h.ID); got != lehr.HostReady {
			t.Errorf("recorded state = %q, want %q", got, lehr.HostReady)
		}
	})
}

func TestSilentHostIsUnreachableThenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, r := agenttest.NewHost(), newRecords()
		var mu sync.Mutex
		var down error
		h.Hook = func(context.Context, string, lehr.SandboxID) error {
			mu.Lock()
			defer mu.Unlock()
			return down
		}
		pool := fleet(t, r, h)
		set := func(err error) { mu.Lock(); defer mu.Unlock(); down = err }

		set(errors.New("silence"))
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if _, err := pool.GetForHost(h.ID); err != nil {
			t.Errorf("GetForHost() after 12 s of silence = %v, want nil", err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if _, err := pool.GetForHost(h.ID); !errs.IsKind(err, errs.Unavailable) {
			t.Errorf("GetForHost() after 22 s of silence = %v, want Unavailable", err)
		}
		if got := r.state(h.ID); got != lehr.HostUnreachable {
			t.Errorf("recorded state = %q, want %q", got, lehr.HostUnreachable)
		}

		set(nil)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if _, err := pool.GetForHost(h.ID); err != nil {
			t.Errorf("GetForHost() once it answers again = %v, want nil", err)
		}
	})
}

func TestEvictDialsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := agenttest.NewHost()
		pool := fleet(t, newRecords(), h)
		pool.Evict(h.ID)
		if _, err := pool.GetForHost(h.ID); !errs.IsKind(err, errs.Unavailable) {
			t.Errorf("GetForHost() after Evict = %v, want Unavailable", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := pool.GetForHost(h.ID); err != nil {
			t.Errorf("GetForHost() a second later = %v, want nil", err)
		}
	})
}

func TestDrainingHostStaysDraining(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, r := agenttest.NewHost(), newRecords()
		if _, err := r.Put(t.Context(), lehr.Host{ID: h.ID, State: lehr.HostDraining}); err != nil {
			t.Fatal(err)
		}
		pool := fleet(t, r, h)
		_, err := NewHostScheduler(pool, place.DefaultPolicy).SelectHost(t.Context(), lehr.Placement{Resources: lehr.DefaultResources})
		if errs.CodeOf(err) != "no_host" {
			t.Errorf("SelectHost() = %v, want code no_host", err)
		}
		if got := r.state(h.ID); got != lehr.HostDraining {
			t.Errorf("recorded state = %q, want %q", got, lehr.HostDraining)
		}
	})
}

func TestSelectHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := agenttest.NewHost(), agenttest.NewHost()
		image := lehr.DigestOf([]byte("image"))
		b.AddArtifact(image)
		s := NewHostScheduler(fleet(t, newRecords(), a, b), place.DefaultPolicy)
		tests := []struct {
			name string
			p    lehr.Placement
			want lehr.HostID
			code string
		}{
			{"where the image is", lehr.Placement{Resources: lehr.DefaultResources, Artifacts: []lehr.Digest{image}}, b.ID, ""},
			{"not where an attempt was lost", lehr.Placement{Resources: lehr.DefaultResources, Avoid: []lehr.HostID{b.ID}}, a.ID, ""},
			{"another engine", lehr.Placement{Resources: lehr.DefaultResources, Engine: lehr.DigestOf([]byte("old"))}, "", "snapshot_unfit"},
			{"too big for all", lehr.Placement{Resources: lehr.Resources{VCPUs: 1, MemoryMB: 1 << 20, DiskMB: 1}}, "", "no_fit"},
			{"image nowhere", lehr.Placement{Resources: lehr.DefaultResources, Artifacts: []lehr.Digest{lehr.DigestOf(nil)}}, "", "no_room"},
		}
		for _, tt := range tests {
			got, err := s.SelectHost(t.Context(), tt.p)
			if got != tt.want || (tt.code != "" && errs.CodeOf(err) != tt.code) {
				t.Errorf("%s: SelectHost() = %q, %v, want %q and code %q", tt.name, got, err, tt.want, tt.code)
			}
		}
	})
}

func TestSelectHostSpreadsBetweenHeartbeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := agenttest.NewHost(), agenttest.NewHost()
		s := NewHostScheduler(fleet(t, newRecords(), a, b), place.DefaultPolicy)
		placed := map[lehr.HostID]int{}
		for range 8 {
			id, err := s.SelectHost(t.Context(), lehr.Placement{Resources: lehr.DefaultResources})
			if err != nil {
				t.Fatalf("SelectHost() = %v, want nil", err)
			}
			placed[id]++
		}
		if placed[a.ID] != 4 || placed[b.ID] != 4 {
			t.Errorf("8 placements on two equal hosts = %v, want 4 each", placed)
		}
	})
}
