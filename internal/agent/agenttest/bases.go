package agenttest

import (
	"context"
	"strings"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// RegistryBase is an image that the host's registries have.
type RegistryBase struct {
	Digest   lehr.Digest // of the manifest, for now
	Config   lehr.ImageConfig
	Debian   bool   // said once it is pulled
	Password string // that a login must have; empty: everybody may pull
	Template string // an alias: the template that stands in for it
}

// Offer makes an image known by its name and tag, as lehr.ImageRef has them, or
// gives it another digest. The digests it had stay known.
func (h *Host) Offer(tagged string, b RegistryBase) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.offers == nil {
		h.offers = map[string]RegistryBase{}
	}
	name, _, _ := strings.Cut(tagged, "@")
	h.offers[name] = b
	h.offers[name+"@"+string(b.Digest)] = b
}

// Withdraw makes the registries forget an image.
func (h *Host) Withdraw(reference string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.offers, reference)
}

func (h *Host) offered(r agent.RegistryImage) (RegistryBase, lehr.ImageRef, error) {
	ref, err := lehr.ParseImageRef(r.Reference)
	if err != nil {
		return RegistryBase{}, ref, errs.New(errs.Invalid, "%w", err).WithCode("reference_invalid")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	b, ok := h.offers[ref.String()]
	switch {
	case !ok:
		return b, ref, errs.New(errs.NotFound, "registry %s has no image %s", ref.Registry, ref).WithCode("base_not_found")
	case b.Password != r.Auth.Password:
		return b, ref, errs.New(errs.PermissionDenied, "registry %s does not give %s", ref.Registry, ref).WithCode("registry_denied")
	}
	return b, ref, nil
}

// ResolveImage finds what Offer made known.
func (h *Host) ResolveImage(ctx context.Context, r agent.RegistryImage) (agent.ResolvedImage, error) {
	if err := h.enter(ctx, "ResolveImage", ""); err != nil {
		return agent.ResolvedImage{}, err
	}
	b, ref, err := h.offered(r)
	if err != nil || b.Template != "" {
		return agent.ResolvedImage{Template: b.Template}, err
	}
	return agent.ResolvedImage{Reference: ref.Pinned(b.Digest).String(), Config: b.Config}, nil
}

// PullImage makes an image named by the digest of the pinned reference.
func (h *Host) PullImage(ctx context.Context, r agent.RegistryImage) (agent.Image, error) {
	if err := h.enter(ctx, "PullImage", ""); err != nil {
		return agent.Image{}, err
	}
	b, _, err := h.offered(r)
	if err != nil {
		return agent.Image{}, err
	}
	d := lehr.DigestOf([]byte(b.Digest))
	h.AddArtifact(d)
	config := b.Config
	config.Debian = b.Debian
	return agent.Image{Digest: d, Bytes: 100, Config: config, Source: "oci " + r.Reference}, nil
}

// PullProgress is half of everything.
func (h *Host) PullProgress(ctx context.Context, _ string) (agent.PullProgress, error) {
	if err := h.enter(ctx, "PullProgress", ""); err != nil {
		return agent.PullProgress{}, err
	}
	return agent.PullProgress{Layers: 2, LayersDone: 1, Bytes: 4 << 20, BytesDone: 2 << 20}, nil
}
