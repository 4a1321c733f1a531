package gvisor

import (
	"context"
	"net/netip"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Network is what the engine needs of a host's network: one namespace per
// slot. Its methods may be called concurrently, for different names.
type Network interface {
	// Attach makes a network of that name, the slot's id, ready to be used by
	// one sentry. When it fails or ctx ends first nothing is left behind.
	Attach(ctx context.Context, name string) (NetLease, error)

	// Adopt finds the network that an earlier process made under that name.
	// Errors: NotFound when there is none, or nothing that has to be released.
	Adopt(ctx context.Context, name string) (NetLease, error)
}

// NetLease is the network of one slot.
type NetLease interface {
	// NamespacePath opens the network namespace. It is used by Prepare only,
	// which reads from it the addresses, routes and permanent neighbours of every
	// interface that is up, and takes the addresses away so that the host's
	// kernel does not answer for the sandbox.
	NamespacePath() string

	// HostDevice is the host's end of the sandbox's link: packets to InnerAddr
	// that leave through it reach the sandbox.
	HostDevice() string

	// InnerAddr is the sandbox's own address, which other sandboxes may share.
	InnerAddr() netip.Addr

	// Release starts to take away everything of the network; Gone is closed
	// when nothing of it is left. Release may be called again.
	Release(ctx context.Context) error
	Gone() <-chan struct{}
}

// attach takes a network and reads it; the sentry gets its links from here.
func (s *slot) attach(ctx context.Context) (*links, error) {
	if s.e.opts.Network == nil {
		return loopbackOnly(), nil
	}
	lease, err := s.e.opts.Network.Attach(ctx, string(s.id))
	if err != nil {
		return nil, err
	}
	s.setLease(lease)
	return readLinks(lease.NamespacePath(), s.e.conf)
}

// adoptNetwork finds the network of a slot that an earlier engine made. A slot
// without one can still be removed, and its sandbox, if it lives, cannot be
// dialled.
func (s *slot) adoptNetwork(ctx context.Context) error {
	if s.e.opts.Network == nil {
		return nil
	}
	lease, err := s.e.opts.Network.Adopt(ctx, string(s.id))
	if errs.IsKind(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.setLease(lease)
	return nil
}

func (s *slot) setLease(lease NetLease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease = lease
}

// netLease returns the slot's network, nil without one.
func (s *slot) netLease() NetLease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

// detach gives the network back and waits until it is gone.
func (s *slot) detach(ctx context.Context) error {
	lease := s.netLease()
	if lease == nil {
		return nil
	}
	if err := lease.Release(ctx); err != nil {
		return err
	}
	select {
	case <-lease.Gone():
		return nil
	case <-ctx.Done():
		return errs.Wrap(context.Cause(ctx), errs.Unavailable, "gvisor.Destroy", "the sandbox's network is still being removed")
	}
}
