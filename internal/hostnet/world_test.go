package hostnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The test world: this process's namespace is the host, with one uplink to the
// namespace outside, which owns every other address there is.
const (
	hostAddress     = "198.51.100.1"
	outsideAddress  = "198.51.100.2"
	publicAddress   = "203.0.113.5"
	privateResolver = "10.255.0.53"
	echoPort        = 7000
)

// outsideAddresses are what the outside answers for: a public address, and one
// in each range that is denied.
var outsideAddresses = []string{
	publicAddress, "203.0.113.6", privateResolver, "10.1.2.3", "100.64.1.1", "172.16.5.5", "192.0.0.192", "192.168.7.7",
	"169.254.169.254", "240.1.2.3", "0.1.2.3",
	"10.2.0.1", "10.3.0.1", // each for one test
}

// world is the outside.
type world struct {
	ns *namespace

	mu   sync.Mutex
	seen []visit
}

// visit is one connection or packet that reached the outside.
type visit struct{ to, from netip.Addr }

// theWorld is made once for all tests of the process.
var theWorld = sync.OnceValues(makeWorld)

// openWorld returns the world.
func openWorld(t testing.TB) *world {
	t.Helper()
	needHost(t)
	w, err := theWorld()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// makeWorld connects host and outside and starts the servers there.
func makeWorld() (*world, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink"
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.file.Fd())}
	err = firstError(
		func() error { return up(host, "lo") },
		func() error { return host.LinkAdd(pair) },
		func() error { return up(host, "uplink", hostAddress+"/24") },
		func() error { return up(ns.handle, "eth0", outsideAddress+"/24") },
		func() error { return up(ns.handle, "lo") },
	)
	if err != nil {
		return nil, err
	}
	lo, err := ns.handle.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	for _, addr := range outsideAddresses {
		route := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: hostNet(netip.MustParseAddr(addr)),
			Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		}
		if err := ns.handle.RouteAdd(route); err != nil {
			return nil, fmt.Errorf("outside address %s: %w", addr, err)
		}
	}
	link, err := host.LinkByName("uplink")
	if err != nil {
		return nil, err
	}
	via := net.ParseIP(outsideAddress)
	if err := host.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: via}); err != nil {
		return nil, err
	}
	w := &world{ns: ns}
	return w, w.serve()
}

// up gives a device addresses and switches it on.
func up(h *netlink.Handle, device string, addresses ...string) error {
	link, err := h.LinkByName(device)
	if err != nil {
		return err
	}
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return h.LinkSetUp(link)
}

// inside runs fn on a thread that is in a network namespace; sockets it opens
// stay there.
func inside(path string, fn func() error) error {
	var err error
	offMainThread(func() bool {
		home, openErr := openThreadNamespace()
		if openErr != nil {
			err = openErr
			return true
		}
		defer home.Close()
		target, openErr := os.Open(path)
		if openErr != nil {
			err = openErr
			return true
		}
		defer target.Close()
		if err = unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return true
		}
		err = fn()
		return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil
	})
	return err
}

// serve starts the outside's servers: an echo over TCP and UDP and a resolver.
func (w *world) serve() error {
	return inside(w.ns.path(), func() error {
		listener, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", echoPort))
		if err != nil {
			return err
		}
		go w.echo(listener)
		for _, addr := range outsideAddresses[:2] {
			packets, err := net.ListenPacket("udp4", net.JoinHostPort(addr, fmt.Sprint(echoPort)))
			if err != nil {
				return err
			}
			go echoPackets(packets)
		}
		packets, err := net.ListenPacket("udp4", privateResolver+":53")
		if err != nil {
			return err
		}
		streams, err := net.Listen("tcp4", privateResolver+":53")
		if err != nil {
			return err
		}
		handler := dns.HandlerFunc(answerTest)
		go func() { _ = (&dns.Server{PacketConn: packets, Handler: handler}).ActivateAndServe() }()
		go func() { _ = (&dns.Server{Listener: streams, Handler: handler}).ActivateAndServe() }()
		return nil
	})
}

// echo sends back what comes in, and remembers who came.
func (w *world) echo(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.seen = append(w.seen, visit{to: addrOf(conn.LocalAddr()), from: addrOf(conn.RemoteAddr())})
		w.mu.Unlock()
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// visits returns who came to an address.
func (w *world) visits(to string) []visit {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []visit
	for _, v := range w.seen {
		if v.to == netip.MustParseAddr(to) {
			out = append(out, v)
		}
	}
	return out
}

// echoPackets sends packets back.
func echoPackets(conn net.PacketConn) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(buffer[:n], from)
	}
}

// answerTest is the outside's resolver: names of one record, "large." with more
// than fits a packet, "broken." with a failure.
func answerTest(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg).SetReply(request)
	name := request.Question[0].Name
	records := 1
	switch {
	case strings.HasPrefix(name, "broken."):
		reply.Rcode, records = dns.RcodeServerFailure, 0
	case strings.HasPrefix(name, "large."):
		records = 200
	}
	for i := range records {
		record := fmt.Sprintf("%s 60 IN A 203.0.113.%d", name, i)
		if rr, err := dns.NewRR(record); err == nil {
			reply.Answer = append(reply.Answer, rr)
		}
	}
	if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		reply.Truncate(replySize(request))
	}
	_ = w.WriteMsg(reply)
}

// addrOf returns the address of a socket address.
func addrOf(addr net.Addr) netip.Addr { return clientOf(addr) }

// openNetwork opens a network of its own for a test, forwarding names to the
// outside's resolver. It is closed at the end, when nothing may be left of it.
func openNetwork(t testing.TB) *Network { return openNetworkWith(t, Options{}) }

// openNetworkWith is openNetwork with settings.
func openNetworkWith(t testing.TB, opts Options) *Network {
	t.Helper()
	openWorld(t)
	opts.Instance = instanceOf(t)
	n := reopenNetworkWith(t, opts)
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Errorf("Close() = %v", err)
		}
		expectNothing(t, n)
	})
	return n
}

// instanceOf returns an instance name for a test.
func instanceOf(t testing.TB) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(t.Name()))
	if len(name) > 50 {
		name = name[len(name)-50:]
	}
	return "t" + name
}

// reopenNetwork opens the network of an instance and does not close it.
func reopenNetwork(t testing.TB, instance string) *Network {
	return reopenNetworkWith(t, Options{Instance: instance})
}

// reopenNetworkWith is reopenNetwork with settings.
func reopenNetworkWith(t testing.TB, opts Options) *Network {
	t.Helper()
	conf := t.TempDir() + "/resolv.conf"
	if err := os.WriteFile(conf, []byte("nameserver "+privateResolver+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts.ResolvConf, opts.Logger = conf, slog.New(slog.NewTextHandler(t.Output(), nil))
	n, err := Open(context.Background(), opts)
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	return n
}

// expectNothing checks that a closed network left nothing on the host.
func expectNothing(t testing.TB, n *Network) {
	t.Helper()
	l, err := openLinks()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if owned, err := l.owned(n.names); err != nil || len(owned) != 0 {
		t.Errorf("devices left: %v, %v", owned, err)
	}
	tables, err := n.filter.conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if table.Name == n.names.table {
			t.Errorf("table %s is left", table.Name)
		}
	}
}

// attach makes a lease that is released at the end of the test at the latest.
func attach(t testing.TB, n *Network, name string) *Lease {
	t.Helper()
	lease, err := n.Attach(context.Background(), name)
	if err != nil {
		t.Fatalf("Attach(%s) = %v", name, err)
	}
	t.Cleanup(func() { _ = lease.Release(context.Background()) })
	return lease
}

// dialTimeout is how long a test waits for a connection that must not come
// about and gets no answer either.
const dialTimeout = 700 * time.Millisecond

// dialFrom connects from inside a namespace. A local port of 0 means any.
func dialFrom(path, network, address string, localPort int) (net.Conn, error) {
	var conn net.Conn
	err := inside(path, func() error {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		if localPort != 0 {
			dialer.LocalAddr = &net.TCPAddr{IP: net.IP(InnerAddr().AsSlice()), Port: localPort}
		}
		var err error
		conn, err = dialer.Dial(network, address)
		return err
	})
	return conn, err
}

// refuseFrom reports an error unless a connection from inside fails.
func refuseFrom(t testing.TB, path, address string) {
	t.Helper()
	refuseOver(t, path, "tcp4", address)
}

// refuseOver is refuseFrom over a network of package net.
func refuseOver(t testing.TB, path, network, address string) {
	t.Helper()
	err := inside(path, func() error {
		conn, err := net.DialTimeout(network, address, dialTimeout)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err == nil {
		t.Errorf("a sandbox reached %s", address)
	}
}

// echoOver sends a line and expects it back.
func echoOver(conn net.Conn, line string) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return err
	}
	got, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && got != line+"\n" {
		return fmt.Errorf("echo = %q, want %q", got, line)
	}
	return err
}

// reach checks that a sandbox reaches an echo server.
func reach(path, address string) error {
	conn, err := dialFrom(path, "tcp4", address, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	return echoOver(conn, "hello")
}

// outsidePort returns an address with the echo port.
func outsidePort(address string) string { return net.JoinHostPort(address, fmt.Sprint(echoPort)) }

// listenIn serves inside a sandbox: every connection gets a line and is closed.
func listenIn(t testing.TB, path, address, line string) {
	t.Helper()
	var listener net.Listener
	err := inside(path, func() error {
		var err error
		listener, err = net.Listen("tcp4", address)
		return err
	})
	if err != nil {
		t.Fatalf("listen in a sandbox: %v", err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = io.WriteString(conn, line)
				conn.Close()
			}
		}
	}()
}

// waitFor waits until done returns true, which takes a connection's time.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for range 20 {
		if done() {
			return
		}
	}
	t.Fatal("it did not come about")
}
