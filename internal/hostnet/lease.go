package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Lease is the network of one sandbox. Its methods may be called concurrently.
type Lease struct {
	network *Network
	name    string
	device  string
	gone    chan struct{} // closed by keep

	// Set while the lease is made or adopted, then constant.
	ns    *namespace // nil when adopted
	index int        // of the host's device; 0 when there is none
	outer netip.Addr // invalid when there is none

	made bool // guarded by network.mu: Attach or Adopt has succeeded

	once sync.Once
	done chan struct{} // closed by Release
}

// newLease returns a lease that nothing stands behind yet.
func newLease(n *Network, name string) *Lease {
	return &Lease{
		network: n, name: name, device: n.names.device(name),
		gone: make(chan struct{}), done: make(chan struct{}),
	}
}

// make makes what stands behind the lease; Release takes away what a failed
// make left.
func (l *Lease) make() error {
	var err error
	if l.ns, err = newNamespace(); err != nil {
		return err
	}
	n := l.network
	if l.index, err = n.links.connect(l.device, n.mtu, l.ns); err != nil {
		return err
	}
	if l.outer, err = n.links.open(l.device, l.index); err != nil {
		return err
	}
	if err := n.filter.admit(l.device, l.outer); err != nil {
		return err
	}
	return l.ns.waitReady()
}

// Name returns the name the lease was made under.
func (l *Lease) Name() string { return l.name }

// NamespacePath returns the path of the network namespace, fit for an OCI
// spec. It is valid in every process of the machine's process namespace until
// the lease is released or this process ends; what was started in the
// namespace keeps it alive by itself. It is empty for an adopted lease.
func (l *Lease) NamespacePath() string {
	if l.ns == nil {
		return ""
	}
	return l.ns.path()
}

// HostDevice returns the host's end of the device pair. A socket bound to it
// reaches InnerAddr, of this sandbox and no other.
func (l *Lease) HostDevice() string { return l.device }

// InnerAddr returns the sandbox's own address, which is every sandbox's.
func (l *Lease) InnerAddr() netip.Addr { return InnerAddr() }

// Dial connects from the host to a TCP port of the sandbox. A connection to a
// sandbox that died meanwhile gets no reset: close it when the sandbox ends.
func (l *Lease) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	dialer := net.Dialer{Control: bindToDevice(l.device)}
	return dialer.DialContext(ctx, "tcp4", net.JoinHostPort(InnerAddr().String(), strconv.Itoa(int(port))))
}

// bindToDevice makes a socket's packets leave by one device.
func bindToDevice(device string) func(network, address string, conn syscall.RawConn) error {
	return func(_, _ string, conn syscall.RawConn) error {
		var bindErr error
		err := conn.Control(func(fd uintptr) { bindErr = unix.BindToDevice(int(fd), device) })
		return errors.Join(err, bindErr)
	}
}

// SetPolicy replaces the policy, at once and for open connections too. A new
// lease has the default policy, an adopted one what it had.
//
// Errors: Invalid (policy), Conflict (released), Unavailable (the old policy
// stays in force).
func (l *Lease) SetPolicy(ctx context.Context, policy Policy) error {
	if err := policy.Validate(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if l.released() {
		return errs.New(errs.Conflict, "network lease %s is released", l.name).WithCode("lease_released")
	}
	err := l.network.filter.apply(l.device, policy)
	if errors.Is(err, errNotAdmitted) {
		return errs.New(errs.Conflict, "network lease %s is released", l.name).WithCode("lease_released")
	}
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, "hostnet.SetPolicy", "the network policy could not be set")
	}
	return nil
}

// Release gives the lease up. It returns at once; rules, device, routes,
// tracked connections and this process's hold on the namespace are removed in
// the background, many leases together, and Gone tells when. It is idempotent.
// Its only error is Conflict, when the network is closed already; the lease is
// then the next agent's.
func (l *Lease) Release(context.Context) error {
	var err error
	l.once.Do(func() {
		close(l.done)
		err = l.network.enqueue(l)
	})
	return err
}

// Gone is closed when nothing of a released lease is left on the host.
func (l *Lease) Gone() <-chan struct{} { return l.gone }

// released reports whether Release was called.
func (l *Lease) released() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}
