package enginetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// small is the shape of most sandboxes of the suite.
var small = lehr.Resources{VCPUs: 1, MemoryMB: 256, DiskMB: 128}

// bench is one subtest's subject with the steps that subtests are made of; a
// failing step ends the subtest.
type bench struct {
	Subject
	eng engine.Engine // Subject.Engine, or its successor after a crash
}

func newBench(t *testing.T, s Subject) *bench {
	t.Helper()
	if s.Engine == nil || s.Crash == nil || s.Reopen == nil || s.Leaks == nil || s.Processes == 0 {
		t.Fatal("Subject lacks Engine, Crash, Reopen, Leaks or Processes")
	}
	if s.Run == nil {
		s.Run = Run
	}
	return &bench{Subject: s, eng: s.Engine}
}

// ctx returns a context that ends with the subtest, or when it hangs.
func (b *bench) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// prepare makes a slot.
func (b *bench) prepare(t *testing.T, kind engine.Kind, r lehr.Resources) engine.SlotID {
	t.Helper()
	slot, err := b.eng.Prepare(b.ctx(t), engine.PrepareSpec{
		Kind: kind, Resources: r, Labels: map[string]string{"suite": "enginetest"},
	})
	if err != nil {
		t.Fatalf("Prepare(%s, %+v) = %v", kind, r, err)
	}
	return slot
}

// spec returns what boots the probe.
func (b *bench) spec() engine.StartSpec {
	return engine.StartSpec{
		Image: b.Image, Guest: b.Guest, Hostname: "probe",
		Init:   probewire.Init(),
		Env:    []string{"PATH=/usr/bin:/bin", "PROBE=line one\nline two"},
		Labels: map[string]string{"name": "probe"},
	}
}

// boot makes and starts a sandbox and waits until the probe answers.
func (b *bench) boot(t *testing.T, r lehr.Resources) (engine.SlotID, engine.Sandbox) {
	t.Helper()
	slot := b.prepare(t, engine.KindBoot, r)
	if err := b.eng.Start(b.ctx(t), slot, b.spec()); err != nil {
		t.Fatalf("Start(%s) = %v", slot, err)
	}
	sb := b.eng.Sandbox(slot)
	b.awaitProbe(t, sb)
	return slot, sb
}

// awaitProbe waits until the probe answers: Start promises only that it runs.
func (b *bench) awaitProbe(t *testing.T, sb engine.Sandbox) {
	t.Helper()
	ctx := b.ctx(t)
	for {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := b.Run(one, sb, "echo", "up")
		cancel()
		if err == nil {
			return
		}
		if st, serr := sb.Status(ctx); serr == nil && st.State == engine.StateEnded {
			t.Fatalf("sandbox ended before the probe answered: %+v", *st.Exit)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the probe never answered: %v", err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// do runs a verb that must succeed and returns its output.
func (b *bench) do(t *testing.T, sb engine.Sandbox, verb string, args ...string) string {
	t.Helper()
	out, err := b.Run(b.ctx(t), sb, verb, args...)
	if err != nil {
		t.Fatalf("probe %s %q = %q, %v", verb, args, out, err)
	}
	return out
}

// fields runs a verb that answers "k=v k=v".
func (b *bench) fields(t *testing.T, sb engine.Sandbox, verb string, args ...string) map[string]string {
	t.Helper()
	return parseFields(b.do(t, sb, verb, args...))
}

func parseFields(out string) map[string]string {
	m := map[string]string{}
	for f := range strings.FieldsSeq(out) {
		if k, v, ok := strings.Cut(f, "="); ok {
			m[k] = v
		}
	}
	return m
}

// number reads one figure of fields.
func number(t *testing.T, m map[string]string, key string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(m[key], 10, 64)
	if err != nil {
		t.Fatalf("probe figure %s: %v in %v", key, err, m)
	}
	return n
}

// wait returns how the sandbox ended.
func (b *bench) wait(t *testing.T, sb engine.Sandbox) engine.Exit {
	t.Helper()
	exit, err := sb.Wait(b.ctx(t))
	if err != nil {
		t.Fatalf("Wait() = %v", err)
	}
	return exit
}

// wantReason waits for the end and checks its reason.
func (b *bench) wantReason(t *testing.T, sb engine.Sandbox, want lehr.SandboxReason) {
	t.Helper()
	if exit := b.wait(t, sb); exit.Reason != want || exit.At.IsZero() {
		t.Fatalf("Wait() = reason %q at %v (%s), want reason %q and a time", exit.Reason, exit.At, exit.Detail, want)
	}
}

// destroy destroys a slot.
func (b *bench) destroy(t *testing.T, slot engine.SlotID) {
	t.Helper()
	if err := b.eng.Destroy(b.ctx(t), slot); err != nil {
		t.Fatalf("Destroy(%s) = %v", slot, err)
	}
}

// destroyAll destroys every slot that exists.
func (b *bench) destroyAll(t *testing.T) {
	t.Helper()
	for slot := range b.list(t) {
		b.destroy(t, slot)
	}
	if left := b.list(t); len(left) > 0 {
		t.Errorf("List() after destroying all = %v, want none", left)
	}
}

// list returns List by slot.
func (b *bench) list(t *testing.T) map[engine.SlotID]engine.Status {
	t.Helper()
	all, err := b.eng.List(b.ctx(t))
	if err != nil {
		t.Fatalf("List() = %v", err)
	}
	m := map[engine.SlotID]engine.Status{}
	for _, st := range all {
		m[st.Slot] = st
	}
	if len(m) != len(all) {
		t.Fatalf("List() names a slot twice: %v", all)
	}
	return m
}

// leaks returns the subject's present belongings, sorted.
func (b *bench) leaks(t *testing.T) []string {
	t.Helper()
	found, err := b.Leaks(b.ctx(t))
	if err != nil {
		t.Fatalf("Leaks() = %v", err)
	}
	slices.Sort(found)
	return found
}

// checkLeaks compares with what there was before. What a cancelled call left in
// the background may take a moment; Destroy itself may not (see lifecycle).
func (b *bench) checkLeaks(t *testing.T, before []string) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		extra := surplus(b.leaks(t), before)
		if len(extra) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left behind:\n\t%s", strings.Join(extra, "\n\t"))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// surplus returns what now holds beyond before, counting duplicates.
func surplus(now, before []string) []string {
	count := map[string]int{}
	for _, s := range before {
		count[s]++
	}
	var extra []string
	for _, s := range now {
		if count[s]--; count[s] < 0 {
			extra = append(extra, s)
		}
	}
	return extra
}

// wantKind checks an error's kind.
func wantKind(t *testing.T, call string, err error, kinds ...errs.Kind) {
	t.Helper()
	if !slices.Contains(kinds, errs.KindOf(err)) {
		t.Errorf("%s = %v (kind %q), want kind %q", call, err, errs.KindOf(err), kinds)
	}
}

// wantLabels checks that got holds the suite's labels.
func wantLabels(t *testing.T, st engine.Status, want map[string]string) {
	t.Helper()
	if !maps.Equal(st.Labels, want) {
		t.Errorf("labels of %s = %v, want %v", st.Slot, st.Labels, want)
	}
}

// each runs f for 0..n-1 at once and returns the first error.
func each(n int, f func(i int) error) error {
	errc := make(chan error, n)
	for i := range n {
		go func() { errc <- f(i) }()
	}
	var first error
	for range n {
		if err := <-errc; err != nil && first == nil {
			first = fmt.Errorf("one of %d: %w", n, err)
		}
	}
	return first
}
