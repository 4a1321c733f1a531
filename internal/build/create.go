package build

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/build/plan"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
	"github.com/lehr-dev/lehr/internal/store"
)

// CreateParams is a request for a build, before defaults. Nil pointers and zero
// values mean "not given".
type CreateParams struct {
	TeamID         lehr.TeamID
	Name           string // NAME or NAME:TAG
	BaseTemplate   string // FROM, else minimal
	Recipe         []string
	Healthcheck    string
	VCPUs          *int32
	MemoryMB       *int32
	DiskMB         *int32
	SkipPrePost    bool
	BuildArgs      map[string]string
	NoCache        bool
	Limits         LimitParams
	Priority       int32
	IdempotencyKey string
	Metadata       map[string]string
	// RegistryAuth is the login at the registry of the base. It is kept sealed
	// until the build has ended, and nowhere else.
	RegistryAuth agent.RegistryAuth `json:",omitzero"`
}

// LimitParams are time limits; nil means the default, 0 the build's own limit.
type LimitParams struct {
	Run, PrePost, Healthcheck, Build *time.Duration
}

// Bounds of a request.
const (
	maxLimit    = 7 * 24 * time.Hour
	maxPriority = 1000

	// MaxPending bounds the pending builds of a team that has no limit of its own.
	MaxPending = 10_000
)

// Create validates p, records a pending build and wakes a worker. created is
// false where the idempotency key named an earlier build, which is returned.
// Invalid names every problem at once; nothing exists then.
func (s *BuildService) Create(ctx context.Context, p CreateParams) (build lehr.Build, created bool, err error) {
	// Before anything is looked up: what the first request found may be gone.
	if build, ok, err := s.replayed(ctx, p); ok || err != nil {
		return build, false, err
	}
	n, err := s.newBuild(ctx, p)
	if errs.IsKind(err, errs.Exhausted) {
		// The room may have gone to the same request, sent at the same time.
		if build, ok, again := s.replayed(ctx, p); ok || again != nil {
			return build, false, again
		}
	}
	if err != nil {
		return lehr.Build{}, false, err
	}
	build, created, err = s.o.Store.Builds().Create(ctx, n)
	if err != nil || !created {
		return build, created, err
	}
	if err := failpoint.Hit(ctx, failpoint.CreateAfterInsert); err != nil {
		s.o.Log.Warn("no worker was woken", "build", build.ID, "error", err)
		return build, true, nil
	}
	s.push(ctx, build.ID)
	if err := failpoint.Hit(ctx, failpoint.CreateAfterPush); err != nil {
		s.o.Log.Warn("after a build was queued", "build", build.ID, "error", err)
	}
	return build, true, nil
}

// replayed returns the build of a request whose key was used before; ok is
// false where there is none.
func (s *BuildService) replayed(ctx context.Context, p CreateParams) (build lehr.Build, ok bool, err error) {
	if p.IdempotencyKey == "" || lehr.CheckIdempotencyKey(p.IdempotencyKey) != nil {
		return lehr.Build{}, false, nil
	}
	build, err = s.o.Store.Builds().ByKey(ctx, p.TeamID, p.IdempotencyKey, requestDigest(p))
	if errs.IsKind(err, errs.NotFound) {
		return lehr.Build{}, false, nil
	}
	return build, err == nil, err
}

// newBuild checks a request. The error is a recipe.Problems that names all that
// is wrong, or says that the check could not be made.
func (s *BuildService) newBuild(ctx context.Context, p CreateParams) (store.NewBuild, error) {
	c := checker{p: p}
	spec := c.spec()
	parsed, err := recipe.ParseRecipe(p.Recipe)
	c.join(err)
	login := c.login()
	var base resolvedBase
	baseErr := s.o.Store.Accounts().RoomForBuild(ctx, p.TeamID, MaxPending) // no registry is asked for what is refused
	named, err := parsed.Base(p.BaseTemplate, recipe.DefaultPlatform, p.BuildArgs)
	if c.join(err); err == nil && baseErr == nil {
		base, baseErr = s.resolveBase(ctx, p.TeamID, named, login)
		spec.BaseTemplate, spec.BaseImage = base.shown, base.image
	}
	if aboutBase(baseErr, named) {
		c.fail("base_template", errs.CodeOf(baseErr), remedyOf(baseErr), "%s", safeMessage(baseErr))
	}
	total := c.plan(&spec, parsed, base.config)
	switch {
	case len(c.problems) > 0:
		return store.NewBuild{}, c.problems
	case baseErr != nil:
		return store.NewBuild{}, baseErr
	}
	n := store.NewBuild{
		ID: lehr.NewBuildID(), TeamID: p.TeamID, Spec: spec, RecipeSchema: recipe.SchemaVersion,
		TotalSteps: total, BaseDigest: base.digest,
		IdempotencyKey: p.IdempotencyKey, SpecDigest: requestDigest(p), MaxPending: MaxPending,
	}
	if base.image != "" {
		n.RegistryLogin, err = s.sealLogin(n.ID, login)
	}
	return n, err
}

// requestDigest tells whether a repeated idempotency key repeats the request.
// Of a login only the user's name counts: the digest is stored, and a password
// could be guessed from it.
func requestDigest(p CreateParams) lehr.Digest {
	p.IdempotencyKey, p.RegistryAuth = "", agent.RegistryAuth{Username: p.RegistryAuth.Username}
	b, err := json.Marshal(p) // maps are written in order
	if err != nil {
		panic("build: a request cannot be encoded: " + err.Error()) // plain data always can
	}
	return lehr.DigestOf(b)
}

// checker collects the problems of one request.
type checker struct {
	p        CreateParams
	problems recipe.Problems
}

func (c *checker) fail(field, code, remedy, format string, args ...any) {
	c.problems = append(c.problems, recipe.Problem{
		Field: field, Kind: errs.Invalid, Code: code, Message: fmt.Sprintf(format, args...), Remedy: remedy,
	})
}

// join takes over the problems of err; the same one is not listed twice.
func (c *checker) join(err error) {
	joined := recipe.Join(err)
	if joined == nil {
		return
	}
	problems, _ := joined.(recipe.Problems) //nolint:errorlint // what Join returns
	for _, p := range problems {
		if !contains(c.problems, p) {
			c.problems = append(c.problems, p)
		}
	}
}

func contains(all recipe.Problems, p recipe.Problem) bool {
	for _, q := range all {
		if p == q {
			return true
		}
	}
	return false
}

// spec checks everything but recipe, healthcheck and base.
func (c *checker) spec() lehr.BuildSpec {
	spec := lehr.BuildSpec{
		Recipe: c.p.Recipe, Healthcheck: strings.TrimSpace(c.p.Healthcheck), SkipPrePost: c.p.SkipPrePost,
		BuildArgs: c.p.BuildArgs, NoCache: c.p.NoCache, Priority: c.p.Priority, Metadata: c.p.Metadata,
	}
	spec.Name, spec.Tag = c.name()
	low, high, normal := lehr.MinResources, lehr.MaxResources, lehr.DefaultResources
	spec.Resources = lehr.Resources{
		VCPUs:    c.size("vcpus", c.p.VCPUs, [3]int32{low.VCPUs, high.VCPUs, normal.VCPUs}),
		MemoryMB: c.size("memory_mb", c.p.MemoryMB, [3]int32{low.MemoryMB, high.MemoryMB, normal.MemoryMB}),
		DiskMB:   c.size("disk_mb", c.p.DiskMB, [3]int32{low.DiskMB, high.DiskMB, normal.DiskMB}),
	}
	limits, usual := c.p.Limits, lehr.DefaultLimits
	spec.Limits = lehr.Limits{
		Run:         c.limit("limits.run", limits.Run, usual.Run),
		PrePost:     c.limit("limits.prepost", limits.PrePost, usual.PrePost),
		Healthcheck: c.limit("limits.healthcheck", limits.Healthcheck, usual.Healthcheck),
		Build:       c.limit("limits.build", limits.Build, usual.Build),
	}
	if spec.Limits.Build == 0 {
		spec.Limits.Build = usual.Build
	}
	if c.p.Priority < -maxPriority || c.p.Priority > maxPriority {
		c.fail("priority", "priority_invalid", "", "%d is not between %d and %d", c.p.Priority, -maxPriority, maxPriority)
	}
	if err := lehr.CheckIdempotencyKey(c.p.IdempotencyKey); err != nil {
		c.fail("idempotency_key", "idempotency_key_invalid", "use a UUID or another short name", "%v", err)
	}
	if err := lehr.CheckMetadata(c.p.Metadata); err != nil {
		c.fail("metadata", "metadata_invalid", "shorten names and values, or give fewer", "%v", err)
	}
	return spec
}

func (c *checker) name() (name, tag string) {
	const remedy = "write NAME or NAME:TAG, such as web or web:v2"
	if c.p.Name == "" {
		c.fail("name", "name_missing", remedy, "is missing")
		return "", ""
	}
	ref, err := lehr.ParseRef(c.p.Name)
	switch {
	case err != nil:
		c.fail("name", "name_invalid", remedy, "%s", err)
	case ref.Team != "":
		c.fail("name", "name_invalid", remedy, "names a team: templates are built for the key's own")
	case ref.Name == lehr.MinimalTemplate:
		c.fail("name", "name_reserved", "choose another name", "%q is the platform's own base", ref.Name)
	}
	return ref.Name, ref.Tag
}

// size checks a size; bounds are the least, the most and the default.
func (c *checker) size(field string, given *int32, bounds [3]int32) int32 {
	if given == nil {
		return bounds[2]
	}
	if *given < bounds[0] || *given > bounds[1] {
		c.fail(field, "size_invalid", "ask for a size between the two, or leave it out for the usual one", "%d is not between %d and %d", *given, bounds[0], bounds[1])
	}
	return *given
}

func (c *checker) limit(field string, given *time.Duration, usual time.Duration) time.Duration {
	if given == nil {
		return usual
	}
	if *given < 0 || *given > maxLimit {
		c.fail(field, "limit_invalid", "0 is the build's own limit", "%v is not between 0 and %v", *given, maxLimit)
	}
	return *given
}

// plan checks recipe and healthcheck on the base and returns the number of
// steps. The recipe's own healthcheck is shown where the request gives none.
func (c *checker) plan(spec *lehr.BuildSpec, parsed recipe.Recipe, base lehr.ImageConfig) int32 {
	in := plan.Input{
		Recipe: parsed, Base: base, SkipPrePost: spec.SkipPrePost, BuildArgs: spec.BuildArgs, Limits: spec.Limits,
	}
	if spec.Healthcheck != "" {
		h, err := recipe.ParseHealthcheck(spec.Healthcheck)
		c.join(err)
		in.Healthcheck = &h
	}
	made, err := plan.Make(in)
	c.join(err)
	if spec.Healthcheck == "" {
		spec.Healthcheck = ownHealthcheck(parsed)
	}
	return int32(made.TotalSteps())
}

// ownHealthcheck is the recipe's last HEALTHCHECK as the parameter would be
// written, or nothing where it cannot be written so.
func ownHealthcheck(r recipe.Recipe) string {
	text := ""
	for _, ins := range r.Instructions {
		h, ok := ins.Body.(recipe.Healthcheck)
		if !ok {
			continue
		}
		text = ""
		if _, rest, found := strings.Cut(strings.TrimSpace(ins.Cmd), " "); found && !h.Off {
			same, err := recipe.ParseHealthcheck(rest)
			if err == nil && reflect.DeepEqual(same, h) {
				text = rest
			}
		}
	}
	return text
}
