package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// denied are addresses that must see nothing of a sandbox; each has a listener
// behind it.
var denied = []string{
	privateResolver, "10.1.2.3", "100.64.1.1", "172.16.5.5", "192.0.0.192", "192.168.7.7", "169.254.169.254", "240.1.2.3", "0.1.2.3",
}

func TestDefaultPolicyDenies(t *testing.T) {
	t.Parallel()
	w := openWorld(t)
	n := openNetwork(t)
	lease := attach(t, n, "box")
	before := map[string]int{}
	for _, address := range denied {
		// The host reaches the listener, so silence below means something.
		conn, err := net.DialTimeout("tcp4", outsidePort(address), dialTimeout)
		if err != nil {
			t.Fatalf("nobody listens behind %s: %v", address, err)
		}
		if err := echoOver(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		before[address] = len(w.visits(address))
	}
	for _, address := range denied {
		refuseFrom(t, lease.NamespacePath(), outsidePort(address))
	}
	for _, address := range denied {
		if seen := len(w.visits(address)); seen != before[address] {
			t.Errorf("%s saw %d connections of a sandbox", address, seen-before[address])
		}
	}
	if err := reach(lease.NamespacePath(), outsidePort(publicAddress)); err != nil {
		t.Errorf("the allowed address: %v", err)
	}
}

func TestHostAndSiblingsAreOutOfReach(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	lease, sibling := attach(t, n, "box"), attach(t, n, "sibling")
	var seen atomic.Int64
	host, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	go func() {
		for {
			conn, err := host.Accept()
			if err != nil {
				return
			}
			seen.Add(1)
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(host.Addr().String())
	for _, address := range []string{hostAddress, gateway.String(), "127.0.0.2", sibling.outer.String(), lease.outer.String()} {
		refuseFrom(t, lease.NamespacePath(), net.JoinHostPort(address, port))
	}
	if got := seen.Load(); got != 0 {
		t.Errorf("the host's listener saw %d connections", got)
	}
	listenIn(t, sibling.NamespacePath(), "0.0.0.0:9000", "sibling")
	refuseFrom(t, lease.NamespacePath(), net.JoinHostPort(sibling.outer.String(), "9000"))
	conn, err := sibling.Dial(context.Background(), 9000) // the listener works
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestForeignSourceAddressesStayIn(t *testing.T) {
	t.Parallel()
	w := openWorld(t)
	n := openNetwork(t)
	lease, sibling := attach(t, n, "box"), attach(t, n, "sibling")
	eth, err := lease.ns.handle.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	before := len(w.visits("203.0.113.6"))
	for _, source := range []string{"10.171.92.5", hostAddress, "203.0.113.77", sibling.outer.String()} {
		addr := &netlink.Addr{IPNet: hostNet(netip.MustParseAddr(source))}
		if err := lease.ns.handle.AddrAdd(eth, addr); err != nil {
			t.Fatal(err)
		}
		err := inside(lease.NamespacePath(), func() error {
			dialer := net.Dialer{Timeout: dialTimeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
			conn, err := dialer.Dial("tcp4", outsidePort("203.0.113.6"))
			if err == nil {
				conn.Close()
			}
			return err
		})
		if err == nil {
			t.Errorf("a packet from %s got out", source)
		}
	}
	if got := len(w.visits("203.0.113.6")) - before; got != 0 {
		t.Errorf("the outside saw %d connections from foreign addresses", got)
	}
}

func TestIPv6StaysIn(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	lease := attach(t, n, "box")
	device := lease.HostDevice()
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skipf("SKIP-ENV: no IPv6 in this kernel: %v", err)
	}
	host, err := netlink.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := netlink.AddrList(host, netlink.FAMILY_V6); err != nil || len(addrs) != 0 {
		t.Errorf("IPv6 addresses of the host's device: %v, %v, want none", addrs, err)
	}
	// A guest has an IPv6 stack of its own, whatever the namespace says; and the
	// host's end is given an address here that it never has.
	eth, err := lease.ns.handle.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	err = firstError(
		func() error {
			return inside(lease.NamespacePath(), func() error { return writeSysctl("net/ipv6/conf/eth0/disable_ipv6", "0") })
		},
		func() error { return lease.ns.handle.AddrAdd(eth, readyAddress(t, "2001:db8::2/64")) },
		func() error { return writeSysctl("net/ipv6/conf/"+device+"/disable_ipv6", "0") },
		func() error { return netlink.AddrAdd(host, readyAddress(t, "2001:db8::1/64")) },
	)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp6", "[2001:db8::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	refuseOver(t, lease.NamespacePath(), "tcp6", listener.Addr().String())

	// Without the rules the same connection comes about.
	if err := n.filter.remove(); err != nil {
		t.Fatal(err)
	}
	conn, err := dialFrom(lease.NamespacePath(), "tcp6", listener.Addr().String(), 0)
	if err != nil {
		t.Errorf("the connection fails without the rules too, so the test proves nothing: %v", err)
	} else {
		conn.Close()
	}
	if restored, err := n.filter.restore(); !restored || err != nil {
		t.Errorf("restore() = %v, %v, want it restored", restored, err)
	}
}

// readyAddress is an address that is used at once, without asking who has it.
func readyAddress(t *testing.T, text string) *netlink.Addr {
	t.Helper()
	addr, err := netlink.ParseAddr(text)
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	return addr
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	lease := attach(t, n, "box")
	tests := []struct {
		name        string
		policy      Policy
		open, close []string
		mute        bool
	}{
		{"default", Policy{}, []string{publicAddress}, []string{"10.2.0.1"}, false},
		{"allow a private range", Policy{Allow: prefixes("10.2.0.0/16")}, []string{publicAddress, "10.2.0.1"}, []string{"172.16.5.5"}, false},
		{"deny a public range", Policy{Deny: prefixes("203.0.113.0/24")}, []string{outsideAddress}, []string{publicAddress}, false},
		{"allow comes first", Policy{Allow: prefixes("203.0.113.5/32"), Deny: prefixes("203.0.113.0/24")}, []string{publicAddress}, []string{"203.0.113.6"}, false},
		{"deny all", Policy{DenyAll: true}, nil, []string{publicAddress, outsideAddress, "10.2.0.1"}, true},
		{"deny all but", Policy{DenyAll: true, Allow: prefixes("203.0.113.5/32")}, []string{publicAddress}, []string{outsideAddress}, false},
		{"allow everything", Policy{Allow: prefixes("0.0.0.0/0")}, []string{publicAddress, "10.2.0.1"}, []string{"169.254.169.254", "240.1.2.3"}, false},
		{"default again", Policy{}, []string{publicAddress}, []string{"10.2.0.1"}, false},
	}
	for _, test := range tests {
		if err := lease.SetPolicy(context.Background(), test.policy); err != nil {
			t.Fatalf("%s: SetPolicy() = %v", test.name, err)
		}
		for _, address := range test.open {
			if err := reach(lease.NamespacePath(), outsidePort(address)); err != nil {
				t.Errorf("%s: %s: %v", test.name, address, err)
			}
		}
		for _, address := range test.close {
			refuseFrom(t, lease.NamespacePath(), outsidePort(address))
		}
		if _, err := lookup(lease.NamespacePath(), "udp", "example.com."); (err != nil) != test.mute {
			t.Errorf("%s: a name: %v, want failure %v", test.name, err, test.mute)
		}
	}
}

func TestPolicyCutsOpenConnections(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	lease := attach(t, n, "box")
	conn, err := dialFrom(lease.NamespacePath(), "udp4", outsidePort(publicAddress), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := echoOver(conn, "before"); err != nil {
		t.Fatal(err)
	}
	if err := lease.SetPolicy(context.Background(), Policy{DenyAll: true}); err != nil {
		t.Fatal(err)
	}
	if err := echoOver(conn, "after"); err == nil {
		t.Error("an open connection outlived the policy")
	}
}

func TestSetPolicyAfterRelease(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	lease := attach(t, n, "box")
	if err := lease.SetPolicy(context.Background(), Policy{DenyAll: true, Deny: prefixes("fc00::/7")}); err != nil {
		t.Fatal(err)
	}
	_ = lease.Release(context.Background())
	<-lease.Gone()
	if err := lease.SetPolicy(context.Background(), Policy{}); !errs.IsKind(err, errs.Conflict) {
		t.Errorf("SetPolicy after Release = %v, want conflict", err)
	}
	if err := n.filter.apply(lease.device, Policy{DenyAll: true}); !errors.Is(err, errNotAdmitted) {
		t.Errorf("apply to a device that is gone = %v, want %v", err, errNotAdmitted)
	}
}

func TestPolicyValidate(t *testing.T) {
	t.Parallel()
	many := make([]netip.Prefix, maxPolicyPrefixes+1)
	for i := range many {
		many[i] = netip.MustParsePrefix("203.0.113.0/24")
	}
	tests := []struct {
		name   string
		policy Policy
		field  string // of the error; empty: valid
	}{
		{"default", Policy{}, ""},
		{"private allowed", Policy{Allow: prefixes("10.0.0.0/8", "192.168.1.1/32")}, ""},
		{"everything allowed", Policy{Allow: prefixes("0.0.0.0/0")}, ""},
		{"IPv6 denied", Policy{Deny: prefixes("::/0")}, ""},
		{"IPv6 allowed", Policy{Allow: prefixes("2001:db8::/32")}, "allow"},
		{"metadata allowed", Policy{Allow: prefixes("169.254.169.254/32")}, "allow"},
		{"loopback allowed", Policy{Allow: prefixes("127.0.0.0/8")}, "allow"},
		{"siblings allowed", Policy{Allow: prefixes("252.76.0.0/14")}, "allow"},
		{"host bits", Policy{Allow: prefixes("10.0.0.1/8")}, "allow"},
		{"mapped", Policy{Deny: prefixes("::ffff:10.0.0.0/104")}, "deny"},
		{"empty prefix", Policy{Deny: []netip.Prefix{{}}}, "deny"},
		{"too many", Policy{Deny: many}, "allow"},
	}
	for _, test := range tests {
		err := test.policy.Validate()
		var e *errs.Error
		switch {
		case test.field == "" && err != nil:
			t.Errorf("%s: Validate() = %v, want none", test.name, err)
		case test.field != "" && (!errors.As(err, &e) || e.Kind != errs.Invalid || e.Field != test.field):
			t.Errorf("%s: Validate() = %v, want invalid %s", test.name, err, test.field)
		}
	}
}
