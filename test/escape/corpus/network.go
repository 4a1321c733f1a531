package corpus

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ListenOutside names the outside's listener on an address.
func ListenOutside(address string) string { return "outside " + address }

// ListenHost names the host's listener, which is on every address of it.
const ListenHost = "host"

// ListenSibling names the listener in another sandbox.
const ListenSibling = "sibling"

// Denied returns an address of each range that is denied and forwarded by the
// host; the outside has a listener behind each.
func Denied() []string {
	return []string{
		"10.1.2.3", "10.255.255.254", "172.16.5.5", "172.31.255.1", "192.168.7.7", "100.64.1.1", "100.100.100.200", "100.127.0.1",
		"169.254.169.254", "169.254.170.2", "192.0.0.192", "240.1.2.3", "0.1.2.3",
	}
}

// tcp connects to an address of IPv4 in the four numbers it stands for.
func tcp(address string, port func(Env) int) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		return reach("tcp", net.JoinHostPort(address, strconv.Itoa(port(env))))
	}
}

func udp(address string, port func(Env) int) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		return reach("udp", net.JoinHostPort(address, strconv.Itoa(port(env))))
	}
}

func echoPort(env Env) int { return env.Port }
func webPort(Env) int      { return 80 }

// any is breached where one of several ways is, else refused.
func anyOf(ways ...func(Env) (Want, string)) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		var details []string
		for _, way := range ways {
			got, detail := way(env)
			if got == Breached {
				return got, detail
			}
			details = append(details, detail)
		}
		return Refused, strings.Join(details, "; ")
	}
}

// metadata is the address of the cloud's metadata service in every spelling a
// program accepts.
func metadata() []Attempt {
	const what, address = "the metadata service", "169.254.169.254"
	spelled := func(how, text string) Attempt {
		return Attempt{What: what, How: how, Want: Refused, Bites: true, Listens: ListenOutside(address), try: func(env Env) (Want, string) {
			a, ok := inetAton(text)
			if !ok {
				return Refused, "no library takes that for an address"
			}
			return anyOf(tcp(a.String(), webPort), tcp(a.String(), echoPort))(env)
		}}
	}
	six := func(how, text string) Attempt {
		return Attempt{What: what, How: how, Want: Refused, try: anyOf(tcp(text, webPort), tcp(text, echoPort), udp(text, echoPort))}
	}
	mapped := func(how, text string) Attempt {
		a := six(how, text)
		a.Bites, a.Listens = true, ListenOutside(address)
		return a
	}
	return number("metadata", []Attempt{
		spelled("dotted", address),
		spelled("one decimal number", "2852039166"),
		spelled("octal numbers", "0251.0376.0251.0376"),
		spelled("hexadecimal numbers", "0xa9.0xfe.0xa9.0xfe"),
		spelled("one hexadecimal number", "0xA9FEA9FE"),
		spelled("one octal number", "025177524776"),
		spelled("two numbers", "169.16689662"),
		spelled("three numbers", "169.254.43518"),
		mapped("mapped into IPv6", "::ffff:169.254.169.254"),
		mapped("mapped into IPv6, hexadecimal", "::ffff:a9fe:a9fe"),
		six("compatible with IPv6", "::a9fe:a9fe"),
		six("translated (NAT64)", "64:ff9b::a9fe:a9fe"),
		six("translated (6to4)", "2002:a9fe:a9fe::1"),
		six("the IPv6 address of EC2", "fd00:ec2::254"),
		six("the IPv6 address of Google", "fd20:ce::254"),
		{What: what, How: "UDP", Want: Refused, Bites: true, try: udp(address, echoPort)},
		{What: what, How: "a name that stands for it (rebinding)", Want: Refused, try: named("metadata.rebind.test")},
		{What: what, How: "a name with a public address first and it second", Want: Refused, try: rebound("flip.rebind.test")},
	})
}

// inetAton reads an address as the C library does.
func inetAton(text string) (netip.Addr, bool) {
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 0, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		if i == len(parts)-1 {
			value |= n
		} else {
			value |= n << (24 - 8*i)
		}
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

// ranges are addresses that are nobody's business, over TCP and UDP.
func ranges() []Attempt {
	var list []Attempt
	for _, address := range Denied() {
		list = append(list, Attempt{
			What: "the network of the host", How: address + " over TCP and UDP", Want: Refused,
			Bites: true, Listens: ListenOutside(address), try: anyOf(tcp(address, echoPort), udp(address, echoPort)),
		})
	}
	for _, address := range []string{
		"2001:db8::5", "fd00::1", "fe80::1%eth0", "ff02::1%eth0", "::", "::1", "fec0::1", "::ffff:10.1.2.3",
	} {
		list = append(list, Attempt{
			What: "something over IPv6", How: address + " over TCP and UDP", Want: Refused,
			try: anyOf(tcp(address, echoPort), udp(address, echoPort)),
		})
	}
	for _, address := range []string{"224.0.0.1", "224.0.0.251", "239.255.255.250", "255.255.255.255", "10.171.92.3"} {
		list = append(list, Attempt{
			What: "everybody on the wire", How: "a datagram to " + address, Want: Refused, try: broadcast(address),
		})
	}
	return number("range", list)
}

func broadcast(address string) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return Refused, err.Error()
		}
		defer unix.Close(fd)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: patience.Microseconds()})
		to := netip.MustParseAddr(address).As4()
		_ = unix.SetsockoptIPMreq(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreq{Multiaddr: to})
		if err := unix.Sendto(fd, []byte("knock\n"), 0, &unix.SockaddrInet4{Port: env.Port, Addr: to}); err != nil {
			return Refused, err.Error()
		}
		if _, from, err := unix.Recvfrom(fd, make([]byte, 100), 0); err == nil {
			return Breached, fmt.Sprintf("answered by %v", from)
		}
		return Refused, "nobody answers"
	}
}

// hosts are the host's own addresses.
func hosts() []Attempt {
	to := func(what, how string, address func(Env) string, port func(Env) int) Attempt {
		return Attempt{What: what, How: how, Want: Refused, try: func(env Env) (Want, string) {
			return anyOf(tcp(address(env), port), udp(address(env), port))(env)
		}}
	}
	uplink := func(e Env) string { return e.Host }
	other := func(e Env) string { return e.Other }
	fixed := func(a string) func(Env) string { return func(Env) string { return a } }
	port := func(n int) func(Env) int { return func(Env) int { return n } }
	api := func(e Env) int { return e.APIPort }
	list := []Attempt{
		to("the host", "its uplink's address", uplink, echoPort),
		to("the host", "an address of another device", other, echoPort),
	}
	for i := range list {
		list[i].Bites, list[i].Listens = true, ListenHost
	}
	return number("host", append(list,
		to("the host", "its address as gateway", fixed("10.171.92.1"), echoPort),
		to("the host's loopback", "127.0.0.1", fixed("127.0.0.1"), echoPort),
		to("the host's loopback", "127.0.0.2 and 0.0.0.0", fixed("127.0.0.2"), echoPort),
		to("the host's loopback", "0.0.0.0", fixed("0.0.0.0"), echoPort),
		to("the control plane", "its port on the uplink's address", uplink, api),
		to("the control plane", "its port on the gateway's address", fixed("10.171.92.1"), api),
		to("the control plane", "its port on the loopback", fixed("127.0.0.1"), api),
		to("the host", "SSH of the gateway", fixed("10.171.92.1"), port(22)),
		to("the host", "the guest daemon's port of the gateway", fixed("10.171.92.1"), func(e Env) int { return e.GuestPort }),
		to("the host", "the resolver's port on the uplink's address", uplink, port(53)),
		Attempt{What: "the host", How: "all ports of the gateway below 10,000", Want: Refused, try: scan},
		Attempt{What: "the host", How: "an echo request (ping)", Want: Contained, try: call(ping)},
	))
}

// scan is breached where a port of the gateway but the resolver's takes a
// connection.
func scan(Env) (Want, string) {
	type hit struct{ port int }
	const last, resolver, together = 10000, 53, 500
	room, hits := make(chan struct{}, together), make(chan hit, last)
	for port := 1; port <= last; port++ {
		room <- struct{}{}
		go func() {
			defer func() { <-room }()
			conn, err := net.DialTimeout("tcp4", net.JoinHostPort("10.171.92.1", strconv.Itoa(port)), 200*time.Millisecond)
			if err == nil {
				conn.Close()
				hits <- hit{port}
			}
		}()
	}
	for range together {
		room <- struct{}{}
	}
	close(hits)
	for h := range hits {
		if h.port != resolver {
			return Breached, fmt.Sprintf("port %d is open", h.port)
		}
	}
	return Refused, "none is open but the resolver's"
}

func ping(env Env) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: patience.Microseconds()})
	to := &unix.SockaddrInet4{Addr: netip.MustParseAddr(env.Host).As4()}
	if err := unix.Sendto(fd, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, 0, to); err != nil {
		return err
	}
	_, _, err = unix.Recvfrom(fd, make([]byte, 1500), 0)
	return err
}

// siblings are other sandboxes, by the addresses that only the host knows.
func siblings() []Attempt {
	each := func(way func(string) func(Env) (Want, string)) func(Env) (Want, string) {
		return func(env Env) (Want, string) {
			var ways []func(Env) (Want, string)
			for _, address := range env.Siblings {
				ways = append(ways, way(address))
			}
			return anyOf(ways...)(env)
		}
	}
	const what = "another sandbox"
	guest := func(e Env) int { return e.GuestPort }
	return number("sibling", []Attempt{
		{What: what, How: "its outer address over TCP and UDP", Want: Refused, Listens: ListenSibling, try: each(func(a string) func(Env) (Want, string) {
			return anyOf(tcp(a, echoPort), udp(a, echoPort))
		})},
		{What: what, How: "its guest daemon", Want: Refused, try: each(func(a string) func(Env) (Want, string) { return tcp(a, guest) })},
		{What: what, How: "its outer address mapped into IPv6", Want: Refused, Listens: ListenSibling, try: each(func(a string) func(Env) (Want, string) {
			return tcp("::ffff:"+a, echoPort)
		})},
		{What: what, How: "its outer address as one's own source", Want: Refused, try: each(func(a string) func(Env) (Want, string) {
			return from(a)
		})},
		{What: what, How: "the broadcast of all outer addresses", Want: Refused, try: broadcast("252.79.255.255")},
	})
}

// from connects to the public address with a source of somebody else.
func from(source string) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		got, detail := dialed(env.Public, func(fd int) error {
			_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
			return unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(source).As4()})
		})(env)
		return got, "as " + source + ": " + detail
	}
}
