package hostnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
)

// Options are the settings of a Network.
type Options struct {
	// Instance tells the agents of a machine apart: 1 to 64 of a-z, 0-9, _ and -.
	// The same agent uses the same one after a restart, so that it finds its
	// leases; two agents that run at the same time never share one. Required.
	Instance string
	// ResolvConf is the file that names the resolvers to forward to; it is read
	// again when it changes. Default /etc/resolv.conf.
	ResolvConf string
	// Logger gets what goes wrong in the background. Default: nothing is logged.
	Logger *slog.Logger
	// Clock paces the look-out for rules that others removed. Default: the
	// machine's.
	Clock clock.Clock
}

// withDefaults completes the settings.
func (o Options) withDefaults() Options {
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	return o
}

// lookoutPeriod is how often a Network looks whether its rules are still there.
// While its table is missing, sandboxes reach nothing.
const lookoutPeriod = 5 * time.Second

// Network is everything one agent owns of the host's network. Its methods may
// be called concurrently.
//
// One goroutine, keep, removes what was released and restores what others
// removed; Close waits for it.
type Network struct {
	names    names
	opts     Options
	links    *links
	filter   *filter
	resolver *resolver
	docker   *dockerUser
	mtu      int

	wake chan struct{} // there is something pending, or closed was set
	idle chan struct{} // closed when keep has ended

	mu      sync.Mutex
	closed  bool              // Close was called
	ended   bool              // keep takes nothing any more
	making  int               // Attach calls on their way
	leases  map[string]*Lease // by device, until they are gone
	pending []*Lease          // released, to be removed by keep
	failed  error             // what could not be removed
}

// Open makes the table of an instance, or takes over the one a former agent
// left, switches IPv4 forwarding on, and begins to answer names. Leases of a
// former agent go on working; they are taken over with Adopt, and those that
// nobody adopted are removed by Sweep.
//
// Errors: Invalid (instance), PermissionDenied (not root), Unsupported (the
// kernel lacks nftables), Unavailable.
func Open(ctx context.Context, opts Options) (*Network, error) {
	opts = opts.withDefaults()
	n, err := newNames(opts.Instance)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	network := &Network{
		names: n, opts: opts, leases: map[string]*Lease{},
		wake: make(chan struct{}, 1), idle: make(chan struct{}),
	}
	if err := network.open(); err != nil {
		network.abandon()
		return nil, openError(err)
	}
	go network.keep()
	return network, nil
}

// open acquires what the network consists of.
func (n *Network) open() error {
	if err := n.forward(); err != nil {
		return err
	}
	var err error
	if n.links, err = openLinks(); err != nil {
		return err
	}
	n.mtu = n.links.uplinkMTU()
	if n.resolver, err = openResolver(n.opts.ResolvConf, n.names.port, n.opts.Logger); err != nil {
		return err
	}
	if n.filter, err = openFilter(newRuleset(n.names, n.resolver.port)); err != nil {
		return err
	}
	if n.docker, err = openDockerUser(n.names); err != nil {
		return err
	}
	return n.docker.ensure()
}

// abandon gives back what a failed open acquired. A table that was there before
// stays with the leases it serves.
func (n *Network) abandon() {
	if n.resolver != nil {
		n.resolver.close()
	}
	if n.filter != nil && len(n.filter.devices()) == 0 {
		_ = n.filter.remove() // the error that led here tells more
	}
	if n.links != nil {
		n.links.close()
	}
}

// forward switches IPv4 forwarding on.
func (n *Network) forward() error {
	const name = "net/ipv4/ip_forward"
	value, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if strings.TrimSpace(string(value)) == "1" {
		return nil
	}
	if err := writeSysctl(name, "1"); err != nil {
		return fmt.Errorf("switch IPv4 forwarding on: %w", err)
	}
	n.opts.Logger.Info("IPv4 forwarding switched on; it stays on", "sysctl", "net.ipv4.ip_forward")
	return nil
}

// openError gives a failed Open its kind.
func openError(err error) error {
	e := errs.Wrap(err, errs.Unavailable, "hostnet.Open", "the host's network could not be set up").WithCode("network_unavailable")
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		e.Kind = errs.PermissionDenied
		return e.WithRemedy("run the agent as root, with CAP_NET_ADMIN and CAP_SYS_ADMIN")
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		e.Kind = errs.Unsupported
		return e.WithRemedy("use a kernel of 5.10 or later with nftables, its NAT, fib, ct and reject, and veth; lehr doctor says what is missing")
	}
	return e
}

// Attach makes a lease: a fresh network namespace with the inner address, its
// way out, and the default policy. Where ctx ends or a step fails, nothing is
// left behind.
//
// Errors: Invalid (name), Exists (a lease of this name is there, be it of a
// former agent), Conflict (the network is closed), PermissionDenied,
// Unavailable.
func (n *Network) Attach(ctx context.Context, name string) (*Lease, error) {
	lease, err := n.reserve(name)
	if err != nil {
		return nil, err
	}
	err = firstError(ctx.Err, lease.make, ctx.Err)
	n.attached(lease, err)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, attachError(err)
	}
	return lease, nil
}

// attached ends an Attach: the lease is there, or released.
func (n *Network) attached(lease *Lease, err error) {
	if err != nil {
		_ = lease.Release(context.Background()) // cannot fail: keep waits for this call
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	lease.made = err == nil
	n.making--
	n.notify()
}

// attachError gives a failed Attach its kind.
func attachError(err error) error {
	e := errs.Wrap(err, errs.Unavailable, "hostnet.Attach", "the sandbox's network could not be made").WithCode("network_unavailable")
	switch {
	case errors.Is(err, unix.EPERM):
		e.Kind = errs.PermissionDenied
	case errors.Is(err, unix.EEXIST):
		e.Kind = errs.Exists
	}
	return e
}

// reserve enters a new lease, so that nobody else makes or sweeps it.
func (n *Network) reserve(name string) (*Lease, error) {
	if err := validateLease(name); err != nil {
		return nil, err
	}
	lease := newLease(n, name)
	_, leftover := n.filter.entry(lease.device)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed()
	}
	if held := n.leases[lease.device]; held != nil || leftover {
		return nil, errs.New(errs.Exists, "there is a network lease %s already", name).WithCode("lease_exists")
	}
	n.leases[lease.device] = lease
	n.making++
	return lease, nil
}

// Adopt takes over a lease of a former agent of this instance, whose sandbox
// still runs, or returns the one this agent holds. An adopted lease has no
// namespace path: the namespace is the sandbox's, and serves one start anyway.
//
// Errors: Invalid (name), NotFound (the sandbox died and its device with it),
// Conflict (the network is closed, or the lease is being removed), Unavailable.
func (n *Network) Adopt(ctx context.Context, name string) (*Lease, error) {
	if err := validateLease(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	lease := newLease(n, name)
	entry, known := n.filter.entry(lease.device)
	index, there, err := n.links.index(lease.device)
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, "hostnet.Adopt", "the sandbox's device could not be looked up")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	held := n.leases[lease.device]
	switch {
	case n.closed:
		return nil, errClosed()
	case held != nil && (held.released() || !held.made):
		return nil, errs.New(errs.Conflict, "network lease %s is being made or removed", name).WithCode("lease_busy")
	case held != nil:
		return held, nil
	case !known || !there || !entry.outer.IsValid():
		return nil, errs.New(errs.NotFound, "there is no network lease %s", name).WithCode("lease_not_found")
	}
	lease.index, lease.outer, lease.made = index, entry.outer, true
	n.leases[lease.device] = lease
	return lease, nil
}

// Sweep removes every leftover of former agents of this instance: devices and
// rules of leases that were neither attached nor adopted by now. It returns
// how many there were, when they are gone; when ctx ends first, removal goes
// on.
func (n *Network) Sweep(ctx context.Context) (int, error) {
	owned, err := n.links.owned(n.names)
	if err != nil {
		return 0, errs.Wrap(err, errs.Unavailable, "hostnet.Sweep", "the host's devices could not be listed")
	}
	leftovers := n.claimLeftovers(owned)
	for _, lease := range leftovers {
		if err := lease.Release(ctx); err != nil {
			return 0, err
		}
	}
	for _, lease := range leftovers {
		select {
		case <-lease.Gone():
		case <-ctx.Done():
			return len(leftovers), context.Cause(ctx)
		}
	}
	return len(leftovers), nil
}

// claimLeftovers enters a lease for each device, there or only known, that
// none holds.
func (n *Network) claimLeftovers(owned map[string]int) []*Lease {
	for _, device := range n.filter.devices() {
		if _, there := owned[device]; !there {
			owned[device] = 0
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*Lease
	for device, index := range owned {
		if n.leases[device] != nil || n.closed {
			continue
		}
		lease := newLease(n, "")
		entry, _ := n.filter.entry(device)
		lease.device, lease.index, lease.outer = device, index, entry.outer
		n.leases[device] = lease
		out = append(out, lease)
	}
	return out
}

// errClosed is the error of a call after Close.
func errClosed() error {
	return errs.New(errs.Conflict, "the host's network is closed").WithCode("network_closed")
}
