package hostnet

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
)

// holdNamespace opens a lease's namespace as a running sandbox would, and
// returns the path.
func holdNamespace(t *testing.T, lease *Lease) string {
	t.Helper()
	file, err := os.Open(lease.NamespacePath())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", file.Fd())
}

func TestRunningSandboxOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	w := openWorld(t)
	instance := instanceOf(t)
	first := reopenNetwork(t, instance)
	lease := attach(t, first, "box")
	held := holdNamespace(t, lease)
	listenIn(t, held, "0.0.0.0:9000", "still here")
	if err := lease.SetPolicy(context.Background(), Policy{Deny: prefixes("203.0.113.6/32")}); err != nil {
		t.Fatal(err)
	}
	stream, err := dialFrom(held, "tcp4", outsidePort(publicAddress), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()

	if err := first.Close(context.Background()); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	if err := echoOver(stream, "without an agent"); err != nil {
		t.Errorf("an open connection without an agent: %v", err)
	}
	if err := reach(held, outsidePort(publicAddress)); err != nil {
		t.Errorf("a new connection without an agent: %v", err)
	}

	second := reopenNetwork(t, instance)
	if err := echoOver(stream, "with the next agent"); err != nil {
		t.Errorf("an open connection with the next agent: %v", err)
	}
	if got, err := lookup(held, "udp", "example.com."); err != nil || len(got.Answer) != 1 {
		t.Errorf("names with the next agent = %v, %v", got, err)
	}
	if _, err := second.Attach(context.Background(), "box"); !errs.IsKind(err, errs.Exists) {
		t.Errorf("Attach(leftover) = %v, want exists", err)
	}
	adopted, err := second.Adopt(context.Background(), "box")
	if err != nil {
		t.Fatalf("Adopt() = %v", err)
	}
	if got := adopted.NamespacePath(); got != "" {
		t.Errorf("NamespacePath() of an adopted lease = %q, want none", got)
	}
	if swept, err := second.Sweep(context.Background()); swept != 0 || err != nil {
		t.Errorf("Sweep() = %d, %v, want none", swept, err)
	}
	refuseFrom(t, held, outsidePort("203.0.113.6"))
	if got := w.visits("203.0.113.6"); len(got) != 0 {
		t.Errorf("the kept policy let %v through", got)
	}
	conn, err := adopted.Dial(context.Background(), 9000)
	if err != nil {
		t.Fatalf("Dial() = %v", err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "still here" {
		t.Errorf("Dial() reached %q, %v", got, err)
	}
	if err := adopted.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	<-adopted.Gone()
	if err := second.Close(context.Background()); err != nil {
		t.Errorf("Close() = %v", err)
	}
	expectNothing(t, second)
}

func TestSweepRemovesLeftovers(t *testing.T) {
	t.Parallel()
	openWorld(t)
	instance := instanceOf(t)
	first := reopenNetwork(t, instance)
	kept, unused := attach(t, first, "kept"), attach(t, first, "unused")
	holdNamespace(t, kept)
	if err := first.Close(context.Background()); err != nil {
		t.Fatal(err)
	}

	second := reopenNetwork(t, instance)
	// The namespace of the unused lease ended with its agent, and its device.
	if _, err := second.Adopt(context.Background(), "never"); !errs.IsKind(err, errs.NotFound) {
		t.Errorf("Adopt(unknown) = %v, want not found", err)
	}
	if swept, err := second.Sweep(context.Background()); swept != 2 || err != nil {
		t.Errorf("Sweep() = %d, %v, want 2", swept, err)
	}
	expectNoTrace(t, second, []*Lease{kept, unused})
	again := attach(t, second, "kept")
	if err := reach(again.NamespacePath(), outsidePort(publicAddress)); err != nil {
		t.Errorf("a lease under a swept name: %v", err)
	}
	if err := again.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(context.Background()); err != nil {
		t.Errorf("Close() = %v", err)
	}
	expectNothing(t, second)
}

func TestSweepSparesOtherInstances(t *testing.T) {
	t.Parallel()
	one, other := openNetwork(t), reopenNetwork(t, instanceOf(t)+"-other")
	lease := attach(t, other, "box")
	if swept, err := one.Sweep(context.Background()); swept != 0 || err != nil {
		t.Errorf("Sweep() = %d, %v, want none", swept, err)
	}
	if err := reach(lease.NamespacePath(), outsidePort(publicAddress)); err != nil {
		t.Errorf("another instance's sandbox after Sweep: %v", err)
	}
	if err := lease.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(context.Background()); err != nil {
		t.Errorf("Close() = %v", err)
	}
	expectNothing(t, other)
}

// containsLine reports whether text has an address as a word.
func containsLine(text, address string) bool {
	for word := range strings.FieldsSeq(text) {
		if addr, err := netip.ParseAddr(word); err == nil && addr.String() == address {
			return true
		}
	}
	return false
}
