package gvisor_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/gvisor"
	"github.com/lehr-dev/lehr/internal/errs"
)

// TestSuiteNetworked runs the engine law with a network per sandbox, all with the
// same inner address.
func TestSuiteNetworked(t *testing.T) {
	f := newFixture(t)
	enginetest.Exercise(t, func(t *testing.T) enginetest.Subject { return f.subject(t, newTestNetwork(t)) })
}

var (
	innerAddr   = netip.MustParseAddr("10.213.0.2")
	gatewayAddr = netip.MustParseAddr("10.213.0.1")
	innerMAC    = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	gatewayMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
)

// testNetwork makes the least network that a sandbox can be dialled through: a
// namespace and a pair of devices, no way out.
type testNetwork struct {
	mu     sync.Mutex
	next   int
	leases map[string]*testLease
}

func newTestNetwork(t testing.TB) *testNetwork {
	t.Helper()
	n := &testNetwork{leases: map[string]*testLease{}}
	probe, err := n.Attach(t.Context(), "probe")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("SKIP-ENV: no veth devices: " + err.Error())
	}
	if err != nil {
		t.Fatalf("making a network: %v", err)
	}
	if err := probe.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// testLease is one network of testNetwork.
type testLease struct {
	n      *testNetwork
	name   string
	device string
	ns     *os.File
	once   sync.Once
	gone   chan struct{}
}

var _ gvisor.NetLease = (*testLease)(nil)

// Attach implements gvisor.Network.
func (n *testNetwork) Attach(_ context.Context, name string) (gvisor.NetLease, error) {
	n.mu.Lock()
	n.next++
	device := fmt.Sprintf("lht%x-%d", os.Getpid(), n.next)
	metric := n.next
	n.mu.Unlock()
	l := &testLease{n: n, name: name, device: device, gone: make(chan struct{})}
	if err := l.make(metric); err != nil {
		l.remove()
		return nil, err
	}
	n.mu.Lock()
	n.leases[name] = l
	n.mu.Unlock()
	return l, nil
}

// Adopt implements gvisor.Network.
func (n *testNetwork) Adopt(_ context.Context, name string) (gvisor.NetLease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.leases[name]; l != nil {
		return l, nil
	}
	return nil, errs.New(errs.NotFound, "no network %s", name)
}

func (l *testLease) make(metric int) error {
	var err error
	if l.ns, err = newNamespace(); err != nil {
		return err
	}
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: l.device, HardwareAddr: gatewayMAC},
		PeerName:  "eth0", PeerHardwareAddr: innerMAC, PeerNamespace: netlink.NsFd(int(l.ns.Fd())),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	outer, err := netlink.LinkByName(l.device)
	if err != nil {
		return err
	}
	index := outer.Attrs().Index
	return errors.Join(
		netlink.AddrAdd(outer, &netlink.Addr{IPNet: host(gatewayAddr)}),
		netlink.LinkSetUp(outer),
		netlink.NeighAdd(permanent(index, innerAddr, innerMAC)),
		netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: host(innerAddr), Scope: netlink.SCOPE_LINK, Priority: metric}),
		l.inside(),
	)
}

// inside sets the sandbox's end up.
func (l *testLease) inside() error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the namespace
		if err := unix.Setns(int(l.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			done <- err
			return
		}
		index := link.Attrs().Index
		done <- errors.Join(
			netlink.AddrAdd(link, &netlink.Addr{IPNet: host(innerAddr)}),
			netlink.LinkSetUp(link),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: host(gatewayAddr), Scope: netlink.SCOPE_LINK}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gatewayAddr.AsSlice()}),
			netlink.NeighAdd(permanent(index, gatewayAddr, gatewayMAC)),
		)
	}()
	return <-done
}

// newNamespace makes a network namespace that lives while the file is open.
func newNamespace() (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- result{f, err}
	}()
	r := <-done
	return r.f, r.err
}

func host(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

func permanent(index int, addr netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac}
}

// NamespacePath implements gvisor.NetLease.
func (l *testLease) NamespacePath() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), l.ns.Fd())
}

// HostDevice implements gvisor.NetLease.
func (l *testLease) HostDevice() string { return l.device }

// InnerAddr implements gvisor.NetLease.
func (l *testLease) InnerAddr() netip.Addr { return innerAddr }

// Gone implements gvisor.NetLease.
func (l *testLease) Gone() <-chan struct{} { return l.gone }

// Release implements gvisor.NetLease.
func (l *testLease) Release(context.Context) error {
	l.once.Do(func() {
		l.remove()
		l.n.mu.Lock()
		delete(l.n.leases, l.name)
		l.n.mu.Unlock()
		close(l.gone)
	})
	return nil
}

func (l *testLease) remove() {
	if link, err := netlink.LinkByName(l.device); err == nil {
		_ = netlink.LinkDel(link)
	}
	if l.ns != nil {
		_ = l.ns.Close()
	}
}
