package template

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

const day = 24 * time.Hour

func TestGarbagePolicy(t *testing.T) {
	t.Parallel()
	held := []agent.Artifact{
		{Digest: "old", Bytes: 10, Age: time.Hour},
		{Digest: "young", Bytes: 10, Age: time.Minute},
		{Digest: "base-fresh", Bytes: 10, Age: 30 * day, Idle: time.Hour, Cached: true},
		{Digest: "base-idle", Bytes: 10, Age: 30 * day, Idle: 8 * day, Cached: true},
		{Digest: "base-warm", Bytes: 10, Age: 30 * day, Idle: 2 * day, Cached: true},
	}
	plain := policy{young: 10 * time.Minute, cacheIdle: 7 * day, cacheBytes: 100}
	for name, test := range map[string]struct {
		change func(*policy)
		want   []lehr.Digest
	}{
		"by age and last use":              {func(*policy) {}, []lehr.Digest{"old", "base-idle"}},
		"a full budget: least recent":      {func(p *policy) { p.cacheBytes = 15 }, []lehr.Digest{"old", "base-idle", "base-warm"}},
		"no budget":                        {func(p *policy) { p.cacheBytes = 0 }, []lehr.Digest{"old", "base-idle", "base-warm", "base-fresh"}},
		"pressed: as much as is missing":   {func(p *policy) { p.wanted = 15 }, []lehr.Digest{"old", "base-idle", "base-warm"}},
		"pressed: young ones of nobody go": {func(p *policy) { p.young = time.Second }, []lehr.Digest{"old", "young", "base-idle"}},
	} {
		p := plain
		test.change(&p)
		var got []lehr.Digest
		for _, a := range p.garbage(held) {
			got = append(got, a.Digest)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: garbage() = %q, want %q", name, got, test.want)
		}
	}
}

// hold makes the host hold an artifact and say so much about it.
func (w *world) hold(name string, a agent.Artifact) lehr.Digest {
	d := lehr.DigestOf([]byte(name))
	w.host.AddArtifact(d)
	if w.host.Details == nil {
		w.host.Details = map[lehr.Digest]agent.Artifact{}
	}
	w.host.Details[d] = a
	return d
}

// What the last version of a content named goes with it, however young.
func TestRemovedTemplateIsFreedAtOnce(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		v := w.put("web", "default").Version
		if err := w.svc.Remove(w.t.Context(), w.team, "web"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.svc.collect(w.t.Context(), false); err != nil || w.holds(v.ImageDigest) {
			t.Errorf("collect() = %v, held %v, want the young image of a removed template gone", err, w.holds(v.ImageDigest))
		}
	})
}

// A base from a registry stays while it is used, and goes a week after that.
func TestCachedBaseGoesWhenIdle(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		used := w.hold("used", agent.Artifact{Bytes: 1, Age: 30 * day, Idle: 6 * day, Cached: true})
		idle := w.hold("idle", agent.Artifact{Bytes: 1, Age: 30 * day, Idle: 8 * day, Cached: true})
		w.collects()
		if !w.holds(used) || w.holds(idle) {
			t.Errorf("held: used %v, idle %v, want true, false", w.holds(used), w.holds(idle))
		}
	})
}

// A host near its disk's end loses bases at once, the least recently used first
// and no more than it needs; nothing that is named or claimed.
func TestFullDiskIsCollectedAtOnce(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host.ArtifactAge = time.Hour
		named := w.put("web", "default").Version.ImageDigest
		warm := w.hold("warm", agent.Artifact{Bytes: 100, Idle: time.Minute, Cached: true})
		cool := w.hold("cool", agent.Artifact{Bytes: 100, Idle: time.Hour, Cached: true})
		run, stop := context.WithCancel(context.Background())
		defer stop()
		go func() { _ = w.svc.Run(run) }()
		time.Sleep(32 * time.Second) // between two looks
		if !w.holds(warm) || !w.holds(cool) {
			t.Fatal("a base was removed without need")
		}
		w.host.SetDisk(agent.Disk{TotalBytes: 1000, FreeBytes: 90, ReserveBytes: 95})
		time.Sleep(5 * time.Second)
		if !w.holds(warm) || w.holds(cool) || !w.holds(named) {
			t.Errorf("held: warm %v, cool %v, named %v, want true, false, true", w.holds(warm), w.holds(cool), w.holds(named))
		}
	})
}

// What a build claims stays, however old it is, until the build is clean.
func TestClaimedArtifactStays(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host.ArtifactAge = time.Hour
		d := w.hold("made", agent.Artifact{Bytes: 1, Age: time.Hour})
		f := w.running("app")
		if err := w.store.Templates().Claim(w.t.Context(), f, store.Held{Host: w.host.ID, Digest: d, Made: true}); err != nil {
			t.Fatal(err)
		}
		w.collects()
		if !w.holds(d) {
			t.Fatal("an artifact that a build claims was removed")
		}
		if _, err := w.store.Builds().Cancel(w.t.Context(), w.team, f.BuildID); err != nil {
			t.Fatal(err)
		}
		w.collects()
		if !w.holds(d) {
			t.Fatal("an artifact was removed before its attempt was clean")
		}
		if err := w.store.Queue().MarkClean(w.t.Context(), f); err != nil {
			t.Fatal(err)
		}
		w.collects()
		if w.holds(d) {
			t.Error("the artifact of a cancelled build is held after its clean-up")
		}
	})
}

// running is a build that was claimed by a worker.
func (w *world) running(name string) lehr.Fence {
	w.t.Helper()
	_, _, err := w.store.Builds().Create(w.t.Context(), store.NewBuild{
		ID: lehr.NewBuildID(), TeamID: w.team, TotalSteps: 1,
		Spec: lehr.BuildSpec{Name: name, Tag: lehr.DefaultTag, BaseTemplate: "minimal", Resources: lehr.DefaultResources},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	b, ok, err := w.store.Queue().Claim(w.t.Context(), "worker", time.Hour)
	if err != nil || !ok {
		w.t.Fatalf("Claim() = %v, %v", ok, err)
	}
	return lehr.Fence{BuildID: b.ID, Attempt: b.Attempt}
}

// A removal whose collector died is ended by a later one, at every point.
func TestRemovalIsEnded(t *testing.T) {
	t.Parallel()
	for _, point := range failpoint.Garbage() {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.host.ArtifactAge = time.Hour
				v := w.put("web", "default").Version
				if err := w.svc.Remove(w.t.Context(), w.team, "web"); err != nil {
					t.Fatal(err)
				}
				fails := failpoint.NewSet()
				fails.Arm(point, failpoint.Error, 0)
				ctx := failpoint.With(w.t.Context(), fails)
				for range 2 { // forgets, then removes
					if _, err := w.svc.collect(ctx, false); err != nil && !errors.Is(err, failpoint.ErrInjected) {
						t.Fatal(err)
					}
				}
				w.collects()
				unfinished, err := w.store.Templates().Condemned(w.t.Context(), 0, 10)
				if err != nil || w.holds(v.ImageDigest) || len(unfinished) > 0 {
					t.Errorf("held %v, unfinished %v, %v, want nothing", w.holds(v.ImageDigest), unfinished, err)
				}
			})
		})
	}
}

// At the start of the only control plane what was made before it is nobody's,
// however young; what is made after it is given time.
func TestEmbeddedStartCollectsWhatACrashLeft(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		time.Sleep(time.Minute)
		left := w.hold("left", agent.Artifact{Bytes: 1, Age: 2 * time.Second})
		svc := New(Options{Templates: w.store.Templates(), Hosts: w.store.Hosts(), Scheduler: w, Pool: w, Embedded: true})
		time.Sleep(time.Second)
		made := w.hold("made", agent.Artifact{Bytes: 1, Age: 100 * time.Millisecond})
		if _, err := svc.collect(w.t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if w.holds(left) || !w.holds(made) {
			t.Errorf("held: left behind %v, made since %v, want false, true", w.holds(left), w.holds(made))
		}
	})
}

// An image that is garbage is never removed from under the version that is being
// recorded for the same content.
func TestImportOfGarbage(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		d := lehr.DigestOf([]byte("root"))
		w.host.AddArtifact(d)
		h := store.Held{Host: w.host.ID, Digest: d}
		if err := w.store.Templates().Condemn(w.t.Context(), h, lehr.Fence{}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := w.svc.put(context.Background(), "web", lehr.Version{ID: lehr.NewVersionID(), TeamID: w.team, Type: lehr.TypeBase, ImageDigest: d})
			done <- err
		}()
		time.Sleep(time.Second)
		select {
		case err := <-done:
			t.Fatalf("put() = %v while its image is being removed, want it to wait", err)
		default:
		}
		if err := w.store.Templates().Absolve(w.t.Context(), h); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("put() = %v once the removal is over, want nil", err)
		}
	})
}
