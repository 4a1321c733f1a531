package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// fallbackMTU is used where no default route tells a better one.
const fallbackMTU = 1500

// maxOuterTries bounds the search for a free outer address; among 2^18 even a
// machine full of sandboxes needs one or two.
const maxOuterTries = 64

// links is the host's side of devices, addresses and routes. Its methods may be
// called concurrently.
type links struct {
	handle *netlink.Handle // in the host's namespace
	raw    map[int]*nl.SocketHandle
}

// openLinks opens the netlink sockets.
func openLinks() (*links, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &links{handle: handle, raw: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}}, nil
}

// close closes the sockets.
func (l *links) close() {
	l.handle.Close()
	for _, socket := range l.raw {
		socket.Close()
	}
}

// uplinkMTU returns the smallest MTU among the devices of default routes, so
// that a sandbox sends nothing the host must fragment.
func (l *links) uplinkMTU() int {
	routes, err := dump(func() ([]netlink.Route, error) { return l.handle.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fallbackMTU
	}
	mtu := fallbackMTU
	for _, route := range routes {
		if route.Dst != nil && !route.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := l.handle.LinkByIndex(route.LinkIndex); err == nil {
			mtu = min(mtu, link.Attrs().MTU)
		}
	}
	return mtu
}

// connect makes the veth pair between the host and ns and sets up the inside.
// It returns the index of the host's device.
func (l *links) connect(device string, mtu int, ns *namespace) (int, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = device, mtu, gatewayMAC
	err := l.handle.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: innerMAC,
		PeerNamespace: netlink.NsFd(ns.file.Fd()),
	})
	if err != nil {
		return 0, fmt.Errorf("make the device pair: %w", err)
	}
	link, err := l.handle.LinkByName(device)
	if err != nil {
		return 0, fmt.Errorf("find the host device: %w", err)
	}
	return link.Attrs().Index, ns.setUp()
}

// Until a device works inside, it is looked at every carrierPause, carrierTries
// times.
const (
	carrierPause = 200 * time.Microsecond
	carrierTries = 10000
)

// waitReady waits until the inside can send. The kernel switches the end that
// was set up first on in a worker, once the other end is up too, and drops
// silently what is sent before.
func (ns *namespace) waitReady() error {
	for range carrierTries {
		link, err := ns.handle.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("look at eth0 inside: %w", err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(carrierPause)
	}
	return errors.New("eth0 inside does not come up")
}

// setUp gives the inside its address, its route and its one neighbour.
func (ns *namespace) setUp() error {
	lo, err := ns.handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo inside: %w", err)
	}
	eth, err := ns.handle.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0 inside: %w", err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{
		IP: InnerAddr().AsSlice(), Mask: net.CIDRMask(innerPrefix.Bits(), 32),
	}}
	index := eth.Attrs().Index
	return firstError(
		func() error { return ns.handle.LinkSetUp(lo) },
		func() error { return ns.handle.AddrAdd(eth, address) },
		func() error { return ns.handle.LinkSetUp(eth) },
		func() error { return ns.handle.NeighAdd(neighbour(index, gateway, gatewayMAC)) },
		func() error { return ns.handle.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice()}) },
	)
}

// open sets up the host's side of a device and returns the outer address it
// got.
func (l *links) open(device string, index int) (netip.Addr, error) {
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: device, Index: index}}
	err := firstError(
		// The inner address has no route, so if ever the table should vanish (an
		// administrator's "flush ruleset") the kernel drops what sandboxes send.
		func() error { return writeSysctl("net/ipv4/conf/"+device+"/rp_filter", "1") },
		// ARP would tell a sandbox which addresses are the host's.
		func() error { return writeSysctl("net/ipv4/conf/"+device+"/arp_ignore", "8") },
		func() error { return ignoreMissing(writeSysctl("net/ipv6/conf/"+device+"/disable_ipv6", "1")) },
		func() error { return l.handle.AddrAdd(link, &netlink.Addr{IPNet: hostNet(gateway)}) },
		func() error { return l.handle.LinkSetUp(link) },
		func() error { return l.handle.NeighAdd(neighbour(index, InnerAddr(), innerMAC)) },
	)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("set up the host device: %w", err)
	}
	return l.routeOuter(index)
}

// routeOuter draws outer addresses until one is free on this machine. The
// routing table is the register of those in use, by every agent, and loses an
// entry with its device.
func (l *links) routeOuter(index int) (netip.Addr, error) {
	for range maxOuterTries {
		outer := randomOuter()
		// Without a preferred source: when one device goes, the kernel drops every
		// route that prefers the address it had, and all devices have the same.
		err := l.handle.RouteAdd(&netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: hostNet(outer)})
		if err == nil || !errors.Is(err, unix.EEXIST) {
			return outer, err
		}
	}
	return netip.Addr{}, fmt.Errorf("no free address in %s after %d tries", outerPrefix, maxOuterTries)
}

// index returns the index of a device, or false where there is none.
func (l *links) index(device string) (int, bool, error) {
	link, err := l.handle.LinkByName(device)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("look for %s: %w", device, err)
	}
	return link.Attrs().Index, true, nil
}

// owned returns the index of every device that names owns.
func (l *links) owned(n names) (map[string]int, error) {
	all, err := dump(l.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	out := map[string]int{}
	for _, link := range all {
		if attrs := link.Attrs(); n.owns(attrs.Name) {
			out[attrs.Name] = attrs.Index
		}
	}
	return out, nil
}

// remove deletes devices, all at once: deleting one takes some 36 ms under the
// kernel's network lock, and a group of them no longer than one. Devices that
// are gone already are skipped.
func (l *links) remove(group uint32, indexes []int) error {
	marked := false
	for _, index := range indexes {
		err := l.handle.LinkSetGroup(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: index}}, int(group))
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("mark device %d for removal: %w", index, err)
		}
		marked = marked || err == nil
	}
	if !marked {
		return nil
	}
	request := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	request.Sockets = l.raw
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %d devices: %w", len(indexes), err)
	}
	return nil
}

// outerFlows matches the tracked connections of outer addresses.
type outerFlows map[netip.Addr]bool

// MatchConntrackFlow reports whether the flow is from or to one of them.
func (o outerFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, ip := range []net.IP{flow.Forward.SrcIP, flow.Forward.DstIP} {
		if addr, ok := netip.AddrFromSlice(ip); ok && o[addr.Unmap()] {
			return true
		}
	}
	return false
}

// forgetFlows drops what connection tracking remembers of outer addresses, so
// that a later sandbox with the same address gets no answer meant for another.
func (l *links) forgetFlows(outer []netip.Addr) error {
	flows := outerFlows{}
	for _, addr := range outer {
		flows[addr] = true
	}
	if len(flows) == 0 {
		return nil
	}
	_, err := dump(func() (uint, error) {
		return l.handle.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, flows)
	})
	if err != nil {
		return fmt.Errorf("forget tracked connections: %w", err)
	}
	return nil
}

// dumpTries bounds how often a listing is asked for again.
const dumpTries = 10

// dump asks for a listing until it was not changed while it was made.
func dump[T any](list func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		out, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == dumpTries {
			return out, err
		}
	}
}

// neighbour is an address whose hardware address need not be asked for.
func neighbour(index int, addr netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac,
	}
}

// firstError runs steps until one fails.
func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// ignoreMissing drops the error of a file that does not exist.
func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
