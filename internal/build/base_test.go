package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// vault is a seal for tests: it hides nothing but from who looks for the text.
type vault struct{}

func (vault) Seal(context string, b []byte) []byte { return append([]byte(context+"|"), flip(b)...) }

func (vault) Open(context string, b []byte) ([]byte, error) {
	rest, ok := strings.CutPrefix(string(b), context+"|")
	if !ok {
		return nil, errors.New("another context")
	}
	return flip([]byte(rest)), nil
}

func flip(b []byte) []byte {
	b = slices.Clone(b)
	for i := range b {
		b[i] ^= 0x55
	}
	return b
}

func digestN(n int) lehr.Digest { return lehr.DigestOf(fmt.Append(nil, n)) }

// offers makes images known that tests build on.
func (w *world) offers() {
	w.svc.o.Vault = vault{}
	config := lehr.ImageConfig{Env: []lehr.EnvVar{{Name: "PATH", Value: "/p"}}, User: "7"}
	w.host().Offer("docker.io/library/python:3.12", agenttest.RegistryBase{Digest: digestN(1), Config: config})
	w.host().Offer("docker.io/library/debian:x", agenttest.RegistryBase{Digest: digestN(2), Config: config, Debian: true})
	w.host().Offer("ghcr.io/me/private:1", agenttest.RegistryBase{Digest: digestN(3), Config: config, Password: "canary"})
	w.host().Offer("quay.io/alias/of:1", agenttest.RegistryBase{Template: "mine"})
	w.host().Offer("quay.io/alias/of:nothing", agenttest.RegistryBase{Template: "nothing"})
}

func (w *world) put(name string) lehr.Digest {
	w.t.Helper()
	d := lehr.DigestOf([]byte(name))
	w.host().AddArtifact(d)
	if _, err := w.store.Templates().PutVersion(w.ctx(), name, "default", lehr.Version{
		ID: lehr.NewVersionID(), TeamID: w.team, Type: lehr.TypeBase, Platform: "linux/amd64", ImageDigest: d,
		Resources: lehr.DefaultResources, Config: lehr.ImageConfig{Env: []lehr.EnvVar{{Name: "PATH", Value: "/t"}}},
	}); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// The digest is found out at create; each attempt uses it, whatever the tag
// means by then, and the version records it.
func TestBuildOnAnImage(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.offers()
		b := w.create(w.request("FROM python:3.12", "RUN x"))
		pinned := "docker.io/library/python:3.12@" + string(digestN(1))
		if b.Spec.BaseTemplate != "python:3.12" || b.Spec.BaseImage != pinned {
			t.Errorf("base %q, image %q, want %q", b.Spec.BaseTemplate, b.Spec.BaseImage, pinned)
		}
		w.host().Offer("docker.io/library/python:3.12", agenttest.RegistryBase{Digest: digestN(9)})
		w.work(w.svc, WorkerOptions{Embedded: true})
		b = w.wait(b.ID)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		v, err := w.store.Templates().Version(w.ctx(), b.Artifact.Version)
		if err != nil || v.BaseTemplate != pinned || v.BaseDigest != lehr.DigestOf([]byte(digestN(1))) || v.Config.User != "7" || v.Config.Debian {
			t.Errorf("version = %+v, %v, want the base that was pinned and its configuration", v, err)
		}
	})
}

// Whether an image has apt is known only after the pull; the number of steps
// stays what create said.
func TestStepsOfAnImageWithAndWithoutApt(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.offers()
		w.work(w.svc, WorkerOptions{Embedded: true})
		for base, apt := range map[string]bool{"python:3.12": false, "debian:x": true} {
			p := w.request("FROM "+base, "RUN x")
			p.SkipPrePost = false
			b := w.create(p)
			total := b.TotalSteps
			b = w.wait(b.ID)
			w.wantEnd(b, lehr.BuildSuccess, "", "")
			if b.TotalSteps != total || len(b.Steps) != int(total) || total != 5 {
				t.Errorf("%s: %d steps of %d, want the 5 that create said", base, len(b.Steps), b.TotalSteps)
			}
			for _, s := range b.Steps {
				left := s.CacheReason == "the base has no apt"
				if !s.OK || left != (!apt && s.Phase != lehr.PhaseRecipe) {
					t.Errorf("%s: step %+v, want it left out only where there is no apt", base, s)
				}
			}
			said := slices.ContainsFunc(w.lines(b.ID), func(l string) bool { return strings.Contains(l, "the base has no apt") })
			if said == apt {
				t.Errorf("%s: the log says that there is no apt: %v", base, said)
			}
		}
	})
}

// A template of the team goes before an image of the same name, and an alias
// may lead to one.
func TestTemplatesGoBeforeImages(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.offers()
		mine := w.put("mine")
		w.host().Offer("docker.io/library/mine:latest", agenttest.RegistryBase{Digest: digestN(5)})
		for from, shown := range map[string]string{"mine": "mine", "quay.io/alias/of:1": "mine"} {
			p := w.request("FROM "+from, "RUN x")
			p.Name = "web-" + shown
			b := w.create(p)
			if b.Spec.BaseTemplate != shown || b.Spec.BaseImage != "" || b.BaseDigest != mine {
				t.Errorf("FROM %s: base %q, image %q, digest %s, want the template", from, b.Spec.BaseTemplate, b.Spec.BaseImage, b.BaseDigest)
			}
		}
		if slices.Contains(w.host().Calls(), "PullImage") {
			t.Error("an image was pulled for a template")
		}
	})
}

func TestCreateRefusesImages(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.offers()
		down := errs.New(errs.Unavailable, "registry x cannot be reached").WithCode(CodeRegistryUnreachable)
		for name, tt := range map[string]struct {
			base  string
			login agent.RegistryAuth
			hook  error
			kind  errs.Kind
			code  string
			parts []string
		}{
			"nothing of that name":  {base: "nothing:1", kind: errs.Invalid, code: "base_not_found", parts: []string{"no template nothing:1", "docker.io", "library/nothing:1"}},
			"no such image":         {base: "ghcr.io/me/none", kind: errs.Invalid, code: "base_not_found", parts: []string{"ghcr.io"}},
			"minimal is reserved":   {base: "minimal:v9", kind: errs.Invalid, code: "base_not_found", parts: []string{"no template minimal:v9"}},
			"no login":              {base: "ghcr.io/me/private:1", kind: errs.Invalid, code: "registry_denied", parts: []string{"does not give"}},
			"another login":         {base: "ghcr.io/me/private:1", login: agent.RegistryAuth{Username: "u", Password: "guess-canary"}, kind: errs.Invalid, code: "registry_denied"},
			"an alias of nothing":   {base: "quay.io/alias/of:nothing", kind: errs.Invalid, code: "base_not_found", parts: []string{"stands in"}},
			"registry down":         {base: "ghcr.io/me/x", hook: down, kind: errs.Unavailable, code: CodeRegistryUnreachable},
			"down, maybe a typo":    {base: "me/x", hook: down, kind: errs.Invalid, code: CodeRegistryUnreachable, parts: []string{"no template me/x", "cannot be reached"}},
			"private address":       {base: "10.0.0.1/x", hook: errs.New(errs.PermissionDenied, "private").WithCode("registry_forbidden"), kind: errs.Invalid, code: "registry_forbidden"},
			"other platform":        {base: "a.b/x", hook: errs.New(errs.Invalid, "for s390x").WithCode("platform_missing"), kind: errs.Invalid, code: "platform_missing"},
			"half a login":          {base: "python:3.12", login: agent.RegistryAuth{Username: "u"}, kind: errs.Invalid, code: "registry_auth_invalid"},
			"two logins":            {base: "python:3.12", login: agent.RegistryAuth{Username: "u", Password: "canary", Token: "canary"}, kind: errs.Invalid, code: "registry_auth_invalid"},
			"control characters":    {base: "python:3.12", login: agent.RegistryAuth{Token: "canary\r\nX: y"}, kind: errs.Invalid, code: "registry_auth_invalid"},
			"a login without limit": {base: "python:3.12", login: agent.RegistryAuth{Token: strings.Repeat("canary", 10_000)}, kind: errs.Invalid, code: "registry_auth_invalid"},
		} {
			w.host().Hook = func(_ context.Context, method string, _ lehr.SandboxID) error {
				if method == "ResolveImage" {
					return tt.hook
				}
				return nil
			}
			p := w.request("RUN x")
			p.BaseTemplate, p.RegistryAuth = tt.base, tt.login
			_, _, err := w.svc.Create(w.ctx(), p)
			if !errs.IsKind(err, tt.kind) || errs.CodeOf(err) != tt.code {
				t.Errorf("%s: Create() = %v (%s), want %s, %s", name, err, errs.CodeOf(err), tt.kind, tt.code)
				continue
			}
			for _, part := range tt.parts {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: Create() = %v, want %q in it", name, err, part)
				}
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, p), "canary") {
				t.Errorf("%s: the login is in %v or %#v", name, err, p)
			}
		}
		// The recipe's own problems are said with the base's.
		w.host().Hook = nil
		p := w.request("BOGUS")
		p.BaseTemplate = "ghcr.io/me/none"
		_, _, err := w.svc.Create(w.ctx(), p)
		var problems recipe.Problems
		if !errors.As(err, &problems) || len(problems) != 2 {
			t.Errorf("Create() = %v, want two problems", err)
		}
	})
}

// A silent host does not hold a create for ever.
func TestCreateWaitsNotForEver(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Hook = func(ctx context.Context, method string, _ lehr.SandboxID) error {
			if method == "ResolveImage" {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		began := time.Now()
		p := w.request("FROM ghcr.io/me/x", "RUN x")
		if _, _, err := w.svc.Create(w.ctx(), p); errs.CodeOf(err) != CodeRegistryUnreachable {
			t.Errorf("Create() = %v, want %s", err, CodeRegistryUnreachable)
		}
		if took := time.Since(began); took != resolveLimit { // the bubble's time
			t.Errorf("Create() took %v, want %v", took, resolveLimit)
		}
	})
}

// A login reaches the host, and nothing that can be read. It does not change
// what an idempotency key stands for.
func TestLoginOfABuild(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.offers()
		p := w.request("FROM ghcr.io/me/private:1", "RUN x")
		p.RegistryAuth, p.IdempotencyKey = agent.RegistryAuth{Username: "me", Password: "canary"}, "k"
		b := w.create(p)
		again, created, err := w.svc.Create(w.ctx(), p)
		if err != nil || created || again.ID != b.ID {
			t.Errorf("the same again = %s, %v, %v, want %s", again.ID, created, err, b.ID)
		}
		digest := requestDigest(p)
		p.RegistryAuth.Password = "another"
		if requestDigest(p) != digest {
			t.Error("the stored digest of a request depends on the password, which could be guessed from it")
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		b = w.wait(b.ID)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if text := fmt.Sprintf("%+v %v", b, w.lines(b.ID)); strings.Contains(text, "canary") {
			t.Errorf("the build or its log holds the login:\n%s", text)
		}
		_, err = w.store.Builds().RegistryLogin(w.ctx(), lehr.Fence{BuildID: b.ID, Attempt: b.Attempt})
		if !errs.IsKind(err, errs.Conflict) {
			t.Errorf("RegistryLogin() of an ended build = %v, want conflict", err)
		}
	})
}

// What the registry says of the image is the user's fault; that it is away is
// not, and is tried again.
func TestPullFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err   *errs.Error
		times int
		code  string
		fault lehr.Fault // empty: it succeeds
	}{
		"gone":        {errs.New(errs.NotFound, "gone").WithCode("base_not_found"), 99, CodeBaseMissing, lehr.FaultUser},
		"denied":      {errs.New(errs.PermissionDenied, "no").WithCode("registry_denied"), 99, CodeRegistryDenied, lehr.FaultUser},
		"damaged":     {errs.New(errs.Invalid, "bad layer").WithCode("digest_mismatch"), 99, CodeBaseInvalid, lehr.FaultUser},
		"schema 1":    {errs.New(errs.Unsupported, "old").WithCode("manifest_schema1"), 99, CodeBaseInvalid, lehr.FaultUser},
		"away":        {errs.New(errs.Unavailable, "away").WithCode("registry_unreachable"), 99, CodeRegistryUnreachable, lehr.FaultPlatform},
		"away once":   {errs.New(errs.Unavailable, "away").WithCode("registry_unreachable"), 1, "", ""},
		"disk full":   {errs.New(errs.Exhausted, "full").WithCode("host_disk_full"), 2, "", ""},
		"removed":     {errs.New(errs.Corrupt, "damaged on disk"), 1, "", ""},
		"interrupted": {errs.New(errs.Unavailable, "the host agent is stopping"), 1, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.offers()
				left := tt.times
				w.host().Hook = func(_ context.Context, method string, _ lehr.SandboxID) error {
					if method == "PullImage" && left > 0 {
						left--
						return tt.err
					}
					return nil
				}
				w.work(w.svc, WorkerOptions{Embedded: true})
				b := w.build(w.request("FROM python:3.12", "RUN x"))
				if tt.fault == "" {
					w.wantEnd(b, lehr.BuildSuccess, "", "")
				} else {
					w.wantEnd(b, lehr.BuildFailed, tt.code, tt.fault)
				}
			})
		})
	}
}

// A long pull is told of.
func TestLogSaysHowFarAPullIs(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.offers()
		w.host().Hook = func(ctx context.Context, method string, _ lehr.SandboxID) error {
			if method == "PullImage" {
				time.Sleep(10 * time.Second) // the bubble's time
			}
			return ctx.Err()
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.build(w.request("FROM python:3.12", "RUN x"))
		want := "system: pulling docker.io/library/python:3.12@" + string(digestN(1)) + ": 1 of 2 layers, 2.0 MB of 4.0 MB"
		if n := count(w.lines(b.ID), want); n != 1 {
			t.Errorf("the log says %d times %q, want once\n%s", n, want, strings.Join(w.lines(b.ID), "\n"))
		}
	})
}

func count(lines []string, want string) (n int) {
	for _, l := range lines {
		if l == want {
			n++
		}
	}
	return n
}

// A cancel during a pull ends the attempt at once.
func TestCancelDuringAPull(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.offers()
		pulling := make(chan struct{})
		w.host().Hook = func(ctx context.Context, method string, _ lehr.SandboxID) error {
			if method == "PullImage" {
				close(pulling)
				<-ctx.Done()
			}
			return ctx.Err()
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.create(w.request("FROM python:3.12", "RUN x"))
		<-pulling
		if _, err := w.svc.Cancel(w.ctx(), w.team, b.ID); err != nil {
			t.Fatal(err)
		}
		if b = w.wait(b.ID); b.Status != lehr.BuildCancelled {
			t.Errorf("status = %s, want cancelled", b.Status)
		}
		w.wantNothingLeft()
	})
}
