package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/test/escape/corpus"
	"github.com/lehr-dev/lehr/test/world"
)

// childVariable says that a test runs again in a process of its own, whose
// network and mounts are the host of that test.
const childVariable = "LEHR_E2E_CHILD"

// apart runs the test again in a process with new network and mount namespaces
// and reports true there. Outside it waits for that process and reports false.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		return true
	}
	golden := world.Golden(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), childVariable+"="+t.Name(), world.EnvGolden+"="+golden)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the test in its own namespaces: %v", err)
	}
	return false
}

// The addresses of the world around the host of the test.
const (
	uplinkAddress  = "198.51.100.1"
	otherAddress   = "192.0.2.1"
	outsideAddress = "198.51.100.2"
	publicAddress  = "203.0.113.5"
	resolverAddr   = "10.255.0.53"
	knockPort      = 7000
)

// outside is everything that is not the host: a network namespace that answers
// for a public address, for the host's resolver and for every denied address,
// and remembers who came.
type outside struct {
	mu      sync.Mutex
	seen    map[string]int // visits by listener
	packets []string       // that a sandbox may not have sent
	flips   int
}

// visit counts one.
func (o *outside) visit(listener string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen[listener]++
}

// take returns what was seen since the last call.
func (o *outside) take() (seen map[string]int, packets []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen, packets = o.seen, o.packets
	o.seen, o.packets = map[string]int{}, nil
	return seen, packets
}

// awaits returns once a listener has seen something, and false where it does not:
// the one who came may be gone before the listener has noted it.
func (o *outside) awaits(listener string) bool {
	for range 200 {
		if seen, _ := o.take(); seen[listener] > 0 {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

// newOutside connects the process's own namespace, the host, with the outside.
func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{seen: map[string]int{}}
	made := make(chan error, 1)
	home := make(chan int, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread stays outside
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- err
			return
		}
		ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			made <- err
			return
		}
		home <- ns
		made <- nil
		select {} // the sockets live with the process
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	ns := <-home
	if err := connect(ns); err != nil {
		t.Fatalf("connecting host and outside: %v", err)
	}
	if err := inNamespace(ns, func() error { return o.serve(t) }); err != nil {
		t.Fatalf("serving outside: %v", err)
	}
	useResolver(t)
	return o
}

// connect makes the wire, the addresses at both ends and the routes.
func connect(ns int) error {
	there, err := netlink.NewHandleAt(nsHandle(ns))
	if err != nil {
		return err
	}
	here, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink"
	second := netlink.NewLinkAttrs()
	second.Name = "second"
	err = errors.Join(
		here.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}),
		here.LinkAdd(&netlink.Veth{LinkAttrs: second, PeerName: "secondpeer"}), // dummies are not in every kernel
		os.WriteFile("/proc/sys/net/ipv6/conf/uplink/disable_ipv6", []byte("1"), 0o600),
		setUp(here, "lo"), setUp(here, "uplink", uplinkAddress+"/24"), setUp(here, "secondpeer"), setUp(here, "second", otherAddress+"/24"),
		setUp(there, "lo"), setUp(there, "eth0", outsideAddress+"/24"),
	)
	if err != nil {
		return err
	}
	lo, err := there.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, addr := range append(corpus.Denied(), publicAddress, resolverAddr) {
		route := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: net.ParseIP(addr).To4(), Mask: net.CIDRMask(32, 32)},
			Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		}
		if err := there.RouteAdd(route); err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
	}
	uplink, err := here.LinkByName("uplink")
	if err != nil {
		return err
	}
	return here.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.ParseIP(outsideAddress)})
}

func setUp(h *netlink.Handle, device string, addresses ...string) error {
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

// inNamespace runs f on a thread that is there; the sockets it opens stay.
func inNamespace(ns int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// serve answers on every address of the outside, and looks at the wire.
func (o *outside) serve(t *testing.T) error {
	for _, port := range []int{knockPort, 80} {
		l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			return err
		}
		go o.accept(l)
	}
	for _, addr := range append(corpus.Denied(), publicAddress) {
		packets, err := net.ListenPacket("udp4", net.JoinHostPort(addr, fmt.Sprint(knockPort)))
		if err != nil {
			return err
		}
		go o.receive(packets, listenerOf(addr))
	}
	questions, err := net.ListenPacket("udp4", resolverAddr+":53")
	if err != nil {
		return err
	}
	go func() {
		_ = (&dns.Server{PacketConn: questions, Handler: dns.HandlerFunc(o.answer)}).ActivateAndServe()
	}()
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(bigEndian(unix.ETH_P_ALL)))
	if err != nil {
		return err
	}
	go o.watch(t, wire)
	return nil
}

func listenerOf(addr string) string {
	if addr == publicAddress {
		return corpus.ListenOutside("public")
	}
	return corpus.ListenOutside(addr)
}

func (o *outside) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
		o.visit(listenerOf(host))
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func (o *outside) receive(packets net.PacketConn, name string) {
	for b := make([]byte, 65536); ; {
		n, from, err := packets.ReadFrom(b)
		if err != nil {
			return
		}
		o.visit(name)
		_, _ = packets.WriteTo(b[:n], from)
	}
}

// answer is the host's resolver. Some names of it stand for what is denied.
func (o *outside) answer(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg).SetReply(request)
	q := request.Question[0]
	record := map[string]string{
		"public.test.": publicAddress, "metadata.rebind.test.": "169.254.169.254", "private.rebind.test.": "10.1.2.3", "loopback.rebind.test.": "127.0.0.1",
	}[q.Name]
	if q.Name == "flip.rebind.test." && q.Qtype == dns.TypeA {
		o.mu.Lock()
		o.flips++
		record = []string{publicAddress, "169.254.169.254"}[min(1, o.flips/2)]
		o.mu.Unlock()
	}
	text := ""
	switch {
	case q.Qtype == dns.TypeA && record != "":
		text = q.Name + " 0 IN A " + record
	case q.Qtype == dns.TypeAAAA && q.Name == "mapped.rebind.test.":
		text = q.Name + " 0 IN AAAA ::ffff:10.1.2.3"
	}
	if rr, err := dns.NewRR(text); err == nil && rr != nil {
		reply.Answer = append(reply.Answer, rr)
	}
	_ = w.WriteMsg(reply)
}

// watch reads every packet that arrives from the host and keeps those that no
// sandbox may have sent: to a denied address, of IPv6, or with a source that is
// not the host's.
func (o *outside) watch(t *testing.T, wire int) {
	denied := corpus.Denied()
	for b := make([]byte, 65536); ; {
		n, from, err := unix.Recvfrom(wire, b, 0)
		if err != nil {
			return
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Pkttype == unix.PACKET_OUTGOING || n < 20 {
			continue
		}
		text := ""
		switch bigEndian(link.Protocol) {
		case unix.ETH_P_IP:
			src, dst := netip.AddrFrom4([4]byte(b[12:16])).String(), netip.AddrFrom4([4]byte(b[16:20])).String()
			loop := src == dst || slices.Contains(denied, src) || src == publicAddress // the outside to itself, over lo
			if !loop && (slices.Contains(denied, dst) || src != uplinkAddress && src != outsideAddress && src != resolverAddr) {
				text = fmt.Sprintf("%s to %s, protocol %d, %x", src, dst, b[9], b[20:min(n, 60)])
			}
		case unix.ETH_P_IPV6:
			text = netip.AddrFrom16([16]byte(b[8:24])).String() + " over IPv6"
		}
		if text != "" {
			o.mu.Lock()
			o.packets = append(o.packets, text)
			o.mu.Unlock()
		}
	}
}

func bigEndian(v uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], v)
	return binary.BigEndian.Uint16(b[:])
}

// useResolver makes the outside's resolver that of this mount namespace.
func useResolver(t *testing.T) {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+resolverAddr+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(conf, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

// listenOnHost makes the host's own listeners: on every address, on a path and
// on an abstract name.
func (o *outside) listenOnHost(t *testing.T, path, abstract string) {
	t.Helper()
	for name, listen := range map[string][2]string{
		corpus.ListenHost:     {"tcp", fmt.Sprintf(":%d", knockPort)},
		corpus.ListenUnix:     {"unix", path},
		corpus.ListenAbstract: {"unix", "@" + abstract},
	} {
		l, err := net.Listen(listen[0], listen[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				o.visit(name)
				conn.Close()
			}
		}()
	}
	packets, err := net.ListenPacket("udp", fmt.Sprintf(":%d", knockPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close() })
	go o.receive(packets, corpus.ListenHost)
}

// hostState is what no sandbox may change, as text.
func hostState(t *testing.T, canary string, victim int) string {
	t.Helper()
	var text strings.Builder
	for _, path := range []string{
		canary, "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/panic_on_oops",
		"/proc/sys/kernel/randomize_va_space", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/sys/vm/overcommit_memory",
		"/proc/sys/fs/suid_dumpable", "/proc/sys/net/ipv4/ip_forward", "/proc/swaps", "/proc/sys/kernel/random/boot_id",
		fmt.Sprintf("/proc/%d/oom_score_adj", victim), fmt.Sprintf("/proc/%d/limits", victim), fmt.Sprintf("/proc/%d/comm", victim),
	} {
		b, err := os.ReadFile(path)
		fmt.Fprintf(&text, "%s: %q %v\n", path, bytes.TrimSpace(b), err)
	}
	var set unix.CPUSet
	err := unix.SchedGetaffinity(victim, &set)
	prio, perr := unix.Getpriority(unix.PRIO_PROCESS, victim)
	fmt.Fprintf(&text, "victim: %v %v, %v %v\n", set.Count(), err, prio, perr)
	entries, err := os.ReadDir(filepath.Dir(canary))
	fmt.Fprintf(&text, "folder: %v %v\n", entries, err)
	return text.String()
}

// hostMounts lists the mounts of the host. Those of other programs can go away
// at any time, and namespaces are mounted by them.
func hostMounts(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mounts := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, " nsfs ") {
			mounts[line] = true
		}
	}
	return mounts
}

// outerAddresses are the addresses by which the host knows its sandboxes.
func outerAddresses(t *testing.T) []string {
	t.Helper()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	outer := netip.MustParsePrefix("252.76.0.0/14")
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if addr, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok && outer.Contains(addr) {
			all = append(all, addr.String())
		}
	}
	return all
}
