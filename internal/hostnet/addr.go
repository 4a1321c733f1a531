package hostnet

import (
	"math/rand/v2"
	"net"
	"net/netip"
)

// The addresses inside a sandbox. They are the same in every sandbox on every
// host and part of every snapshot, so they never change. The network is an
// arbitrary corner of 10/8: all it hides from a sandbox are these four
// addresses, which the egress policy denies anyway.
var (
	innerPrefix = netip.MustParsePrefix("10.171.92.2/30")
	gateway     = netip.MustParseAddr("10.171.92.1")
)

// outerPrefix is where the machine-wide outer addresses come from. It lies in
// the reserved block 240/4, which Linux routes like any other and which no
// network in the field uses; it never leaves the machine.
var outerPrefix = netip.MustParsePrefix("252.76.0.0/14")

// The hardware addresses of both ends, the same everywhere for the same reason
// as the inner address. They are locally administered.
var (
	innerMAC   = net.HardwareAddr{0x02, 0x6c, 0x65, 0x68, 0x72, 0x02}
	gatewayMAC = net.HardwareAddr{0x02, 0x6c, 0x65, 0x68, 0x72, 0x01}
)

// InnerAddr returns the address every sandbox has inside.
func InnerAddr() netip.Addr { return innerPrefix.Addr() }

// Gateway returns the address of the host as every sandbox sees it; the
// resolver answers there on port 53, and nothing else does.
func Gateway() netip.Addr { return gateway }

// ResolvConf returns the content of /etc/resolv.conf in every sandbox.
func ResolvConf() string { return "nameserver " + gateway.String() + "\n" }

// randomOuter returns an outer address to try; whether it is free the kernel
// says when the route to it is added.
func randomOuter() netip.Addr {
	base := outerPrefix.Masked().Addr().As4()
	host := rand.Uint32N(1 << (32 - outerPrefix.Bits()))
	base[1] |= byte(host >> 16)
	base[2] |= byte(host >> 8)
	base[3] |= byte(host)
	return netip.AddrFrom4(base)
}

// hostNet returns addr as a network of one address.
func hostNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

// hostPrefix returns the prefix of one address.
func hostPrefix(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
