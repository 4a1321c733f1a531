package agenttest

import (
	"context"
	"net"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Dial connects to a port that the test serves.
func (h *Host) Dial(ctx context.Context, id lehr.SandboxID, _ uint16) (net.Conn, error) {
	if err := h.enter(ctx, "Dial", id); err != nil {
		return nil, err
	}
	return nil, errs.New(errs.Unavailable, "nothing listens").WithCode("port_closed")
}

// ResolveImage finds nothing.
func (h *Host) ResolveImage(ctx context.Context, r agent.RegistryImage) (agent.ResolvedImage, error) {
	if err := h.enter(ctx, "ResolveImage", ""); err != nil {
		return agent.ResolvedImage{}, err
	}
	return agent.ResolvedImage{}, errs.New(errs.NotFound, "no registry has %q", r.Reference).WithCode("base_not_found")
}

// PullImage finds nothing.
func (h *Host) PullImage(ctx context.Context, r agent.RegistryImage) (agent.Image, error) {
	if err := h.enter(ctx, "PullImage", ""); err != nil {
		return agent.Image{}, err
	}
	return agent.Image{}, errs.New(errs.NotFound, "no registry has %q", r.Reference).WithCode("base_not_found")
}
