package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// lookup asks the gateway for a name from inside a sandbox.
func lookup(path, network, name string) (*dns.Msg, error) {
	conn, err := dialFrom(path, network+"4", net.JoinHostPort(gateway.String(), "53"), 0)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := dns.Client{Net: network, Timeout: dialTimeout}
	reply, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.TypeA), &dns.Conn{Conn: conn})
	return reply, err
}

func TestNamesResolveThroughAPrivateResolver(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	for _, name := range []string{"one", "two"} {
		lease := attach(t, n, name)
		for _, network := range []string{"udp", "tcp"} {
			reply, err := lookup(lease.NamespacePath(), network, "Example.com.")
			if err != nil || reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 1 {
				t.Errorf("lookup over %s = %v, %v", network, reply, err)
			}
		}
		refuseFrom(t, lease.NamespacePath(), privateResolver+":53")
	}
}

func TestLargeAnswersComeOverTCP(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	lease := attach(t, n, "box")
	reply, err := lookup(lease.NamespacePath(), "udp", "large.example.com.")
	if err != nil || !reply.Truncated {
		t.Errorf("large answer over UDP = %v, %v, want it cut off", reply, err)
	}
	reply, err = lookup(lease.NamespacePath(), "tcp", "large.example.com.")
	if err != nil || len(reply.Answer) != 200 {
		t.Errorf("large answer over TCP = %v, want 200 records", err)
	}
}

func TestResolverRefusesAndFails(t *testing.T) {
	t.Parallel()
	n := openNetwork(t)
	client := netip.MustParseAddr("252.76.0.1")
	if reply, err := lookup(attach(t, n, "box").NamespacePath(), "udp", "broken.example.com."); err != nil || reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("broken name = %v, %v, want a server failure", reply, err)
	}
	transfer := new(dns.Msg).SetQuestion("example.com.", dns.TypeAXFR)
	if got := n.resolver.answer(client, transfer); got.Rcode != dns.RcodeRefused {
		t.Errorf("zone transfer = %v, want refused", got)
	}
	for range maxQuestionsPerClient {
		n.resolver.questions.enter(client)
	}
	question := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	if got := n.resolver.answer(client, question); got.Rcode != dns.RcodeServerFailure {
		t.Errorf("question beyond the quota = %v, want a server failure", got)
	}
	if got := n.resolver.answer(client.Next(), question); got.Rcode != dns.RcodeSuccess {
		t.Errorf("question of another sandbox = %v, want an answer", got)
	}
}

func TestUpstreamsFollowTheFile(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/resolv.conf"
	u := &upstreams{path: path}
	if _, err := u.list(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("list() without a file = %v, want it missing", err)
	}
	for i := range 3 {
		if err := os.WriteFile(path, fmt.Appendf(nil, "nameserver 203.0.113.%d\n", i), 0o600); err != nil {
			t.Fatal(err)
		}
		if i == 1 { // an old file is not read twice, but a change of it is seen
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			got, err := u.list()
			if want := fmt.Sprintf("203.0.113.%d:53", i); err != nil || len(got) != 1 || got[0].String() != want {
				t.Errorf("list() = %v, %v, want %s", got, err, want)
			}
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	t.Parallel()
	tests := []struct{ text, want string }{
		{"", "127.0.0.1:53"},
		{"# nameserver 192.0.2.1\nsearch example.com\n", "127.0.0.1:53"},
		{"nameserver 192.0.2.1\n", "192.0.2.1:53"},
		{"nameserver\t192.0.2.1 # here\nnameserver fe80::1%eth0\nnameserver bad\n", "192.0.2.1:53 [fe80::1%eth0]:53"},
		{"nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4", "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53"},
		{"nameserver 10.171.92.1\n", "127.0.0.1:53"}, // that is ourselves
	}
	for _, test := range tests {
		var got []string
		for _, server := range ParseResolvConf([]byte(test.text)) {
			got = append(got, server.String())
		}
		if want := strings.Fields(test.want); !slices.Equal(got, want) {
			t.Errorf("ParseResolvConf(%q) = %v, want %v", test.text, got, want)
		}
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\noptions edns0\n"))
	f.Add([]byte("nameserver \x00\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if got := ParseResolvConf(text); len(got) == 0 || len(got) > maxUpstreams {
			t.Errorf("ParseResolvConf(%q) = %v, want 1 to %d", text, got, maxUpstreams)
		}
	})
}

func TestQuota(t *testing.T) {
	t.Parallel()
	q := newQuota(3, 2)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i, want := range []bool{true, true, false} {
		if got := q.enter(a); got != want {
			t.Errorf("enter %d = %v, want %v", i, got, want)
		}
	}
	if !q.enter(b) || q.enter(b) {
		t.Error("the total of 3 is not kept")
	}
	q.leave(a)
	if !q.enter(b) {
		t.Error("a place given back is not free")
	}
}
