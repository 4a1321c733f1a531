package corpus

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// packets are tricks of single packets, and the controls: what is allowed.
func packets() []Attempt {
	const hidden = "10.1.2.3"
	return number("packet", []Attempt{
		{What: "a public address", How: "a connection, as a control", Want: Reached, Listens: ListenOutside("public"), try: public("tcp", 0)},
		{What: "a public address", How: "a datagram, as a control", Want: Reached, try: public("udp", 0)},
		{What: "a public address", How: "a datagram in fragments, as a control", Want: Reached, try: public("udp", 4000)},
		{What: "a private address", How: "a datagram in fragments", Want: Refused, Bites: true, try: datagram(hidden, 4000)},
		{What: "a private address", How: "an empty datagram", Want: Refused, try: datagram(hidden, 0)},
		{What: "a private address", How: "the source's route over a public one (LSRR)", Want: Contained, Listens: ListenOutside(hidden), try: routed(131)},
		{What: "a private address", How: "the strict source's route over a public one (SSRR)", Want: Contained, Listens: ListenOutside(hidden), try: routed(137)},
		{What: "a private address", How: "every time to live from 1 to 3", Want: Refused, Listens: ListenOutside(hidden), try: shortLived(hidden)},
		{What: "a private address", How: "data in the first packet (TCP fast open)", Want: Refused, Listens: ListenOutside(hidden), try: fastOpen(hidden)},
		{What: "a private address", How: "a connected socket sent elsewhere", Want: Refused, try: elsewhere(hidden)},
		{What: "a private address", How: "the default device by name", Want: Refused, Listens: ListenOutside(hidden), try: overDevice(hidden)},
		{What: "the wire", How: "the address of the gateway as one's own", Want: Refused, try: from("10.171.92.1")},
		{What: "the wire", How: "a public address as one's own", Want: Refused, try: from("203.0.113.77")},
		{What: "the wire", How: "the host's address as one's own", Want: Refused, try: func(env Env) (Want, string) { return from(env.Host)(env) }},
		{What: "the wire", How: "memberships of multicast groups", Want: Contained, try: call(join)},
	})
}

// public reaches what may be reached.
func public(network string, size int) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		got, detail := exchange(network, net.JoinHostPort(env.Public, strconv.Itoa(env.Port)), size)
		if got == Breached {
			return Reached, detail
		}
		return got, detail
	}
}

func datagram(address string, size int) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		return exchange("udp", net.JoinHostPort(address, strconv.Itoa(env.Port)), size)
	}
}

// exchange sends bytes and waits for an answer.
func exchange(network, address string, size int) (Want, string) {
	conn, err := net.DialTimeout(network, address, 5*patience)
	if err != nil {
		return Refused, err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	if _, err := conn.Write(append(make([]byte, size), '\n')); err != nil {
		return Refused, err.Error()
	}
	n, err := conn.Read(make([]byte, size+1))
	if err != nil {
		return Refused, err.Error()
	}
	return Breached, fmt.Sprintf("%d bytes came back", n)
}

// dialed is reach with something done to the socket first. The connection is
// waited for here: the sentry does not hold SO_SNDTIMEO against it.
func dialed(address string, control func(fd int) error) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return Refused, err.Error()
		}
		defer unix.Close(fd)
		if err := control(fd); err != nil {
			return Refused, err.Error()
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: env.Port, Addr: netip.MustParseAddr(address).As4()})
		if err != nil && err != unix.EINPROGRESS { //nolint:errorlint // a number of the kernel
			return Refused, err.Error()
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(patience.Milliseconds()))
		if err != nil || ready == 0 {
			return Refused, fmt.Sprintf("nobody answers %v", err)
		}
		if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
			return Refused, unix.Errno(code).Error()
		}
		return Breached, "connected to " + address
	}
}

// routed names the private address as a stop on the way to a public one. That
// the public one is reached is no breach; the private one's listener decides.
func routed(kind byte) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		got, detail := dialed(env.Public, func(fd int) error {
			return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, string([]byte{kind, 7, 4, 10, 1, 2, 3, 0}))
		})(env)
		if got == Breached {
			got = Contained
		}
		return got, detail
	}
}

func shortLived(address string) func(Env) (Want, string) {
	var ways []func(Env) (Want, string)
	for ttl := 1; ttl <= 3; ttl++ {
		ways = append(ways, dialed(address, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TTL, ttl) }))
	}
	return anyOf(ways...)
}

func overDevice(address string) func(Env) (Want, string) {
	return anyOf(
		dialed(address, func(fd int) error { return unix.BindToDevice(fd, "eth0") }),
		dialed(address, func(fd int) error { return unix.BindToDevice(fd, "lo") }),
	)
}

func fastOpen(address string) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return Refused, err.Error()
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet4{Port: env.Port, Addr: netip.MustParseAddr(address).As4()}
		if err := unix.Sendto(fd, []byte("knock\n"), unix.MSG_FASTOPEN, to); err != nil {
			return Refused, err.Error()
		}
		return Breached, "it was taken"
	}
}

// elsewhere sends from a socket that is connected to an allowed address.
func elsewhere(address string) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return Refused, err.Error()
		}
		defer unix.Close(fd)
		_ = unix.Connect(fd, &unix.SockaddrInet4{Port: env.Port, Addr: netip.MustParseAddr(env.Public).As4()})
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: patience.Microseconds()})
		to := &unix.SockaddrInet4{Port: env.Port, Addr: netip.MustParseAddr(address).As4()}
		if err := unix.Sendto(fd, []byte("knock\n"), 0, to); err != nil {
			return Refused, err.Error()
		}
		if _, _, err := unix.Recvfrom(fd, make([]byte, 100), 0); err != nil {
			return Refused, err.Error()
		}
		return Breached, "answered"
	}
}

func join(Env) error {
	conn, err := net.ListenMulticastUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(239, 1, 2, 3), Port: 9999})
	if err != nil {
		return err
	}
	return conn.Close()
}

// names are what the resolver does for a sandbox.
func names() []Attempt {
	return number("name", []Attempt{
		{What: "a public name", How: "a question, as a control", Want: Reached, try: func(env Env) (Want, string) {
			addrs, err := lookup("public.test")
			if err != nil || len(addrs) == 0 {
				return Refused, fmt.Sprint(err)
			}
			return Reached, fmt.Sprint(addrs)
		}},
		{What: "a private host", How: "a name of a private address", Want: Refused, Listens: ListenOutside("10.1.2.3"), try: named("private.rebind.test")},
		{What: "a private host", How: "a name of a mapped address", Want: Refused, Listens: ListenOutside("10.1.2.3"), try: named("mapped.rebind.test")},
		{What: "the host", How: "a name of the loopback", Want: Refused, try: named("loopback.rebind.test")},
		{What: "the resolver's zones", How: "transfers and updates", Want: Refused, try: call(transfer)},
		{What: "the private resolver", How: "a question sent to it", Want: Refused, try: datagram53("10.255.0.53")},
	})
}

func lookup(name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r := net.Resolver{PreferGo: true}
	return r.LookupNetIP(ctx, "ip", name)
}

// named connects to every address a name stands for.
func named(name string) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		addrs, err := lookup(name)
		if err != nil {
			return Refused, "the name: " + err.Error()
		}
		var ways []func(Env) (Want, string)
		for _, a := range addrs {
			ways = append(ways, tcp(a.String(), echoPort), udp(a.String(), echoPort))
		}
		got, detail := anyOf(ways...)(env)
		return got, fmt.Sprintf("%v: %s", addrs, detail)
	}
}

// rebound asks twice: the answer changes in between.
func rebound(name string) func(Env) (Want, string) {
	return func(env Env) (Want, string) {
		first, err := lookup(name)
		if err != nil {
			return Refused, "the name: " + err.Error()
		}
		got, detail := named(name)(env)
		return got, fmt.Sprintf("first %v, then %s", first, detail)
	}
}

// transfer asks for a whole zone.
func transfer(Env) error {
	conn, err := net.DialTimeout("tcp4", "10.171.92.1:53", 5*patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * patience))
	question := []byte{0, 22, 0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, 't', 'e', 's', 't', 0, 0, 252, 0, 1}
	if _, err := conn.Write(question); err != nil {
		return err
	}
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	const header, codes, refused = 6, 15, 5
	if n >= header && answer[5]&codes == refused {
		return fmt.Errorf("code %d", refused)
	}
	return nil
}

func datagram53(address string) func(Env) (Want, string) {
	return func(Env) (Want, string) {
		conn, err := net.DialTimeout("udp", net.JoinHostPort(address, "53"), patience)
		if err != nil {
			return Refused, err.Error()
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		question := []byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, 't', 'e', 's', 't', 0, 0, 1, 0, 1}
		if _, err := conn.Write(question); err != nil {
			return Refused, err.Error()
		}
		if _, err := conn.Read(make([]byte, 512)); err != nil {
			return Refused, err.Error()
		}
		return Breached, "it answers"
	}
}

// Listen answers whoever comes to a port, over TCP and UDP, with the number of
// visits before. It ends with its process.
func Listen(port string) error {
	var visits atomic.Int64
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	go func() {
		for b := make([]byte, 100); ; {
			if _, from, err := packets.ReadFrom(b); err == nil {
				_, _ = packets.WriteTo(fmt.Appendf(nil, "%d\n", visits.Add(1)-1), from)
			}
		}
	}()
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprintf(conn, "%d\n", visits.Add(1)-1)
		conn.Close()
	}
}

// Ask visits the listener of this sandbox and prints what it says.
func Ask(port string) error {
	conn, err := net.DialTimeout("tcp4", "127.0.0.1:"+port, 5*patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(os.Stdout, conn)
	return err
}
