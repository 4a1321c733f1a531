package build

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/build/plan"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// Vault seals what is stored where others read.
type Vault interface {
	// Seal encrypts a text for one context.
	Seal(context string, plaintext []byte) []byte
	// Open returns what Seal was given for the same context.
	Open(context string, sealed []byte) ([]byte, error)
}

// resolveLimit is how long a create waits for what a base means: a host's two
// tries at a registry, and some.
const resolveLimit = 15 * time.Second

// resolvedBase is what a create knows of a base.
type resolvedBase struct {
	shown  string           // for BuildSpec.BaseTemplate
	image  string           // for BuildSpec.BaseImage
	digest lehr.Digest      // of a template's image
	config lehr.ImageConfig // with apt where that is not known
}

// resolveBase finds a base: a template of the team, one of the platform, then
// what stands in for an image, then the image in its registry. The platform's
// minimal may not have been made yet: what it will be is known. An error about
// the base itself has a code, and a message that names what was tried.
func (s *BuildService) resolveBase(ctx context.Context, team lehr.TeamID, base recipe.BaseRef, login agent.RegistryAuth) (resolvedBase, error) {
	r := resolvedBase{shown: base.String()}
	tried := ""
	if ref := base.Template; ref.Name != "" {
		v, err := s.resolveTemplate(ctx, team, ref)
		if err == nil {
			r.digest, r.config = v.ImageDigest, v.Config
			return r, nil
		}
		if !errs.IsKind(err, errs.NotFound) {
			return r, err
		}
		tried = fmt.Sprintf("there is no template %s", base)
	}
	if base.Image.Repository == "" {
		return r, errs.New(errs.NotFound, "%s", tried).WithCode(CodeBaseNotFound).WithRemedy("see lehr templates ls")
	}
	found, err := s.resolveImage(ctx, team, base.Image, login)
	if err != nil {
		return r, triedToo(tried, err)
	}
	if found.Template == "" {
		r.image, r.config = found.Reference, found.Config
		r.config.Debian = true // found out when it is pulled
		return r, nil
	}
	ref, err := lehr.ParseRef(found.Template)
	if err == nil {
		var v lehr.Version
		v, err = s.resolveTemplate(ctx, team, ref)
		r.shown, r.digest, r.config = strings.TrimSuffix(ref.String(), ":"+lehr.DefaultTag), v.ImageDigest, v.Config
	}
	if errs.IsKind(err, errs.NotFound) {
		err = errs.New(errs.NotFound, "template %s, which stands in for %s, does not exist", ref, base.Image).WithCode(CodeBaseNotFound).
			WithRemedy("who runs Lehr names it in the registries file")
	}
	return r, err
}

func (s *BuildService) resolveTemplate(ctx context.Context, team lehr.TeamID, ref lehr.Ref) (lehr.Version, error) {
	if isMinimal(ref) && ref.Tag == lehr.DefaultTag {
		found, err := s.o.Store.Templates().Resolve(ctx, lehr.PlatformTeam, ref)
		if errs.IsKind(err, errs.NotFound) {
			return lehr.Version{Config: plan.MinimalConfig()}, nil
		}
		return found.Version, err
	}
	found, err := s.o.Store.Templates().Resolve(ctx, team, ref)
	return found.Version, err
}

// resolveImage asks a host, which alone speaks to registries.
func (s *BuildService) resolveImage(ctx context.Context, team lehr.TeamID, ref lehr.ImageRef, login agent.RegistryAuth) (agent.ResolvedImage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, resolveLimit, errs.New(errs.Unavailable, "no host said in time what %s is", ref).WithCode(CodeRegistryUnreachable))
	defer cancel()
	id, err := s.o.Scheduler.SelectHost(ctx, lehr.Placement{TeamID: team})
	if err != nil {
		return agent.ResolvedImage{}, err
	}
	host, err := s.o.Pool.GetForHost(id)
	if err != nil {
		return agent.ResolvedImage{}, err
	}
	found, err := host.ResolveImage(ctx, agent.RegistryImage{Reference: ref.String(), Auth: login})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return found, err
}

// triedToo puts what was tried first in front of an error.
func triedToo(tried string, err error) error {
	if tried == "" {
		return err
	}
	e := errs.New(errs.KindOf(err), "%s, and %s", tried, safeMessage(err)).WithCode(errs.CodeOf(err))
	if e.Remedy = remedyOf(err); e.Remedy == "" {
		e.Remedy = remedy(errs.CodeOf(err))
	}
	return e
}

// aboutBase reports whether an error of resolveBase is the request's. So is a
// registry out of reach where the name may as well be a mistyped template's.
func aboutBase(err error, named recipe.BaseRef) bool {
	if errs.CodeOf(err) == CodeRegistryUnreachable {
		return named.Template.Name != ""
	}
	switch errs.KindOf(err) {
	case errs.NotFound, errs.PermissionDenied, errs.Invalid, errs.Unsupported:
		return true
	}
	return false
}

// Bounds of a login.
const (
	maxUsername = 1 << 10
	maxPassword = 32 << 10 // tokens of clouds are long
)

// login checks a login, of which it never repeats anything.
func (c *checker) login() agent.RegistryAuth {
	a := c.p.RegistryAuth
	const field, code = "registry_auth", "registry_auth_invalid"
	for _, part := range []struct {
		value string
		most  int
	}{{a.Username, maxUsername}, {a.Password, maxPassword}, {a.Token, maxPassword}} {
		if len(part.value) > part.most || strings.ContainsFunc(part.value, isControl) {
			c.fail(field, code, "", "has a part that is too long or holds control characters")
			return agent.RegistryAuth{}
		}
	}
	switch {
	case a == (agent.RegistryAuth{}):
	case a.Token != "" && a.Username+a.Password != "", a.Token == "" && (a.Username == "" || a.Password == ""):
		c.fail(field, code, "", "wants user name and password, or a token alone")
		return agent.RegistryAuth{}
	}
	return a
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// sealContext names what is sealed and whose.
func sealContext(id lehr.BuildID) string { return "registry login of " + string(id) }

// sealLogin returns what is stored of a login, nothing for none.
func (s *BuildService) sealLogin(id lehr.BuildID, a agent.RegistryAuth) ([]byte, error) {
	if a == (agent.RegistryAuth{}) {
		return nil, nil
	}
	if s.o.Vault == nil {
		return nil, errs.New(errs.Unsupported, "this server keeps no logins").WithField("registry_auth")
	}
	plain, err := json.Marshal(storedLogin(a))
	if err != nil {
		return nil, errs.New(errs.Invalid, "the login cannot be kept").WithField("registry_auth")
	}
	return s.o.Vault.Seal(sealContext(id), plain), nil
}

// storedLogin is a login as it is sealed.
type storedLogin struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	Token    string `json:"token,omitempty"`
}

// registryLogin returns the login that the attempt's build was made with.
func (a *attempt) registryLogin(ctx context.Context) (agent.RegistryAuth, error) {
	var sealed []byte
	err := a.row(ctx, func(ctx context.Context) (err error) {
		sealed, err = a.o.Store.Builds().RegistryLogin(ctx, a.fence)
		return err
	})
	if err != nil || sealed == nil {
		return agent.RegistryAuth{}, err
	}
	if a.o.Vault == nil {
		return agent.RegistryAuth{}, userFault(ctx, a.where(), CodeRegistryDenied, "the login that was given cannot be opened any more")
	}
	plain, err := a.o.Vault.Open(sealContext(a.build.ID), sealed)
	var l storedLogin
	if err == nil {
		err = json.Unmarshal(plain, &l)
	}
	if err != nil { // the secret key was lost; its words may quote nothing
		return agent.RegistryAuth{}, userFault(ctx, a.where(), CodeRegistryDenied, "the login that was given cannot be opened any more")
	}
	return agent.RegistryAuth(l), nil
}

// settleImage chooses the host first, because each pulls for itself, and makes
// the sandbox of exactly the image that the create pinned.
func (a *attempt) settleImage(ctx context.Context) error {
	host, err := a.choose(ctx)
	if err != nil {
		return err
	}
	login, err := a.registryLogin(ctx)
	if err != nil {
		return err
	}
	pulled := a.sayPull(ctx, host.agent)
	image, err := host.agent.PullImage(ctx, agent.RegistryImage{Reference: a.build.Spec.BaseImage, Auth: login})
	pulled()
	if err != nil {
		return a.pullFault(ctx, err)
	}
	return a.open(ctx, host, lehr.Tagged{Version: lehr.Version{ImageDigest: image.Digest, Config: image.Config}})
}

// pullTick is how often the log says how far a pull is.
const pullTick = 2 * time.Second

// sayPull writes how far the pull of the base has come, when that changes.
func (a *attempt) sayPull(ctx context.Context, host agent.Agent) (done context.CancelFunc) {
	watching, done := context.WithCancel(ctx)
	a.spawn(func() {
		var said agent.PullProgress
		for a.o.Clock.Sleep(watching, pullTick) == nil {
			p, err := host.PullProgress(watching, a.build.Spec.BaseImage)
			if err != nil || p.Layers == 0 || p == said {
				continue // the pull itself says what is wrong
			}
			said = p
			a.say(ctx, a.where(), "pulling %s: %d of %d layers, %s of %s", a.build.Spec.BaseImage,
				p.LayersDone, p.Layers, sizeText(p.BytesDone), sizeText(p.Bytes))
		}
	})
	return done
}

// pullFault explains why a base could not be pulled. What the registry says of
// the image is the user's; that it cannot be reached is not.
func (a *attempt) pullFault(ctx context.Context, err error) error {
	switch kind := errs.KindOf(err); {
	case ctx.Err() != nil || noRoom(err):
		return a.hostFault(ctx, err)
	case kind == errs.NotFound:
		return userFault(ctx, a.where(), CodeBaseMissing, safeMessage(err))
	case kind == errs.PermissionDenied:
		return userFault(ctx, a.where(), errs.CodeOf(err), safeMessage(err))
	case kind == errs.Invalid, kind == errs.Unsupported:
		return userFault(ctx, a.where(), CodeBaseInvalid, safeMessage(err))
	case errs.CodeOf(err) == CodeRegistryUnreachable:
		return platformFault(ctx, a.where(), CodeRegistryUnreachable, err)
	}
	return a.hostFault(ctx, err)
}
