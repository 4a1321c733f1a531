package hostnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

func TestSandboxesOfOneAddressReachTheInternet(t *testing.T) {
	t.Parallel()
	w := openWorld(t)
	n := openNetwork(t)
	var group errgroup.Group
	for i := range 8 {
		lease := attach(t, n, fmt.Sprintf("box-%d", i))
		group.Go(func() error {
			// The same source port everywhere: only the outer addresses differ.
			conn, err := dialFrom(lease.NamespacePath(), "tcp4", outsidePort(publicAddress), 40000)
			if err != nil {
				return err
			}
			defer conn.Close()
			for range 3 {
				if err := echoOver(conn, "hello from "+lease.Name()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, v := range w.visits(publicAddress) {
		if got := v.from.String(); got != hostAddress {
			t.Errorf("the outside saw a sandbox as %s, want %s", got, hostAddress)
		}
	}
}

func TestPacketsAndTheirErrorsComeBack(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	lease := attach(t, n, "box")
	conn, err := dialFrom(lease.NamespacePath(), "udp4", outsidePort(publicAddress), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := echoOver(conn, "packet"); err != nil {
		t.Errorf("echo over UDP: %v", err)
	}
	// Nobody listens there: the ICMP error quotes our packet and must find the
	// socket.
	closed, err := dialFrom(lease.NamespacePath(), "udp4", net.JoinHostPort(publicAddress, "9"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	if err := echoOver(closed, "packet"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("packet to a closed port = %v, want connection refused", err)
	}
}

func TestHostDialsEachSandbox(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	var leases []*Lease
	for i := range 5 {
		lease := attach(t, n, fmt.Sprintf("box-%d", i))
		listenIn(t, lease.NamespacePath(), "0.0.0.0:9000", lease.Name())
		leases = append(leases, lease)
	}
	for _, lease := range leases {
		conn, err := lease.Dial(context.Background(), 9000)
		if err != nil {
			t.Fatalf("%s.Dial() = %v", lease.Name(), err)
		}
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || string(got) != lease.Name() {
			t.Errorf("%s.Dial() reached %q, %v", lease.Name(), got, err)
		}
	}
	if _, err := leases[0].Dial(context.Background(), 9001); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("Dial(closed port) = %v, want connection refused", err)
	}
	// An error packet from a sandbox finds the host's socket.
	dialer := net.Dialer{Control: bindToDevice(leases[1].HostDevice())}
	conn, err := dialer.Dial("udp4", net.JoinHostPort(InnerAddr().String(), "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := echoOver(conn, "packet"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("packet to a closed port of a sandbox = %v, want connection refused", err)
	}
}

func TestLargeTransfersSurviveRewriting(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	lease := attach(t, n, "box")
	conn, err := dialFrom(lease.NamespacePath(), "tcp4", outsidePort(publicAddress), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const size = 16 << 20
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i * 7 >> 3)
	}
	var group errgroup.Group
	group.Go(func() error {
		_, err := conn.Write(sent)
		return err
	})
	got := make([]byte, size)
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if string(got) != string(sent) {
		t.Error("what came back is not what was sent")
	}
}

func TestFiftyAtOnceLeaveNothing(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	leases := make([]*Lease, 50)
	var group errgroup.Group
	for i := range leases {
		group.Go(func() error {
			lease, err := n.Attach(context.Background(), fmt.Sprintf("box-%d", i))
			leases[i] = lease
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	outer := map[string]bool{}
	for _, lease := range leases {
		outer[lease.outer.String()] = true
		group.Go(func() error { return reach(lease.NamespacePath(), outsidePort(publicAddress)) })
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if len(outer) != len(leases) {
		t.Errorf("%d leases have %d outer addresses", len(leases), len(outer))
	}
	for _, lease := range leases {
		if err := lease.Release(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	for _, lease := range leases {
		<-lease.Gone()
	}
	expectNoTrace(t, n, leases)
}

// expectNoTrace checks that nothing is left of leases while the network lives.
func expectNoTrace(t *testing.T, n *Network, leases []*Lease) {
	t.Helper()
	if devices := n.filter.devices(); len(devices) != 0 {
		t.Errorf("the table still knows %v", devices)
	}
	fresh, err := openFilter(n.filter.rules)
	if err != nil {
		t.Fatal(err)
	}
	if devices := fresh.devices(); len(devices) != 0 {
		t.Errorf("the kernel's table still knows %v", devices)
	}
	owned, err := n.links.owned(n.names)
	if err != nil || len(owned) != 0 {
		t.Errorf("devices left: %v, %v", owned, err)
	}
	routes, err := os.ReadFile("/proc/net/fib_trie")
	if err != nil {
		t.Fatal(err)
	}
	flows, err := n.links.handle.ConntrackTableList(1, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	for _, lease := range leases {
		if containsLine(string(routes), lease.outer.String()) {
			t.Errorf("the route to %s is left", lease.outer)
		}
		for _, flow := range flows {
			if flow.Forward.SrcIP.String() == lease.outer.String() {
				t.Errorf("a tracked connection of %s is left", lease.outer)
			}
		}
	}
}

func TestReleaseSparesOthers(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	lease, other := attach(t, n, "box"), attach(t, n, "other")
	listenIn(t, lease.NamespacePath(), "0.0.0.0:9000", "box")
	conn, err := dialFrom(lease.NamespacePath(), "tcp4", outsidePort(publicAddress), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = other.Release(context.Background())
	<-other.Gone()
	if err := echoOver(conn, "still there"); err != nil {
		t.Errorf("an open connection after another lease's release: %v", err)
	}
	if got, err := lookup(lease.NamespacePath(), "udp", "example.com."); err != nil {
		t.Errorf("a name after another lease's release: %v, %v", got, err)
	}
	in, err := lease.Dial(context.Background(), 9000)
	if err != nil {
		t.Fatalf("Dial() after another lease's release = %v", err)
	}
	in.Close()
}

func TestAttachRefusesWhatIsThere(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	attach(t, n, "box")
	if _, err := n.Attach(context.Background(), "box"); !errs.IsKind(err, errs.Exists) {
		t.Errorf("Attach(same name) = %v, want exists", err)
	}
	if _, err := n.Attach(context.Background(), "no/name"); !errs.IsKind(err, errs.Invalid) {
		t.Errorf("Attach(bad name) = %v, want invalid", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := n.Attach(ended, "late"); !errors.Is(err, context.Canceled) {
		t.Errorf("Attach(ended context) = %v, want cancelled", err)
	}
}

func TestCloseDuringAttachLeavesNothing(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	var made sync.WaitGroup
	for i := range 10 {
		made.Go(func() {
			lease, err := n.Attach(context.Background(), fmt.Sprintf("box-%d", i))
			if err == nil {
				_ = lease.Release(context.Background())
			} else if !errs.IsKind(err, errs.Conflict) {
				t.Errorf("Attach() = %v, want none or conflict", err)
			}
		})
	}
	made.Wait()
	if err := n.Close(context.Background()); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if _, err := n.Attach(context.Background(), "late"); !errs.IsKind(err, errs.Conflict) {
		t.Errorf("Attach after Close = %v, want conflict", err)
	}
	if err := n.Close(context.Background()); err != nil {
		t.Errorf("second Close() = %v", err)
	}
}

func TestOpenRefusesBadInstance(t *testing.T) {
	t.Parallel()
	for _, instance := range []string{"", "UPPER", "a/b", "-x"} {
		if _, err := Open(context.Background(), Options{Instance: instance}); !errs.IsKind(err, errs.Invalid) {
			t.Errorf("Open(%q) = %v, want invalid", instance, err)
		}
	}
}
