package agent

import (
	"context"

	"github.com/lehr-dev/lehr/internal/engine/gvisor"
	"github.com/lehr-dev/lehr/internal/hostnet"
)

// network is the host's network as the engine needs it: its leases fit as they
// are.
type network struct{ net *hostnet.Network }

var _ gvisor.Network = network{}

// Attach makes a slot's network.
func (n network) Attach(ctx context.Context, name string) (gvisor.NetLease, error) {
	l, err := n.net.Attach(ctx, name)
	if err != nil {
		return nil, err // not l, which would be a lease that is nil
	}
	return l, nil
}

// Adopt finds the network of an earlier process's slot.
func (n network) Adopt(ctx context.Context, name string) (gvisor.NetLease, error) {
	l, err := n.net.Adopt(ctx, name)
	if err != nil {
		return nil, err
	}
	return l, nil
}
