package oci

import (
	"context"
	"errors"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// ClientOptions say how a Client works.
type ClientOptions struct {
	// Registries returns what is known of registries now; nil: nothing.
	Registries func() Registries
	// Answer is how long a registry may take, in one try, until manifest and
	// configuration are here; layers then take what they take. Default 5 s.
	Answer time.Duration
	Tries  int           // of an answer; default 2
	Pause  time.Duration // between tries, doubled by each; default 500 ms
	Limits image.Limits
}

// Bounds of what one client does at the same time.
const (
	resolvesAtOnce = 16
	pullsAtOnce    = 16 // the workers of builds are the bound
	layersAtOnce   = 3  // of one pull
)

const (
	defaultAnswer = 5 * time.Second
	defaultTries  = 2
	defaultPause  = 500 * time.Millisecond
	pullAnswer    = 30 * time.Second
	maxPause      = 30 * time.Second
	layerTries    = 5   // without a byte more than before
	layerBreaks   = 200 // of one layer in all
)

var errNoAnswer = errors.New("the registry did not answer in time")

// Client asks registries for images. It is safe for concurrent use.
type Client struct {
	o        ClientOptions
	resolves chan struct{}
	pulls    chan struct{}
}

// NewClient returns a client. It keeps nothing open between calls.
func NewClient(o ClientOptions) *Client {
	if o.Registries == nil {
		o.Registries = func() Registries { return Registries{} }
	}
	if o.Answer <= 0 {
		o.Answer = defaultAnswer
	}
	if o.Tries <= 0 {
		o.Tries = defaultTries
	}
	if o.Pause <= 0 {
		o.Pause = defaultPause
	}
	o.Limits = o.Limits.WithDefaults()
	return &Client{o: o, resolves: make(chan struct{}, resolvesAtOnce), pulls: make(chan struct{}, pullsAtOnce)}
}

// Resolved is what a reference means.
type Resolved struct {
	Ref    lehr.ImageRef    // with the digest of the manifest for this machine
	Config lehr.ImageConfig // without Debian, which only the files say
}

// Resolve asks the registry what ref means now. A login given here goes before
// the host's own. A digest in ref is honoured. Errors: NotFound with
// CodeNotFound; PermissionDenied with CodeDenied or CodeForbidden; Unavailable
// with CodeUnreachable; Invalid with CodePlatform or CodeDigest, and for what
// is no image; Unsupported for manifests of schema 1.
func (c *Client) Resolve(ctx context.Context, ref lehr.ImageRef, login Login) (Resolved, error) {
	if err := enter(ctx, c.resolves); err != nil {
		return Resolved{}, err
	}
	defer func() { <-c.resolves }()
	var r Resolved
	err := c.each(ctx, ref, login, func(ctx context.Context, s *session) error {
		p, digest, err := c.picture(ctx, s, c.o.Answer)
		r = Resolved{Ref: ref.Pinned(lehr.Digest(digest.String()))}
		if err == nil {
			r.Config = imageConfig(p.config.Config)
		}
		return err
	})
	return r, err
}

// enter takes one of the places, or waits for one.
func enter(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// each does what is asked at the registry's mirror, then at the registry. A
// login of the caller's is for the registry itself and no other host.
func (c *Client) each(ctx context.Context, ref lehr.ImageRef, login Login, do func(context.Context, *session) error) error {
	known := c.o.Registries()
	mirror := known.Hosts[ref.Registry].Mirror
	if _, listed := known.Hosts[ref.Registry]; known.OnlyListed && !listed {
		return forbidden("registry %s is not one of those that may be used here", clip(ref.Registry)).
			WithRemedy("who runs Lehr can name it in the registries file")
	}
	if mirror != "" && login == (Login{}) {
		err := c.at(ctx, target{known, ref, mirror, login}, do)
		if err == nil || ctx.Err() != nil || !elsewhere(err) {
			return err
		}
	}
	return c.at(ctx, target{known, ref, ref.Registry, login}, do)
}

// target is what is asked of whom.
type target struct {
	known Registries
	ref   lehr.ImageRef
	host  string // the reference's registry or its mirror
	login Login
}

// elsewhere reports whether another registry may do better.
func elsewhere(err error) bool {
	switch errs.CodeOf(err) {
	case CodeNotFound, CodeDenied, CodeUnreachable, CodeForbidden:
		return true
	}
	return false
}

// at does what is asked at one host, again where that may help.
func (c *Client) at(ctx context.Context, t target, do func(context.Context, *session) error) error {
	if t.login == (Login{}) && t.known.Login != nil {
		own, err := t.known.Login(t.host)
		if err != nil {
			return errs.Wrap(err, errs.Unavailable, "oci.login", "the host's own login for "+t.host+" cannot be read").WithCode(CodeUnreachable)
		}
		t.login = own
	}
	pause := c.o.Pause
	for try := 1; ; try++ {
		err := c.once(ctx, t, do)
		var again *temporary
		if !errors.As(err, &again) {
			return err
		}
		if try == c.o.Tries {
			return again.err
		}
		if err := wait(ctx, max(pause, min(again.after, maxPause))); err != nil {
			return err
		}
		pause *= 2
	}
}

func (c *Client) once(ctx context.Context, t target, do func(context.Context, *session) error) error {
	answer, done := limited(ctx, c.o.Answer)
	s, err := open(answer, t)
	done()
	if err != nil {
		return err
	}
	defer s.close()
	return do(ctx, s)
}

// wait lets a time pass, or ctx end.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// limited ends with ctx, or with errNoAnswer after a time.
func limited(ctx context.Context, d time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(d, func() { cancel(errNoAnswer) })
	return ctx, func() { late.Stop(); cancel(nil) }
}

// picture reads manifest and configuration of the image for this machine.
func (c *Client) picture(ctx context.Context, s *session, answer time.Duration) (picture, v1.Hash, error) {
	ctx, done := limited(ctx, answer)
	defer done()
	in := remoteSource{session: s, ctx: ctx}
	id := s.ref.Tag
	if s.ref.Digest != "" {
		id = string(s.ref.Digest)
	}
	raw, err := s.manifest(ctx, id)
	if err != nil {
		return picture{}, v1.Hash{}, err
	}
	index, err := isIndex(raw, s.ref.String())
	if err != nil {
		return picture{}, v1.Hash{}, err
	}
	digest, err := v1.NewHash(string(lehr.DigestOf(raw)))
	if err == nil && index {
		digest, err = choose(in, raw, "")
	}
	if err != nil {
		return picture{}, v1.Hash{}, err
	}
	p, err := pictureOf(in.having(digest, raw), digest)
	if err == nil {
		err = p.check()
	}
	if err == nil {
		err = c.checkSizes(p, s.ref)
	}
	return p, digest, err
}

// checkSizes refuses an image before anything of it is fetched.
func (c *Client) checkSizes(p picture, ref lehr.ImageRef) error {
	left := c.o.Limits.MaxBytes
	if len(p.manifest.Layers) > maxLayers {
		return errs.New(errs.Invalid, "%s has %d layers, more than %d", ref, len(p.manifest.Layers), maxLayers)
	}
	for _, d := range p.manifest.Layers {
		if d.Digest.Algorithm != "sha256" || d.Size < 0 {
			return errs.New(errs.Invalid, "%s has a layer %s of %d bytes", ref, clip(d.Digest.String()), d.Size)
		}
		if left -= d.Size; left < 0 {
			return errs.New(errs.Invalid, "the layers of %s have more than %d bytes", ref, c.o.Limits.MaxBytes).WithCode(image.CodeTooLarge)
		}
	}
	return nil
}

// maxLayers is more than what any engine can mount.
const maxLayers = 500
