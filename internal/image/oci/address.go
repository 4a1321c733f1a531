package oci

import (
	"net"
	"net/netip"
	"slices"
)

// inside lists addresses beyond those that netip tells apart: shared address
// space, clouds' metadata and what leads to IPv4 by way of IPv6. Documentation
// ranges are not among them: some networks have their mirrors there.
func inside() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10",
	} {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// isPrivate reports whether a caller must not make us connect to an address:
// it is private, loopback, link-local, multicast, a cloud's metadata service or
// one of this machine.
func isPrivate(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return true
	}
	if slices.ContainsFunc(inside(), func(p netip.Prefix) bool { return p.Contains(a) }) {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return true // which addresses are this machine's is not known
	}
	return slices.ContainsFunc(own, func(n net.Addr) bool {
		ip, ok := n.(*net.IPNet)
		if !ok {
			return false
		}
		addr, ok := netip.AddrFromSlice(ip.IP)
		return ok && addr.Unmap() == a
	})
}
