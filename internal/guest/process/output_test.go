package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
)

// drain takes all that is left of a closed hub's subscription.
func drain(t *testing.T, s *Subscription) string {
	t.Helper()
	var all bytes.Buffer
	for {
		c, err := s.Next(t.Context())
		if err == io.EOF {
			return all.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		all.Write(c.Data)
	}
}

// With nobody there, writers are not blocked and the newest output is kept,
// for one subscriber.
func TestBacklog(t *testing.T) {
	t.Parallel()
	h := newHub()
	block := bytes.Repeat([]byte("x"), 1000)
	for range 200 {
		h.publish(Stdout, block)
	}
	h.publish(Stderr, []byte("last"))
	first, second := h.subscribe(), h.subscribe()
	h.close()
	if got := drain(t, first); len(got) != backlogSize || got[len(got)-4:] != "last" {
		t.Errorf("the first subscriber got %d bytes ending in %q, want the newest %d", len(got), got[len(got)-4:], backlogSize)
	}
	if got := drain(t, second); got != "" {
		t.Errorf("the second subscriber got %d bytes, want none", len(got))
	}
}

// What a subscriber leaves behind goes to the next.
func TestBacklogFromSubscriber(t *testing.T) {
	t.Parallel()
	h := newHub()
	s := h.subscribe()
	h.publish(Stdout, []byte("one"))
	h.publish(Stderr, []byte("two"))
	if c, err := s.Next(t.Context()); err != nil || string(c.Data) != "one" {
		t.Fatalf("Next = %q, %v; want one", c.Data, err)
	}
	s.Close()
	s.Close()
	h.publish(Stdout, []byte("three"))
	next := h.subscribe()
	h.close()
	h.publish(Stdout, []byte("too late"))
	if got := drain(t, next); got != "twothree" {
		t.Errorf("the next subscriber got %q, want twothree", got)
	}
}

// A full queue blocks the writer until there is room, or the subscriber goes,
// or the hub closes.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	for name, release := range map[string]func(h *hub, s *Subscription){
		"take":  func(_ *hub, s *Subscription) { _, _, _ = s.poll() },
		"leave": func(_ *hub, s *Subscription) { s.Close() },
		"close": func(h *hub, _ *Subscription) { h.close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHub()
				s := h.subscribe()
				block := bytes.Repeat([]byte("x"), readSize)
				h.publish(Stdout, block)
				h.publish(Stdout, block)
				var returned bool
				go func() { h.publish(Stdout, block); returned = true }()
				synctest.Wait()
				if returned {
					t.Error("publish returned with a full queue")
				}
				release(h, s)
				synctest.Wait()
				if !returned {
					t.Error("publish still waits")
				}
			})
		})
	}
}

// told takes what s has, which must end with the loss of its subscription.
func told(t *testing.T, s *Subscription) (got int) {
	t.Helper()
	for {
		c, err := s.Next(t.Context())
		if err == nil {
			got += len(c.Data)
			continue
		}
		if !errors.Is(err, &errs.Error{Kind: errs.Exhausted, Code: "follower_lost"}) {
			t.Errorf("Next = %v, want follower_lost", err)
		}
		return got
	}
}

// Of two subscribers the first sets the pace; the other gets what fits and is
// then told, and the first misses nothing.
func TestSlowFollowerIsTold(t *testing.T) {
	t.Parallel()
	h := newHub()
	first, slow := h.subscribe(), h.subscribe()
	block := bytes.Repeat([]byte("x"), readSize)
	const blocks = 2 * lagSize / readSize
	for range blocks {
		h.publish(Stdout, block)
		if c, err := first.Next(t.Context()); err != nil || len(c.Data) != readSize {
			t.Fatalf("Next of the first = %d bytes, %v; want %d", len(c.Data), err, readSize)
		}
	}
	if got := told(t, slow); got != lagSize {
		t.Errorf("the slow one got %d bytes, want %d", got, lagSize)
	}
	slow.Close()
	h.close()
	if rest := drain(t, first); rest != "" {
		t.Errorf("the first has %d bytes left, want none", len(rest))
	}
}

// A first subscriber that stands still holds the others up for a moment and is
// told; while it still takes something, however slowly, nobody loses anything.
func TestStandstillIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		first, second := h.subscribe(), h.subscribe()
		block := bytes.Repeat([]byte("x"), readSize)
		const blocks = 20
		go func() {
			for range blocks {
				h.publish(Stdout, block)
			}
			h.close()
		}()
		var got atomic.Int64
		go func() {
			for {
				c, err := second.Next(t.Context())
				if err != nil {
					return
				}
				got.Add(int64(len(c.Data)))
			}
		}()
		for range 5 {
			time.Sleep(standstill - time.Second)
			if _, err := first.Next(t.Context()); err != nil {
				t.Fatalf("Next of the slow first = %v", err)
			}
		}
		synctest.Wait()
		if got := got.Load(); got != 7*readSize {
			t.Errorf("while the first has taken 5 blocks, the second got %d bytes, want 7 blocks", got)
		}
		time.Sleep(standstill + time.Second)
		synctest.Wait()
		if got := got.Load(); got != blocks*readSize {
			t.Errorf("after the standstill the second got %d bytes, want %d", got, blocks*readSize)
		}
		told(t, first)
	})
}

// The alarm of a writer that is about to wait is not heard too early.
func TestAlarmWaitsForTheWriter(t *testing.T) {
	t.Parallel()
	h := newHub()
	h.mu.Lock()
	var rung atomic.Bool
	done := make(chan struct{})
	go func() { h.ring(); rung.Store(true); close(done) }()
	for range 1000 {
		runtime.Gosched()
	}
	if rung.Load() {
		t.Error("the alarm has rung while a writer held the hub, which is to wait for it only then")
	}
	h.mu.Unlock()
	<-done
}

func TestNextEndsWithContext(t *testing.T) {
	t.Parallel()
	s := newHub().subscribe()
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("cause")
	cancel(cause)
	if _, err := s.Next(ctx); !errors.Is(err, cause) {
		t.Errorf("Next = %v, want %v", err, cause)
	}
}

// Small writes share chunks, but not across streams nor beyond a read's size.
func TestQueueMerges(t *testing.T) {
	t.Parallel()
	var q queue
	for range 3 {
		q.add(Stdout, []byte("a"))
	}
	q.add(Stderr, []byte("b"))
	q.add(Stdout, []byte("c"))
	q.add(Stdout, bytes.Repeat([]byte("d"), readSize))
	var got []int
	for len(q.chunks) > 0 {
		got = append(got, len(q.take().Data))
	}
	if diff := cmp.Diff([]int{3, 1, 1, readSize}, got); diff != "" || q.size != 0 {
		t.Errorf("chunk sizes (-want +got), %d bytes left:\n%s", q.size, diff)
	}
}
