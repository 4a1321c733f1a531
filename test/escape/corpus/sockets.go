package corpus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The names of listeners, for Attempt.Listens.
const (
	ListenUnix     = "unix"
	ListenAbstract = "abstract"
	ListenVsock    = "vsock"
)

// sockets are sockets that are not of IP, or see more than their own.
func sockets() []Attempt {
	open := func(family, kind, protocol int) func(Env) error {
		return func(Env) error {
			fd, err := unix.Socket(family, kind, protocol)
			if err == nil {
				_ = unix.Close(fd)
			}
			return err
		}
	}
	return number("socket", []Attempt{
		{What: "a socket of the host", How: "its path", Want: Refused, Bites: true, Listens: ListenUnix, try: knock("unix", func(e Env) string { return e.Socket })},
		{What: "a socket of the host", How: "its path below /proc/1/root", Want: Refused, Listens: ListenUnix, try: knock("unix", func(e Env) string { return "/proc/1/root" + e.Socket })},
		{What: "a socket of the host", How: "its abstract name", Want: Refused, Bites: true, Listens: ListenAbstract, try: knock("unix", func(e Env) string { return "@" + e.Abstract })},
		{What: "a socket of the host", How: "a datagram to its path", Want: Refused, try: knock("unixgram", func(e Env) string { return e.Socket })},
		{What: "the host", How: "vsock to the host, the hypervisor and any", Want: Refused, try: every(vsock(unix.VMADDR_CID_HOST), vsock(unix.VMADDR_CID_HYPERVISOR), vsock(unix.VMADDR_CID_LOCAL))},
		{What: "frames of the wire", How: "AF_PACKET", Want: Refused, try: every(
			open(unix.AF_PACKET, unix.SOCK_RAW, 0x0300), open(unix.AF_PACKET, unix.SOCK_DGRAM, 0x0300), open(unix.AF_INET, unix.SOCK_PACKET, 0x0300))},
		{What: "packets of any kind", How: "raw sockets of IPv4", Want: Refused, try: every(
			open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW), open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
			open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP), open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP))},
		{What: "packets of any kind", How: "raw sockets of IPv6", Want: Refused, try: every(
			open(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW), open(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6))},
		{What: "the host's kernel", How: "crypto, Bluetooth, CAN, TIPC, RDS, KCM, XDP, NFC, RxRPC, SMC", Want: Refused, try: every(
			open(unix.AF_ALG, unix.SOCK_SEQPACKET, 0), open(unix.AF_BLUETOOTH, unix.SOCK_RAW, 1), open(unix.AF_CAN, unix.SOCK_RAW, 1),
			open(unix.AF_TIPC, unix.SOCK_STREAM, 0), open(unix.AF_RDS, unix.SOCK_SEQPACKET, 0), open(unix.AF_KCM, unix.SOCK_DGRAM, 0),
			open(unix.AF_XDP, unix.SOCK_RAW, 0), open(unix.AF_NFC, unix.SOCK_SEQPACKET, 1), open(unix.AF_RXRPC, unix.SOCK_DGRAM, 2), open(unix.AF_SMC, unix.SOCK_STREAM, 0))},
		{What: "another transport", How: "SCTP, DCCP, UDP-Lite, MPTCP", Want: Refused, try: every(
			open(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP), open(unix.AF_INET, unix.SOCK_DCCP, unix.IPPROTO_DCCP),
			open(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE), open(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP))},
		{What: "audit, connector, firewall and event messages", How: "netlink", Want: Contained, try: every(
			open(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT), open(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_CONNECTOR),
			open(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER), open(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_XFRM),
			open(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT))},
		{What: "the network's shape", How: "netlink: a device, an address, a route, a neighbour", Want: Refused, try: every(
			netlink(unix.RTM_NEWLINK), netlink(unix.RTM_NEWADDR), netlink(unix.RTM_NEWROUTE), netlink(unix.RTM_NEWNEIGH), netlink(unix.RTM_DELADDR))},
		{What: "the network's shape", How: "ioctl: another hardware address, another address, a neighbour", Want: Refused, try: every(
			interfaceIoctl(unix.SIOCSIFHWADDR), interfaceIoctl(unix.SIOCSIFADDR), interfaceIoctl(unix.SIOCSIFFLAGS), interfaceIoctl(unix.SIOCSARP))},
		{What: "the host's rules", How: "SO_MARK, buffers beyond the limit", Want: Refused, try: every(
			option(unix.SOL_SOCKET, unix.SO_MARK), option(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE))},
		// The sentry takes the option and does nothing; sources are tried in "packet".
		{What: "the host's rules", How: "IP_TRANSPARENT", Want: Contained, try: call(option(unix.SOL_IP, unix.IP_TRANSPARENT))},
	})
}

// knock connects and says who it is; an answer is a breach.
func knock(network string, address func(Env) string) func(Env) (Want, string) {
	return func(env Env) (Want, string) { return reach(network, address(env)) }
}

// reach connects, sends a line and waits for one. A connection that comes about
// is a breach whether it is answered or not; a datagram only with an answer.
func reach(network, address string) (Want, string) {
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return Refused, err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(conn, "knock\n")
	if _, datagram := conn.(net.PacketConn); !datagram || network == "unix" {
		return Breached, "connected to " + conn.RemoteAddr().String()
	}
	if err != nil {
		return Refused, err.Error()
	}
	if _, err := conn.Read(make([]byte, 100)); err != nil {
		return Refused, err.Error()
	}
	return Breached, "answered by " + conn.RemoteAddr().String()
}

func vsock(cid uint32) func(Env) error {
	return func(env Env) error {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: uint32(env.Port)})
	}
}

// netlink sends one empty request for a change.
func netlink(kind uint16) func(Env) error {
	return func(Env) error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		message := change(kind)
		if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
		answer := make([]byte, 4096)
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return err
		}
		list, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil || len(list) == 0 || len(list[0].Data) < 4 {
			return errors.Join(err, errors.New("no answer"))
		}
		code := int32(list[0].Data[0]) | int32(list[0].Data[1])<<8 | int32(list[0].Data[2])<<16 | int32(list[0].Data[3])<<24
		return number0(unix.Errno(-code))
	}
}

// change is a request that adds or removes something of eth0: header, 16 bytes
// of the family's own, the address of a sibling.
func change(kind uint16) []byte {
	body := make([]byte, 16)
	switch kind {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		body = []byte{unix.AF_INET, 32, 0, 0, 2, 0, 0, 0}
	case unix.RTM_NEWROUTE:
		body = make([]byte, 12)
		body[0] = unix.AF_INET
	case unix.RTM_NEWNEIGH:
		body = make([]byte, 12)
		body[0], body[4] = unix.AF_INET, 2
	}
	attribute := []byte{8, 0, 2, 0, 252, 76, 0, 9}
	length := unix.NLMSG_HDRLEN + len(body) + len(attribute)
	m := []byte{byte(length), byte(length >> 8), 0, 0, byte(kind), byte(kind >> 8), 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}
	flags := unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE
	m[6], m[7] = byte(flags), byte(flags>>8)
	return append(append(m, body...), attribute...)
}

func interfaceIoctl(request uint) func(Env) error {
	return func(Env) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		change, err := unix.NewIfreq("eth0")
		if err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, request, change)
	}
}

func option(level, name int) func(Env) error {
	return func(Env) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.SetsockoptInt(fd, level, name, 1)
	}
}

// daemon is the guest daemon, which root in the sandbox may end but not command.
func daemon() []Attempt {
	operator := func(method, path, header, value string) func(Env) error {
		return func(env Env) error { return operate(env, method, path, header, value) }
	}
	return number("daemon", []Attempt{
		{What: "the operator's calls", How: "no secret", Want: Refused, try: every(
			operator("POST", "/init", "", ""), operator("POST", "/sync", "", ""), operator("POST", "/end-processes", "", ""))},
		{What: "the operator's calls", How: "a wrong, an empty and a long secret", Want: Refused, try: every(
			operator("POST", "/init", "X-Lehr-Operator", "x"), operator("POST", "/init", "X-Lehr-Operator", ""),
			operator("POST", "/init", "Authorization", "Bearer "+string(bytes.Repeat([]byte("a"), 4096))),
			operator("POST", "/init", "X-Access-Token", "x"))},
		{What: "commands as root", How: "the users' calls without the access token", Want: Refused, try: every(
			operator("POST", "/process.Process/List", "Content-Type", "application/json"), operator("POST", "/filesystem.Filesystem/Stat", "Content-Type", "application/json"),
			operator("GET", "/envs", "", ""), operator("GET", "/files?path=/etc/passwd", "", ""), operator("GET", "/files?path=/etc/passwd&signature=v1_x", "", ""))},
		{What: "the guest daemon", How: "every signal that a program usually catches", Want: Contained, try: signalAll},
		{What: "the guest daemon", How: "the signals of a fault", Want: Contained, Alone: true, try: signals(unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGFPE)},
		// Go leaves 32 to 34 to the C library, so they cannot be caught.
		{What: "the guest daemon", How: "real-time signals", Want: Contained, Alone: true, try: signals(32, 33, 34, 35, 50, 64)},
		{What: "the guest daemon", How: "its port taken on another address", Want: Contained, try: call(takePort)},
		{What: "the guest daemon", How: "2,000 connections held open", Want: Contained, Alone: true, try: call(holdConnections)},
		{What: "the guest daemon", How: "/etc/passwd as a pipe, a device and a gigabyte", Want: Contained, Alone: true, try: every(passwdAs)},
		{What: "the guest daemon", How: "SIGSTOP", Want: Contained, Alone: true, try: call(func(Env) error { return unix.Kill(1, unix.SIGSTOP) })},
		{What: "the guest daemon", How: "SIGKILL", Want: Contained, Alone: true, try: call(func(Env) error { return unix.Kill(1, unix.SIGKILL) })},
		{What: "the guest daemon", How: "SIGKILL to all", Want: Contained, Alone: true, try: call(func(Env) error { return unix.Kill(-1, unix.SIGKILL) })},
	})
}

// signalAll sends what ends a program unless it catches it.
func signalAll(env Env) (Want, string) {
	var list []syscall.Signal
	for sig := syscall.Signal(1); sig < 32; sig++ {
		switch sig {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGFPE:
		default:
			list = append(list, sig)
		}
	}
	return signals(list...)(env)
}

func signals(list ...syscall.Signal) func(Env) (Want, string) {
	return call(func(Env) error {
		var failures []error
		for _, sig := range list {
			failures = append(failures, unix.Kill(1, sig))
		}
		return errors.Join(failures...)
	})
}

func operate(env Env, method, path, header, value string) error {
	request, err := http.NewRequest(method, "http://127.0.0.1:"+strconv.Itoa(env.GuestPort)+path, bytes.NewReader([]byte("{}")))
	if err != nil {
		return err
	}
	if header != "" {
		request.Header.Set(header, value)
	}
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 400 {
		return errors.New(response.Status)
	}
	return nil
}

func takePort(env Env) error {
	l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(env.GuestPort))
	if err != nil {
		return err
	}
	return l.Close()
}

func holdConnections(env Env) error {
	var held []net.Conn
	for range 2000 {
		conn, err := net.DialTimeout("tcp4", "127.0.0.1:"+strconv.Itoa(env.GuestPort), patience)
		if err != nil {
			return fmt.Errorf("after %d: %w", len(held), err)
		}
		held = append(held, conn)
	}
	return nil
}

func passwdAs(Env) error {
	if err := os.Remove("/etc/passwd"); err != nil {
		return err
	}
	return unix.Mkfifo("/etc/passwd", 0o666)
}
