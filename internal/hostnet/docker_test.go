package hostnet

import (
	"context"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/lehr-dev/lehr/internal/clock"
)

// TestDockersForwardPolicy is not parallel: it changes what the whole host
// forwards.
func TestDockersForwardPolicy(t *testing.T) { //nolint:paralleltest // see above
	openWorld(t)
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
	drop := nftables.ChainPolicyDrop
	user := conn.AddChain(&nftables.Chain{Table: table, Name: "DOCKER-USER"})
	forward := conn.AddChain(&nftables.Chain{
		Table: table, Name: "FORWARD", Type: nftables.ChainTypeFilter, Policy: &drop,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: rule(jump(user))})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.DelTable(table)
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
	})
	count := func() int {
		rules, err := conn.GetRules(table, user)
		if err != nil {
			t.Fatal(err)
		}
		return len(rules)
	}

	if got, err := ForwardBlocker(); got != "" || err != nil {
		t.Errorf("ForwardBlocker() with Docker's chain = %q, %v, want none", got, err)
	}
	n := reopenNetwork(t, instanceOf(t))
	lease := attach(t, n, "box")
	if err := reach(lease.NamespacePath(), outsidePort(publicAddress)); err != nil {
		t.Errorf("under Docker's policy: %v", err)
	}
	conn.FlushChain(user) // as if Docker had made it anew
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	refuseFrom(t, lease.NamespacePath(), outsidePort(publicAddress)) // the policy is in force
	for range 2 {
		if err := n.docker.ensure(); err != nil {
			t.Fatal(err)
		}
	}
	if got := count(); got != 2 {
		t.Errorf("%d rules in DOCKER-USER, want 2", got)
	}
	if err := reach(lease.NamespacePath(), outsidePort(publicAddress)); err != nil {
		t.Errorf("after the rules came back: %v", err)
	}
	_ = lease.Release(context.Background())
	if err := n.Close(context.Background()); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if got := count(); got != 0 {
		t.Errorf("%d rules left in DOCKER-USER", got)
	}
	expectNothing(t, n)
}

// TestForwardBlocker is not parallel for the same reason.
func TestForwardBlocker(t *testing.T) { //nolint:paralleltest // see above
	openWorld(t)
	if got, err := ForwardBlocker(); got != "" || err != nil {
		t.Errorf("ForwardBlocker() = %q, %v, want none", got, err)
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "firewall"})
	drop := nftables.ChainPolicyDrop
	conn.AddChain(&nftables.Chain{
		Table: table, Name: "forward", Type: nftables.ChainTypeFilter, Policy: &drop,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	got, err := ForwardBlocker()
	conn.DelTable(table)
	if flushErr := conn.Flush(); flushErr != nil {
		t.Error(flushErr)
	}
	if got != "firewall forward" || err != nil {
		t.Errorf("ForwardBlocker() = %q, %v, want the chain", got, err)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	needHost(t)
	if got := Probe(); got.Namespace != nil || got.Device != nil || got.Rules != nil {
		t.Errorf("Probe() = %+v, want everything", got)
	}
}

func TestTableIsRestored(t *testing.T) {
	t.Parallel()
	w := openWorld(t)
	fake := clock.NewFake(time.Unix(0, 0))
	n := openNetworkWith(t, Options{Clock: fake})
	lease, strict := attach(t, n, "box"), attach(t, n, "strict")
	if err := strict.SetPolicy(context.Background(), Policy{Deny: prefixes("203.0.113.0/24")}); err != nil {
		t.Fatal(err)
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	conn.DelTable(n.filter.rules.table)
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	before := len(w.visits("10.3.0.1"))
	refuseFrom(t, lease.NamespacePath(), outsidePort(publicAddress))
	refuseFrom(t, lease.NamespacePath(), outsidePort("10.3.0.1"))
	if got := len(w.visits("10.3.0.1")); got != before {
		t.Error("without the table a sandbox reached a private address")
	}
	for range 2 { // the second tick is taken only after the first was dealt with
		fake.Advance(lookoutPeriod)
	}
	waitFor(t, func() bool { return reach(lease.NamespacePath(), outsidePort(publicAddress)) == nil })
	refuseFrom(t, strict.NamespacePath(), outsidePort(publicAddress))
	refuseFrom(t, lease.NamespacePath(), outsidePort("10.3.0.1"))

	conn.DelTable(n.filter.rules.table)
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	_ = strict.Release(context.Background())
	<-strict.Gone() // with the table gone once more
	if err := reach(lease.NamespacePath(), outsidePort(publicAddress)); err != nil {
		t.Errorf("after a release restored the table: %v", err)
	}
}
