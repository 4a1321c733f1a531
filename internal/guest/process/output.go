package process

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Stream tells where output was written.
type Stream int

// The streams.
const (
	Stdout Stream = iota + 1
	Stderr
	Terminal // both, of a process that has one
)

// Sizes of the output path, in bytes.
const (
	readSize    = 64 << 10     // one read, and the most one Chunk holds; a pipe's usual size
	queueSize   = 2 * readSize // what waits for one subscriber
	backlogSize = 64 << 10     // what is kept for the next
	lagSize     = 1 << 20      // what waits for one that is slower than another
)

// maxSubscribers bounds who follows one process.
const maxSubscribers = 64

// Chunk is a piece of output.
type Chunk struct {
	Stream Stream
	Data   []byte
}

// queue is a list of chunks with its size in bytes. Neighbours of one stream
// are merged, so that a writer of single bytes does not grow it by overhead.
type queue struct {
	chunks []Chunk
	size   int
}

// add copies data to the end.
func (q *queue) add(stream Stream, data []byte) {
	q.size += len(data)
	if n := len(q.chunks); n > 0 {
		last := &q.chunks[n-1]
		if last.Stream == stream && len(last.Data)+len(data) <= readSize {
			last.Data = append(last.Data, data...)
			return
		}
	}
	q.chunks = append(q.chunks, Chunk{Stream: stream, Data: append([]byte(nil), data...)})
}

// take removes the first chunk.
func (q *queue) take() Chunk {
	c := q.chunks[0]
	q.chunks[0] = Chunk{}
	q.chunks = q.chunks[1:]
	q.size -= len(c.Data)
	return c
}

// trim drops the oldest bytes beyond limit.
func (q *queue) trim(limit int) {
	for q.size > limit {
		over := q.size - limit
		first := &q.chunks[0]
		if len(first.Data) <= over {
			q.take()
			continue
		}
		first.Data = append([]byte(nil), first.Data[over:]...)
		q.size -= over
	}
}

// standstill is how long the first subscriber may take nothing while others
// wait.
const standstill = 10 * time.Second

// hub passes the output of one process to its subscribers. The process's
// readers publish, subscribers take; mu guards everything, room is signalled
// when a queue shrank or a subscriber went.
type hub struct {
	mu      sync.Mutex
	room    *sync.Cond
	subs    []*Subscription // as they came; the first sets the pace
	backlog queue           // output nobody was there for; empty while anybody is
	closed  bool
	alarm   *time.Timer // of wakeIn; nil until it is needed
}

func newHub() *hub {
	h := &hub{}
	h.room = sync.NewCond(&h.mu)
	return h
}

// Subscription receives the output of a process from the moment it was made,
// preceded by what was kept while nobody was subscribed. One goroutine calls
// Next; Close may be called from any, more than once.
type Subscription struct {
	hub   *hub
	ready chan struct{} // has room for one: something changed

	// Guarded by hub.mu.
	queue queue
	lost  bool      // it fell behind the others and gets no more
	since time.Time // when it last had room or took something
}

func (h *hub) subscribe() *Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &Subscription{hub: h, ready: make(chan struct{}, 1), queue: h.backlog, since: time.Now()}
	h.backlog = queue{}
	h.subs = append(h.subs, s)
	return s
}

// publish hands data to every subscriber, or keeps it in the backlog. It waits
// for the first subscriber; another one that falls too far behind it is lost
// and told so, as is the first when it stands still while others wait. It
// returns at once when the hub is closed.
func (h *hub) publish(stream Stream, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.mustWait() {
		h.room.Wait()
	}
	if h.closed {
		return
	}
	if len(h.subs) == 0 {
		h.backlog.add(stream, data)
		h.backlog.trim(backlogSize)
		return
	}
	for _, s := range slices.Clone(h.subs) {
		switch {
		case s.queue.size+len(data) > lagSize:
			h.lose(s)
			continue
		case s.hasRoom():
			s.since = time.Now()
		}
		s.queue.add(stream, data)
		s.wake()
	}
}

// mustWait reports whether the first subscriber has no room. When others have,
// its time is limited.
func (h *hub) mustWait() bool {
	for !h.closed && len(h.subs) > 0 {
		first := h.subs[0]
		if first.hasRoom() {
			return false
		}
		if !slices.ContainsFunc(h.subs, (*Subscription).hasRoom) {
			return true
		}
		if left := standstill - time.Since(first.since); left > 0 {
			h.wakeIn(left)
			return true
		}
		h.lose(first)
	}
	return false
}

// wakeIn lets the writers look again after d.
func (h *hub) wakeIn(d time.Duration) {
	if h.alarm == nil {
		h.alarm = time.AfterFunc(d, h.ring)
		return
	}
	h.alarm.Reset(d)
}

// ring waits for mu, so that a writer which is about to wait hears it.
func (h *hub) ring() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.room.Broadcast()
}

// lose ends s, which keeps what it has.
func (h *hub) lose(s *Subscription) {
	s.lost = true
	h.remove(s)
	s.wake()
}

// remove reports whether s was still there.
func (h *hub) remove(s *Subscription) bool {
	i := slices.Index(h.subs, s)
	if i >= 0 {
		h.subs = slices.Delete(h.subs, i, i+1)
	}
	return i >= 0
}

// hasRoom reports whether there is room for another read.
func (s *Subscription) hasRoom() bool { return s.queue.size+readSize <= queueSize }

// crowded reports whether nobody else may subscribe.
func (h *hub) crowded() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs) >= maxSubscribers
}

// close ends the output: subscribers drain what they have.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.alarm != nil {
		h.alarm.Stop()
	}
	h.room.Broadcast()
	for _, s := range h.subs {
		s.wake()
	}
}

func (s *Subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Next returns the next piece of output, waiting for it. It returns io.EOF
// after the last one, Exhausted with code "follower_lost" when others were too
// much faster, and the cause of ctx when that ends first.
func (s *Subscription) Next(ctx context.Context) (Chunk, error) {
	for {
		chunk, ok, end := s.poll()
		if ok || end != nil {
			return chunk, end
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return Chunk{}, context.Cause(ctx)
		}
	}
}

// poll returns a chunk where there is one, else why there will be none any
// more, else neither.
func (s *Subscription) poll() (chunk Chunk, ok bool, end error) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	switch {
	case len(s.queue.chunks) > 0:
		chunk, s.since = s.queue.take(), time.Now()
		s.hub.room.Broadcast()
		return chunk, true, nil
	case s.lost:
		return Chunk{}, false, errs.New(errs.Exhausted, "this follower is too far behind others of the same process").
			WithCode("follower_lost").WithRemedy("connect again and read faster; what was written meanwhile is lost to it")
	case s.hub.closed:
		return Chunk{}, false, io.EOF
	}
	return Chunk{}, false, nil
}

// Close ends the subscription. What the last subscriber had not taken is kept
// for the next.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if !s.hub.remove(s) {
		return
	}
	if len(s.hub.subs) == 0 {
		s.hub.backlog = s.queue
		s.hub.backlog.trim(backlogSize)
	}
	s.queue = queue{}
	s.hub.room.Broadcast()
}
