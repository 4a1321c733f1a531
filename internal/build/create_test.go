package build

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
	"github.com/lehr-dev/lehr/internal/store"
)

func num(n int32) *int32 { return &n }

func TestCreateFillsInDefaults(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		p := w.request("RUN a", "RUN b")
		p.SkipPrePost = false
		b := w.create(p)
		if b.Status != lehr.BuildPending || b.TemplateID == "" || b.TotalSteps != 6 {
			t.Errorf("build = %+v, want pending with a template and 6 steps", b)
		}
		s := b.Spec
		if s.Name != "web" || s.Tag != "default" || s.BaseTemplate != "minimal" || s.Resources != lehr.DefaultResources || s.Limits != lehr.DefaultLimits {
			t.Errorf("spec = %+v, want the defaults", s)
		}
	})
}

// Faults 10, 13 and 20 of the original: whatever is wrong is said at create,
// all of it, before anything exists.
func TestCreateNamesEveryProblem(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		negative := -time.Second
		p := CreateParams{
			TeamID: w.team, Name: "Bad Name", BaseTemplate: "nothing",
			Recipe:      []string{"RUN ok", "BOGUS x", "RUN --timeout=never x", "COPY a b"},
			Healthcheck: "--interval=0s probe",
			VCPUs:       num(0), MemoryMB: num(1), DiskMB: num(1 << 30),
			BuildArgs: map[string]string{"UNKNOWN": "1"},
			Limits:    LimitParams{Run: &negative},
		}
		_, _, err := w.svc.Create(w.ctx(), p)
		var problems recipe.Problems
		if !errors.As(err, &problems) || !errs.IsKind(err, errs.Invalid) {
			t.Fatalf("Create() = %v, want problems of kind Invalid", err)
		}
		fields := map[string]int{}
		for _, p := range problems {
			fields[p.Field]++
		}
		for field, want := range map[string]int{
			"name": 1, "base_template": 1, "recipe": 3, "healthcheck": 1, "vcpus": 1, "memory_mb": 1, "disk_mb": 1, "limits.run": 1,
		} {
			if fields[field] != want {
				t.Errorf("%d problems of %q, want %d, in\n%v", fields[field], field, want, err)
			}
		}
		for _, part := range []string{"recipe line 2", "recipe line 3", "recipe line 4", "healthcheck: "} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error does not say %q:\n%v", part, err)
			}
		}
		all, err := w.svc.List(w.ctx(), store.ListBuilds{Limit: 10})
		if err != nil || len(all) != 0 {
			t.Errorf("List() = %v, %v, want nothing", all, err)
		}
	})
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	zero, long := time.Duration(0), 8*24*time.Hour
	tests := []struct {
		name   string
		change func(*CreateParams)
		code   string
	}{
		{"no name", func(p *CreateParams) { p.Name = "" }, "name_missing"},
		{"another team's name", func(p *CreateParams) { p.Name = "them/web" }, "name_invalid"},
		{"the platform's name", func(p *CreateParams) { p.Name = "minimal:mine" }, "name_reserved"},
		{"no recipe", func(p *CreateParams) { p.Recipe = nil }, "recipe_empty"},
		{"zero interval", func(p *CreateParams) { p.Healthcheck = "--interval=0s x" }, "duration_invalid"},
		{"negative retries", func(p *CreateParams) { p.Healthcheck = "--retries=-1 x" }, "number_invalid"},
		{"two bases", func(p *CreateParams) { p.BaseTemplate, p.Recipe = "a", []string{"FROM b", "RUN x"} }, "base_conflict"},
		{"unknown base", func(p *CreateParams) { p.BaseTemplate = "nothing:v1" }, "base_not_found"},
		{"unknown tag of minimal", func(p *CreateParams) { p.BaseTemplate = "minimal:v9" }, "base_not_found"},
		{"unknown FROM", func(p *CreateParams) { p.Recipe = []string{"FROM nothing", "RUN x"} }, "base_not_found"},
		{"limit too long", func(p *CreateParams) { p.Limits.Build = &long }, "limit_invalid"},
		{"priority", func(p *CreateParams) { p.Priority = 1001 }, "priority_invalid"},
		{"idempotency key", func(p *CreateParams) { p.IdempotencyKey = strings.Repeat("k", 256) }, "idempotency_key_invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				p := w.request("RUN x")
				tt.change(&p)
				if _, _, err := w.svc.Create(w.ctx(), p); errs.CodeOf(err) != tt.code {
					t.Errorf("Create() = %v (%s), want code %s", err, errs.CodeOf(err), tt.code)
				}
			})
		})
	}
	inWorld(t, func(w *world) {
		p := w.request("FROM minimal", "RUN x")
		p.BaseTemplate, p.Limits.Run, p.Limits.Build = "minimal", &zero, &zero
		b := w.create(p)
		if b.Spec.Limits.Run != 0 || b.Spec.Limits.Build != time.Hour {
			t.Errorf("limits = %+v, want run 0 and build 1h", b.Spec.Limits)
		}
	})
}

func TestCreateIsIdempotentByKey(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		p := w.request("RUN x")
		p.IdempotencyKey, p.BuildArgs = "k", nil
		first := w.create(p)
		again, created, err := w.svc.Create(w.ctx(), p)
		if err != nil || created || again.ID != first.ID {
			t.Errorf("the same again = %s, %v, %v, want %s, false", again.ID, created, err, first.ID)
		}
		p.Recipe = []string{"RUN y"}
		if _, _, err := w.svc.Create(w.ctx(), p); !errs.IsKind(err, errs.Conflict) {
			t.Errorf("the key with another request = %v, want Conflict", err)
		}
	})
}

// A base that is a template of the team is used with its configuration, and
// its removal between the check and the record is the user's fault.
func TestBuildOnOwnTemplate(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		put := func(name string) lehr.Digest {
			d := lehr.DigestOf([]byte(name))
			w.host().AddArtifact(d)
			if _, err := w.store.Templates().PutVersion(w.ctx(), name, "default", lehr.Version{
				ID: lehr.NewVersionID(), TeamID: w.team, Type: lehr.TypeBase, Platform: "linux/amd64", ImageDigest: d,
				Resources: lehr.DefaultResources, Config: lehr.ImageConfig{Env: []lehr.EnvVar{{Name: "PATH", Value: "/p"}, {Name: "B", Value: "1"}}},
			}); err != nil {
				t.Fatal(err)
			}
			return d
		}
		d := put("mine")
		put("gone")
		good := w.create(w.request("FROM mine", "RUN x"))
		n, err := w.svc.newBuild(w.ctx(), w.request("FROM gone", "RUN x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.Templates().Remove(w.ctx(), w.team, "gone", ""); err != nil {
			t.Fatal(err)
		}
		bad, _, err := w.store.Builds().Create(w.ctx(), n) // checked before the removal, recorded after it
		if err != nil {
			t.Fatal(err)
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		w.wantEnd(w.wait(bad.ID), lehr.BuildFailed, CodeBaseMissing, lehr.FaultUser)
		b := w.wait(good.ID)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		v, err := w.store.Templates().Version(w.ctx(), b.Artifact.Version)
		if err != nil || v.BaseDigest != d || v.BaseTemplate != "mine" || len(v.Config.Env) != 2 {
			t.Errorf("version = %+v, %v, want base %s and its environment", v, err, d)
		}
	})
}

// A repeated request is answered from the record: neither its base nor a
// registry is looked up again.
func TestRepeatedCreateLooksNothingUp(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		d := lehr.DigestOf([]byte("mine"))
		w.host().AddArtifact(d)
		if _, err := w.store.Templates().PutVersion(w.ctx(), "mine", "default", lehr.Version{
			ID: lehr.NewVersionID(), TeamID: w.team, Type: lehr.TypeBase, Platform: "linux/amd64", ImageDigest: d, Resources: lehr.DefaultResources,
		}); err != nil {
			t.Fatal(err)
		}
		p := w.request("FROM mine", "RUN x")
		p.IdempotencyKey = "k"
		first := w.create(p)
		if _, err := w.svc.Cancel(w.ctx(), w.team, first.ID); err != nil {
			t.Fatal(err)
		}
		if err := w.store.Templates().Remove(w.ctx(), w.team, "mine", ""); err != nil {
			t.Fatal(err)
		}
		again, created, err := w.svc.Create(w.ctx(), p)
		if err != nil || created || again.ID != first.ID {
			t.Errorf("the same again without its base = %s, %v, %v, want %s, false", again.ID, created, err, first.ID)
		}
	})
}

// A team at its limit costs registries nothing.
func TestRefusedCreateAsksNoRegistry(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		if _, err := w.store.Accounts().SetLimits(w.ctx(), w.team, lehr.TeamLimits{PendingBuilds: 1}); err != nil {
			t.Fatal(err)
		}
		p := w.request("RUN x")
		p.IdempotencyKey = "k"
		first := w.create(p)
		_, _, err := w.svc.Create(w.ctx(), w.request("FROM registry.example/team/base:1", "RUN x"))
		if !errs.IsKind(err, errs.Exhausted) || errs.CodeOf(err) != "limit_pending_builds" {
			t.Errorf("Create() beyond the limit = %v, want limit_pending_builds", err)
		}
		if slices.Contains(w.host().Calls(), "ResolveImage") {
			t.Error("a registry was asked for a build that is refused")
		}
		again, created, err := w.svc.Create(w.ctx(), p)
		if err != nil || created || again.ID != first.ID {
			t.Errorf("a repeated create at the limit = %s, %v, %v, want %s, false", again.ID, created, err, first.ID)
		}
	})
}
