package template

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// world is a service on SQLite in memory with one scripted host.
type world struct {
	t     *testing.T
	store store.Store
	host  *agenttest.Host
	svc   *Service
	team  lehr.TeamID
}

func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, host: agenttest.NewHost()}
		s, err := lite.Open(context.Background(), lite.Options{Path: lite.Memory})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		team, err := s.Accounts().EnsureTeam(t.Context(), "testers")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Hosts().Put(t.Context(), lehr.Host{ID: w.host.ID, State: lehr.HostReady}); err != nil {
			t.Fatal(err)
		}
		w.store, w.team = s, team.ID
		w.svc = New(Options{Templates: s.Templates(), Hosts: s.Hosts(), Scheduler: w, Pool: w})
		f(w)
	})
}

func (w *world) SelectHost(context.Context, lehr.Placement) (lehr.HostID, error) {
	return w.host.ID, nil
}

func (w *world) GetForHost(lehr.HostID) (agent.Agent, error) { return w.host, nil }

// put records a version with an image on the host.
func (w *world) put(name, tag string) lehr.Tagged {
	w.t.Helper()
	id := lehr.NewVersionID()
	d := lehr.DigestOf([]byte(id))
	w.host.AddArtifact(d)
	got, err := w.store.Templates().PutVersion(w.t.Context(), name, tag, lehr.Version{
		ID: id, TeamID: w.team, Type: lehr.TypeBase, Platform: "linux/amd64", ImageDigest: d, Resources: lehr.DefaultResources,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func (w *world) holds(d lehr.Digest) bool {
	ok, err := w.host.HasArtifact(w.t.Context(), d)
	return ok && err == nil
}

// collects runs Run for some minutes.
func (w *world) collects() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	_ = w.svc.Run(ctx)
}

func TestGet(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		v1, v2 := w.put("web", "v1"), w.put("web", "v2")
		other := w.put("api", "default")
		tests := []struct {
			name string
			want lehr.VersionID
		}{
			{"web", v2.Version.ID},
			{"web:v1", v1.Version.ID},
			{"WEB:v2", v2.Version.ID},
			{"api", other.Version.ID},
			{string(v1.Template.ID), v2.Version.ID},
			{"web:default", ""},
			{"nothing", ""},
		}
		for _, tt := range tests {
			got, err := w.svc.Get(w.t.Context(), w.team, tt.name)
			if got.Version.ID != tt.want || (tt.want == "") != errs.IsKind(err, errs.NotFound) {
				t.Errorf("Get(%q) = %q, %v, want %q", tt.name, got.Version.ID, err, tt.want)
			}
		}
		if _, err := w.svc.Get(w.t.Context(), w.team, "a b"); !errs.IsKind(err, errs.Invalid) {
			t.Errorf("Get(a b) = %v, want Invalid", err)
		}
	})
}

func TestImportNamesTheContent(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		first, err := w.svc.Import(w.t.Context(), w.team, agent.ImportTar, strings.NewReader("root"))
		if err != nil {
			t.Fatalf("Import() = %v, want nil", err)
		}
		want := "upload-" + lehr.DigestOf([]byte("root")).Hex()[:16]
		if first.Template.Name != want || first.Tag != lehr.DefaultTag {
			t.Errorf("Import() = %s:%s, want %s:default", first.Template.Name, first.Tag, want)
		}
		second, err := w.svc.Import(w.t.Context(), w.team, agent.ImportTar, strings.NewReader("root"))
		if err != nil || second.Version.ID != first.Version.ID {
			t.Errorf("the same content again = %q, %v, want %q", second.Version.ID, err, first.Version.ID)
		}
	})
}

func TestMinimalIsRecordedOnce(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		first, err := w.svc.Minimal(w.t.Context(), w.host)
		if err != nil || first.Template.TeamID != lehr.PlatformTeam || first.Template.Name != "minimal" || !first.Version.Config.Debian {
			t.Fatalf("Minimal() = %+v, %v, want the platform's minimal", first, err)
		}
		second, err := w.svc.Minimal(w.t.Context(), w.host)
		if err != nil || second.Version.ID != first.Version.ID {
			t.Errorf("Minimal() again = %q, %v, want %q", second.Version.ID, err, first.Version.ID)
		}
		if got, err := w.svc.Get(w.t.Context(), w.team, "minimal"); err != nil || got.Version.ID != first.Version.ID {
			t.Errorf("Get(minimal) = %q, %v, want %q", got.Version.ID, err, first.Version.ID)
		}
		if err := w.svc.Remove(w.t.Context(), w.team, "minimal"); !errs.IsKind(err, errs.NotFound) {
			t.Errorf("Remove(minimal) = %v, want NotFound", err)
		}
	})
}

func TestRemovedTemplateIsFreed(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host.ArtifactAge = time.Hour
		gone, kept := w.put("web", "v1"), w.put("web", "v2")
		if err := w.svc.Remove(w.t.Context(), w.team, "web:v1"); err != nil {
			t.Fatalf("Remove() = %v, want nil", err)
		}
		w.collects()
		if w.holds(gone.Version.ImageDigest) || !w.holds(kept.Version.ImageDigest) {
			t.Errorf("held: removed %v, kept %v, want false, true", w.holds(gone.Version.ImageDigest), w.holds(kept.Version.ImageDigest))
		}
		if err := w.svc.Remove(w.t.Context(), w.team, string(kept.Template.ID)); err != nil {
			t.Fatalf("Remove(id) = %v, want nil", err)
		}
		w.collects()
		if w.holds(kept.Version.ImageDigest) {
			t.Error("the image of a removed template is still held")
		}
	})
}

// An orphan of a crashed build is freed; one that is young may belong to a
// build that is about to publish.
func TestOrphansAreFreedOnceTheyAreOld(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		orphan := lehr.DigestOf([]byte("orphan"))
		w.host.AddArtifact(orphan)
		w.host.ArtifactAge = 9 * time.Minute
		w.collects()
		if !w.holds(orphan) {
			t.Error("a young artifact was removed")
		}
		w.host.ArtifactAge = 11 * time.Minute
		w.collects()
		if w.holds(orphan) {
			t.Error("an old orphan was kept")
		}
	})
}

// The same content under two names stays as long as one of them does.
func TestSharedArtifactStays(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host.ArtifactAge = time.Hour
		a := w.put("a", "default")
		b := a.Version
		b.ID = lehr.NewVersionID()
		if _, err := w.store.Templates().PutVersion(w.t.Context(), "b", "default", b); err != nil {
			t.Fatal(err)
		}
		if err := w.svc.Remove(w.t.Context(), w.team, "a"); err != nil {
			t.Fatal(err)
		}
		w.collects()
		if !w.holds(b.ImageDigest) {
			t.Error("an image that another version names was removed")
		}
	})
}

// A sandbox on the host keeps the image it runs from.
func TestUsedArtifactStays(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host.ArtifactAge = time.Hour
		v := w.put("web", "default").Version
		if _, err := w.host.CreateSandbox(w.t.Context(), agent.CreateSandbox{ID: lehr.NewSandboxID(), Image: v.ImageDigest}); err != nil {
			t.Fatal(err)
		}
		if err := w.svc.Remove(w.t.Context(), w.team, "web"); err != nil {
			t.Fatal(err)
		}
		w.collects()
		if !w.holds(v.ImageDigest) {
			t.Error("an image that a sandbox uses was removed")
		}
	})
}
