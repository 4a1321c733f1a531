package hostnet

import (
	"context"
	"errors"
	"net/netip"

	"github.com/lehr-dev/lehr/internal/errs"
)

// enqueue hands a released lease to keep.
func (n *Network) enqueue(l *Lease) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return errClosed()
	}
	n.pending = append(n.pending, l)
	n.notify()
	return nil
}

// notify wakes keep.
func (n *Network) notify() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take returns what is to be removed, and whether there will be no more.
func (n *Network) take() (batch []*Lease, last bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	batch, n.pending = n.pending, nil
	n.ended = n.closed && n.making == 0 && len(batch) == 0
	return batch, n.ended
}

// keep removes released leases, all there are at a time, and looks out for
// rules that somebody else took away. It ends when the network is
// closed and nothing is pending.
func (n *Network) keep() {
	defer close(n.idle)
	lookout := n.opts.Clock.NewTicker(lookoutPeriod)
	defer lookout.Stop()
	for {
		batch, last := n.take()
		switch {
		case len(batch) > 0:
			n.remove(batch)
			continue
		case last:
			return
		}
		select {
		case <-n.wake:
		case <-lookout.C():
			n.lookOut()
		}
	}
}

// lookOut puts back what others took away: the table, which "flush ruleset"
// removes, and the rules in Docker's chain, which Docker may make anew.
func (n *Network) lookOut() {
	restored, err := n.filter.restore()
	if err != nil {
		n.opts.Logger.Error("the rules of sandboxes are gone and could not be restored", "error", err)
	}
	if restored {
		n.opts.Logger.Warn("the rules of sandboxes had been removed by somebody else and are restored", "table", n.names.table)
	}
	if err := n.docker.ensure(); err != nil {
		n.opts.Logger.Warn("rules for sandboxes could not be put into Docker's chain", "error", err)
	}
}

// remove takes everything of some leases away. What fails is logged, kept for
// Close, and tried again by the next Sweep.
func (n *Network) remove(batch []*Lease) {
	var devices []string
	var indexes []int
	var outer []netip.Addr
	for _, l := range batch {
		devices = append(devices, l.device)
		if l.index != 0 {
			indexes = append(indexes, l.index)
		}
		if l.outer.IsValid() {
			outer = append(outer, l.outer)
		}
	}
	// First the rules, so that nothing passes any more; then the devices, which
	// take their addresses, routes and neighbours along.
	err := errors.Join(
		n.filter.forget(devices),
		n.links.remove(n.names.group, indexes),
		n.links.forgetFlows(outer),
	)
	if err != nil {
		n.opts.Logger.Error("network leases could not be removed", "leases", len(batch), "error", err)
	}
	n.mu.Lock()
	n.failed = errors.Join(n.failed, err)
	for _, l := range batch {
		delete(n.leases, l.device)
	}
	n.mu.Unlock()
	for _, l := range batch {
		if l.ns != nil {
			l.ns.close()
		}
		close(l.gone)
	}
}

// Close ends this process's hold. It waits for the removal of released leases;
// then, where no lease is left, it removes the table and the rules in Docker's
// chain. Where leases are left their rules stay, so that running sandboxes
// keep working until the next agent adopts them; names are not answered
// meanwhile. IPv4 forwarding stays on.
//
// It is idempotent. When ctx ends first the rest is left to the next Sweep.
func (n *Network) Close(ctx context.Context) error {
	n.mu.Lock()
	again := n.closed
	n.closed = true
	n.notify()
	n.mu.Unlock()
	select {
	case <-n.idle:
	case <-ctx.Done():
		return errs.Wrap(context.Cause(ctx), errs.Timeout, "hostnet.Close", "network leases are still being removed")
	}
	if again {
		return nil
	}
	return n.shut()
}

// shut closes what Open opened. It runs once, after keep has ended.
func (n *Network) shut() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.failed
	if len(n.leases) == 0 && len(n.filter.devices()) == 0 {
		err = errors.Join(err, n.docker.remove(), n.filter.remove())
	}
	for _, l := range n.leases {
		if l.ns != nil {
			l.ns.close()
		}
	}
	n.resolver.close()
	n.links.close()
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "hostnet.Close", "parts of the host's network could not be removed")
	}
	return nil
}
