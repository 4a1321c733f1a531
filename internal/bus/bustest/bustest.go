// Package bustest is the suite that defines what a bus must do.
package bustest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/bus"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Open returns a new bus that nobody else uses and that ends with the test.
type Open func(t *testing.T) bus.Bus

// patience bounds what must come; nothing waits for it to pass.
const patience = time.Minute

// Exercise runs the suite, each test on a bus of its own and in parallel.
func Exercise(t *testing.T, open Open) {
	t.Helper()
	for name, test := range map[string]func(*bench){
		"PopGetsPush":           popGetsPush,
		"PushWakesOne":          pushWakesOne,
		"EachPushOnePop":        eachPushOnePop,
		"PopWithoutWait":        popWithoutWait,
		"PopEndsWithContext":    popEndsWithContext,
		"PushIsBounded":         pushIsBounded,
		"PublishReachesAll":     publishReachesAll,
		"TopicsAreApart":        topicsAreApart,
		"TokensCoalesce":        tokensCoalesce,
		"NoTokenIsLost":         noTokenIsLost,
		"SubscriptionEnds":      subscriptionEnds,
		"SlowSubscriberIsAlone": slowSubscriberIsAlone,
		"EndedContext":          endedContext,
		"Close":                 closed,
		"CloseWakesPop":         closeWakesPop,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(&bench{T: t, Bus: open(t), ctx: t.Context()})
		})
	}
}

// bench is a bus under test.
type bench struct {
	*testing.T
	bus.Bus
	ctx context.Context
}

func (b *bench) push(id lehr.BuildID) {
	b.Helper()
	if err := b.PushBuild(b.ctx, id); err != nil {
		b.Fatalf("PushBuild() = %v", err)
	}
}

func (b *bench) publish(topic bus.Topic) {
	b.Helper()
	if err := b.Publish(b.ctx, topic); err != nil {
		b.Fatalf("Publish(%s) = %v", topic, err)
	}
}

func (b *bench) subscribe(ctx context.Context, topic bus.Topic) <-chan struct{} {
	b.Helper()
	tokens, err := b.Subscribe(ctx, topic)
	if err != nil {
		b.Fatalf("Subscribe(%s) = %v", topic, err)
	}
	return tokens
}

// token waits for a token.
func (b *bench) token(tokens <-chan struct{}) {
	b.Helper()
	select {
	case _, open := <-tokens:
		if !open {
			b.Fatal("the channel was closed")
		}
	case <-time.After(patience):
		b.Fatal("no token came")
	}
}

// silent publishes on topic through a witness, whose token proves that nothing
// before it is still on its way, and fails where tokens got one.
func (b *bench) silent(tokens <-chan struct{}) {
	b.Helper()
	witness := bus.Topic("witness")
	seen := b.subscribe(b.ctx, witness)
	b.publish(witness)
	b.token(seen)
	select {
	case <-tokens:
		b.Error("there is a token too many")
	default:
	}
}

func popGetsPush(b *bench) {
	for range 3 {
		id := lehr.NewBuildID()
		b.push(id)
		got, ok, err := b.PopBuild(b.ctx, patience)
		if err != nil || !ok || got != id {
			b.Errorf("PopBuild() = %s, %v, %v; want %s, true, nil", got, ok, err, id)
		}
	}
}

// pushWakesOne has two waiting workers, two pushes and no wake-up left.
func pushWakesOne(b *bench) {
	ids := make(chan lehr.BuildID, 2)
	for range 2 {
		go func() {
			id, _, _ := b.PopBuild(b.ctx, patience)
			ids <- id
		}()
	}
	first, second := lehr.NewBuildID(), lehr.NewBuildID()
	b.push(first)
	b.push(second)
	got := map[lehr.BuildID]bool{<-ids: true, <-ids: true}
	if !got[first] || !got[second] {
		b.Errorf("the workers got %v, want %s and %s", got, first, second)
	}
	if id, ok, err := b.PopBuild(b.ctx, 0); ok || err != nil {
		b.Errorf("PopBuild() = %s, %v, %v; want nothing", id, ok, err)
	}
}

func eachPushOnePop(b *bench) {
	const workers, total = 8, 400
	var popped atomic.Int64
	var pushers, poppers sync.WaitGroup
	for range workers {
		poppers.Go(func() {
			for popped.Load() < total {
				_, ok, err := b.PopBuild(b.ctx, time.Millisecond)
				if err != nil {
					b.Errorf("PopBuild() = %v", err)
					return
				}
				if ok {
					popped.Add(1)
				}
			}
		})
		pushers.Go(func() {
			for range total / workers {
				if err := b.PushBuild(b.ctx, lehr.NewBuildID()); err != nil {
					b.Errorf("PushBuild() = %v", err)
				}
			}
		})
	}
	pushers.Wait()
	poppers.Wait()
	if got := popped.Load(); got != total {
		b.Errorf("%d wake-ups for %d pushes", got, total)
	}
}

func popWithoutWait(b *bench) {
	for _, wait := range []time.Duration{-1, 0, time.Microsecond} {
		if id, ok, err := b.PopBuild(b.ctx, wait); ok || err != nil || id != "" {
			b.Errorf("PopBuild(%v) = %q, %v, %v; want nothing", wait, id, ok, err)
		}
	}
	b.push(lehr.NewBuildID())
	if _, ok, err := b.PopBuild(b.ctx, 0); !ok || err != nil {
		b.Errorf("PopBuild(0) after a push = %v, %v; want true, nil", ok, err)
	}
}

func popEndsWithContext(b *bench) {
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() {
		_, _, err := b.PopBuild(ctx, time.Hour)
		done <- err
	}()
	cancel()
	if err := <-done; !errs.IsKind(err, errs.Cancelled) {
		b.Errorf("PopBuild(cancelled) = %v, want cancelled", err)
	}
	b.push(lehr.NewBuildID())
	if _, ok, err := b.PopBuild(b.ctx, patience); !ok || err != nil {
		b.Errorf("PopBuild() after another's end = %v, %v; want true, nil", ok, err)
	}
}

func pushIsBounded(b *bench) {
	const pushed, most = 100_000, 1 << 16
	id := lehr.NewBuildID()
	for range pushed {
		b.push(id)
	}
	kept := 0
	for {
		_, ok, err := b.PopBuild(b.ctx, 0)
		if err != nil {
			b.Fatalf("PopBuild() = %v", err)
		}
		if !ok {
			break
		}
		kept++
	}
	if kept < 1 || kept > most {
		b.Errorf("%d of %d wake-ups are remembered, want 1 to %d", kept, pushed, most)
	}
}

func publishReachesAll(b *bench) {
	topic := bus.BuildTopic(lehr.NewBuildID())
	b.publish(topic) // nobody listens
	var all []<-chan struct{}
	for range 5 {
		all = append(all, b.subscribe(b.ctx, topic))
	}
	for range 3 {
		b.publish(topic)
		for _, tokens := range all {
			b.token(tokens)
		}
	}
	for _, tokens := range all {
		b.silent(tokens)
	}
}

func topicsAreApart(b *bench) {
	id := lehr.NewBuildID()
	build, cancel := b.subscribe(b.ctx, bus.BuildTopic(id)), b.subscribe(b.ctx, bus.CancelTopic(id))
	b.publish(bus.CancelTopic(id))
	b.token(cancel)
	b.silent(build)
}

func tokensCoalesce(b *bench) {
	topic := bus.BuildTopic(lehr.NewBuildID())
	tokens := b.subscribe(b.ctx, topic)
	for range 100 {
		b.publish(topic)
	}
	b.silent(nil) // all have arrived
	b.token(tokens)
	b.silent(tokens)
	b.publish(topic)
	b.token(tokens)
}

// noTokenIsLost follows a number that is raised before each Publish: whoever
// reads it after a token must at last see the end.
func noTokenIsLost(b *bench) {
	const total = 2000
	topic := bus.BuildTopic(lehr.NewBuildID())
	var number atomic.Int64
	tokens := b.subscribe(b.ctx, topic)
	go func() {
		for range total {
			number.Add(1)
			if err := b.Publish(b.ctx, topic); err != nil {
				b.Errorf("Publish() = %v", err)
				return
			}
		}
	}()
	for number.Load() < total {
		b.token(tokens)
	}
}

func subscriptionEnds(b *bench) {
	topic := bus.BuildTopic(lehr.NewBuildID())
	ctx, cancel := context.WithCancel(b.ctx)
	ended, stays := b.subscribe(ctx, topic), b.subscribe(b.ctx, topic)
	b.publish(topic)
	b.token(ended)
	b.token(stays)
	cancel()
	b.publish(topic)
	b.token(stays)
	select {
	case _, open := <-ended: // one token may still have been on its way
		if !open {
			b.Error("the channel of an ended subscription was closed")
		}
	default:
	}
}

func slowSubscriberIsAlone(b *bench) {
	topic := bus.BuildTopic(lehr.NewBuildID())
	b.subscribe(b.ctx, topic) // never looks
	quick := b.subscribe(b.ctx, topic)
	for range 1000 {
		b.publish(topic)
		b.token(quick)
	}
}

func endedContext(b *bench) {
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	for name, err := range b.everything(ctx) {
		if !errs.IsKind(err, errs.Cancelled) {
			b.Errorf("%s(cancelled) = %v, want cancelled", name, err)
		}
	}
}

// everything calls each method.
func (b *bench) everything(ctx context.Context) map[string]error {
	_, _, popErr := b.PopBuild(ctx, patience)
	_, subscribeErr := b.Subscribe(ctx, "topic")
	return map[string]error{
		"PushBuild": b.PushBuild(ctx, lehr.NewBuildID()),
		"PopBuild":  popErr,
		"Publish":   b.Publish(ctx, "topic"),
		"Subscribe": subscribeErr,
	}
}

func closed(b *bench) {
	tokens := b.subscribe(b.ctx, "topic")
	b.push(lehr.NewBuildID())
	for range 2 {
		if err := b.Close(); err != nil {
			b.Errorf("Close() = %v", err)
		}
	}
	for name, err := range b.everything(b.ctx) {
		if !errs.IsKind(err, errs.Unavailable) {
			b.Errorf("%s() after Close() = %v, want unavailable", name, err)
		}
	}
	select {
	case <-tokens:
		b.Error("Close() sent a token or closed the channel")
	default:
	}
}

func closeWakesPop(b *bench) {
	done := make(chan error, 1)
	go func() {
		_, _, err := b.PopBuild(b.ctx, time.Hour)
		done <- err
	}()
	if err := b.Close(); err != nil {
		b.Errorf("Close() = %v", err)
	}
	if err := <-done; !errs.IsKind(err, errs.Unavailable) {
		b.Errorf("PopBuild() of a closed bus = %v, want unavailable", err)
	}
}
