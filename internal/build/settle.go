package build

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/build/plan"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// placePatience is how long an attempt that has run its steps waits for room
// for its next sandbox.
const placePatience = 10 * time.Second

// Bounds of the time for which a build that no host could take is put back.
const (
	firstPlaceWait = time.Second
	lastPlaceWait  = 15 * time.Second
)

// settle finds a base and a host for it and makes the build's sandbox there.
// Without room the build goes back to the queue at once, so that it holds no
// worker while it waits.
func (a *attempt) settle(ctx context.Context) error {
	var err error
	for range makeTries {
		if err = a.settleOnce(ctx); !errors.Is(err, errBaseGone) || ctx.Err() != nil {
			break // else removed as garbage before it was claimed; now it stays
		}
	}
	if err == nil || !noRoom(err) {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	waited := a.o.Clock.Now().Sub(a.build.StartedAt)
	switch {
	case errs.CodeOf(err) == "no_fit" && waited >= a.o.Timing.Unfit:
		fault := buildError(a.where(), lehr.FaultUser, CodeTooLarge, safeMessage(err))
		fault.Remedy = "ask for less, or add a host that is large enough"
		return &failure{BuildError: fault, final: true, cause: err}
	case waited >= a.o.Timing.Unplaced:
		fault := buildError(a.where(), lehr.FaultPlatform, CodeUnplaced, safeMessage(err))
		return &failure{BuildError: fault, final: true, cause: err}
	}
	return &noPlace{wait: min(max(waited/8, firstPlaceWait), lastPlaceWait), why: safeMessage(err)}
}

// noPlace says that no host has room now, and when to look again.
type noPlace struct {
	wait time.Duration
	why  string
}

// Error implements error.
func (n *noPlace) Error() string { return "no host has room now: " + n.why }

// errBaseGone says that the host does not have the image a sandbox was to begin
// with.
var errBaseGone = errors.New("the base is not on the host any more")

const codeImageMissing = "image_missing"

// noRoom reports whether waiting may help.
func noRoom(err error) bool {
	code := errs.CodeOf(err)
	return errs.IsKind(err, errs.Exhausted) || code == "host_unreachable" || code == "no_host"
}

func (a *attempt) settleOnce(ctx context.Context) error {
	if a.build.Spec.BaseImage != "" {
		return a.settleImage(ctx)
	}
	ref, err := lehr.ParseRef(a.build.Spec.BaseTemplate)
	if err != nil {
		return platformFault(ctx, a.where(), CodePlatform, errs.New(errs.Internal, "the recorded base: %w", err))
	}
	if isMinimal(ref) {
		return a.settleMinimal(ctx)
	}
	base, err := a.o.Store.Templates().Resolve(ctx, a.build.TeamID, ref)
	if errs.IsKind(err, errs.NotFound) {
		return userFault(ctx, a.where(), CodeBaseMissing, fmt.Sprintf("the base %s does not exist any more", ref))
	}
	if err != nil {
		return platformFault(ctx, a.where(), CodePlatform, err)
	}
	host, err := a.choose(ctx, base.Version.ImageDigest)
	if err != nil {
		return err
	}
	return a.open(ctx, host, base)
}

// settleMinimal chooses the host first, because each makes its own minimal base.
func (a *attempt) settleMinimal(ctx context.Context) error {
	host, err := a.choose(ctx)
	if err != nil {
		return err
	}
	made := a.sayWaiting(ctx, "making the base minimal, which is done once and takes about half a minute, on host %s", host.id)
	base, err := a.o.Bases.Minimal(ctx, host.agent)
	made()
	if err != nil {
		return a.hostFault(ctx, err)
	}
	return a.open(ctx, host, base)
}

// quiet is how long something may take before the log says what is waited for.
const quiet = time.Second

// sayWaiting writes a line unless done is called soon.
func (a *attempt) sayWaiting(ctx context.Context, format string, args ...any) (done context.CancelFunc) {
	waiting, done := context.WithCancel(ctx)
	a.spawn(func() {
		if a.o.Clock.Sleep(waiting, quiet) == nil {
			a.say(ctx, a.where(), format, args...)
		}
	})
	return done
}

// isMinimal reports whether ref is the platform's own base, which no team can
// have under that name.
func isMinimal(ref lehr.Ref) bool { return ref.Name == lehr.MinimalTemplate && ref.Team == "" }

// chosen is a host that an attempt may use.
type chosen struct {
	id    lehr.HostID
	agent agent.Agent
}

func (a *attempt) choose(ctx context.Context, artifacts ...lehr.Digest) (chosen, error) {
	p := lehr.Placement{TeamID: a.build.TeamID, Resources: a.build.Spec.Resources, Artifacts: artifacts, Avoid: a.avoid}
	id, err := a.o.Scheduler.SelectHost(ctx, p)
	if err != nil {
		return chosen{}, err
	}
	host, err := a.o.Pool.GetForHost(id)
	if err != nil {
		return chosen{}, err
	}
	a.info, err = host.Info(ctx)
	if err != nil && ctx.Err() == nil && hostSilent(err) {
		// It went away since it was chosen. Nothing was begun, so nothing is lost.
		err = errs.Wrap(err, errs.Unavailable, "build.choose", "the host's agent does not answer").WithCode("host_unreachable")
	}
	return chosen{id: id, agent: host}, err
}

// open records the host and makes the sandbox of the base on it.
func (a *attempt) open(ctx context.Context, host chosen, base lehr.Tagged) error {
	a.base = base
	if err := a.openSandbox(ctx, host, base.Version.ImageDigest); err != nil {
		return err
	}
	a.say(ctx, a.where(), "base %s (%s) on host %s, sandbox %s",
		a.build.Spec.BaseTemplate, base.Version.ImageDigest, host.id, a.sandbox)
	return nil
}

// openSandbox makes a sandbox of an image. Host and id are recorded before the
// host is asked, so that whoever cleans up knows where to look. It has no
// default environment: steps bring theirs, and only what a user's account
// implies, such as HOME, is added to it.
func (a *attempt) openSandbox(ctx context.Context, host chosen, image lehr.Digest) error {
	id := lehr.NewSandboxID()
	if err := a.row(ctx, func(ctx context.Context) error {
		return a.o.Store.Queue().Place(ctx, a.fence, host.id, id)
	}); err != nil {
		return err
	}
	a.hostID = host.id
	a.setPlace(host.agent, id)
	if err := a.hit(ctx, failpoint.PlaceAfterCommit); err != nil {
		return err
	}
	if err := a.hold(ctx, image, false); err != nil {
		return err
	}
	_, err := host.agent.CreateSandbox(ctx, agent.CreateSandbox{
		ID: id, TeamID: a.build.TeamID, TemplateID: a.build.TemplateID, Fence: a.fence,
		Image: image, Resources: a.build.Spec.Resources, TTL: a.sandboxTTL(),
		Config: lehr.ImageConfig{User: "0", Workdir: "/"},
	})
	if err != nil {
		gone := errs.CodeOf(err) == codeImageMissing
		err = a.hostFault(ctx, err)
		if gone {
			err = errors.Join(errBaseGone, err)
		}
		if noRoom(err) { // tried again under another id
			return errors.Join(err, a.closeSandbox(ctx))
		}
		return err
	}
	return a.hit(ctx, failpoint.SandboxAfterCreate)
}

// hostFault explains an error of a call to a host that concerns no running
// sandbox. A full host is left to settle, which waits.
func (a *attempt) hostFault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if noRoom(err) {
		return err
	}
	code := CodePlatform
	if errs.IsKind(err, errs.Unavailable) {
		code = CodeHostLost
	}
	return platformFault(ctx, a.where(), code, err)
}

// closeSandbox destroys the attempt's sandbox, if there is one, whatever became
// of ctx.
func (a *attempt) closeSandbox(ctx context.Context) error {
	host, id := a.place()
	if host == nil || id == "" {
		return nil
	}
	ctx, cancel := a.hostContext(ctx)
	defer cancel()
	if err := host.DestroySandbox(ctx, id); err != nil {
		return err
	}
	a.setPlace(host, "")
	return nil
}

// makePlan plans the build on the base as it is now.
func (a *attempt) makePlan(ctx context.Context) error {
	base := a.base.Version.Config
	if err := a.completePath(ctx, &base); err != nil {
		return err
	}
	in, err := planInput(a.build.Spec, base, a.base.Version.ImageDigest)
	if err == nil {
		in.AptCounted = a.build.Spec.BaseImage != ""
		a.plan, err = plan.Make(in)
	}
	if err != nil {
		return userFault(ctx, a.where(), CodeRecipeInvalid, safeMessage(err))
	}
	for _, w := range a.plan.Warnings {
		a.say(ctx, spot{phase: lehr.PhaseRecipe}, "warning: %s%s", warningPlace(w), w.Message)
	}
	return nil
}

func warningPlace(w recipe.Warning) string {
	switch {
	case w.Line == 0:
		return ""
	case w.EndLine > w.Line:
		return fmt.Sprintf("recipe lines %d-%d: ", w.Line, w.EndLine)
	}
	return fmt.Sprintf("recipe line %d: ", w.Line)
}

// completePath asks the guest daemon for the PATH of a base that records none.
func (a *attempt) completePath(ctx context.Context, base *lehr.ImageConfig) error {
	if _, ok := recipe.Vars(base.Env).Get("PATH"); ok {
		return nil
	}
	env, err := a.host.Environment(ctx, a.sandbox)
	if err != nil {
		return a.callFault(ctx, a.where(), err)
	}
	if path, ok := recipe.Vars(env).Get("PATH"); ok {
		base.Env = recipe.Vars(base.Env).With("PATH", path)
	}
	return nil
}

// planInput is a build's request as the planner takes it.
func planInput(spec lehr.BuildSpec, base lehr.ImageConfig, digest lehr.Digest) (plan.Input, error) {
	r, err := recipe.ParseRecipe(spec.Recipe)
	if err != nil {
		return plan.Input{}, err
	}
	in := plan.Input{
		Recipe: r, Base: base, BaseDigest: digest, SkipPrePost: spec.SkipPrePost,
		BuildArgs: spec.BuildArgs, Limits: spec.Limits,
	}
	if spec.Healthcheck != "" {
		h, err := recipe.ParseHealthcheck(spec.Healthcheck)
		if err != nil {
			return plan.Input{}, err
		}
		in.Healthcheck = &h
	}
	return in, nil
}
