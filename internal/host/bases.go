package host

import (
	"context"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
)

// ResolveImage asks the registry what a reference means now.
func (h *Host) ResolveImage(ctx context.Context, r agent.RegistryImage) (agent.ResolvedImage, error) {
	return agent.ResolvedImage{}, errs.New(errs.Unsupported, "images of registries cannot be used yet")
}

// PullImage makes an image of a registry's.
func (h *Host) PullImage(ctx context.Context, r agent.RegistryImage) (agent.Image, error) {
	return agent.Image{}, errs.New(errs.Unsupported, "images of registries cannot be used yet")
}
