package process

import (
	"context"
	"io"
	"sync"
)

// Stream tells where output was written.
type Stream int

// The streams.
const (
	Stdout Stream = iota + 1
	Stderr
)

// Sizes of the output path, in bytes.
const (
	readSize    = 64 << 10     // one read, and the most one Chunk holds; a pipe's usual size
	queueSize   = 2 * readSize // what waits for one subscriber
	backlogSize = 64 << 10     // what is kept for the next
)

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

// hub passes the output of one process to its subscribers. The process's
// readers publish, subscribers take; mu guards everything, room is signalled
// when a queue shrank or a subscriber went.
type hub struct {
	mu      sync.Mutex
	room    *sync.Cond
	subs    map[*Subscription]struct{}
	backlog queue // output nobody was there for; empty while anybody is
	closed  bool
}

func newHub() *hub {
	h := &hub{subs: map[*Subscription]struct{}{}}
	h.room = sync.NewCond(&h.mu)
	return h
}

// Subscription receives the output of a process from the moment it was made,
// preceded by what was kept while nobody was subscribed. One goroutine calls
// Next; Close may be called from any, more than once.
type Subscription struct {
	hub   *hub
	queue queue         // guarded by hub.mu
	ready chan struct{} // has room for one: something changed
}

func (h *hub) subscribe() *Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &Subscription{hub: h, ready: make(chan struct{}, 1), queue: h.backlog}
	h.backlog = queue{}
	h.subs[s] = struct{}{}
	return s
}

// publish hands data to every subscriber, waiting for the slowest, or keeps it
// in the backlog. It returns at once when the hub is closed.
func (h *hub) publish(stream Stream, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.closed && h.full() {
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
	for s := range h.subs {
		s.queue.add(stream, data)
		s.wake()
	}
}

// full reports whether a subscriber has no room for another read.
func (h *hub) full() bool {
	for s := range h.subs {
		if s.queue.size+readSize > queueSize {
			return true
		}
	}
	return false
}

// close ends the output: subscribers drain what they have.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.room.Broadcast()
	for s := range h.subs {
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
// after the last one and the cause of ctx when that ends first.
func (s *Subscription) Next(ctx context.Context) (Chunk, error) {
	for {
		chunk, ok, closed := s.poll()
		if ok {
			return chunk, nil
		}
		if closed {
			return Chunk{}, io.EOF
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return Chunk{}, context.Cause(ctx)
		}
	}
}

func (s *Subscription) poll() (chunk Chunk, ok, closed bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if len(s.queue.chunks) == 0 {
		return Chunk{}, false, s.hub.closed
	}
	chunk = s.queue.take()
	s.hub.room.Broadcast()
	return chunk, true, false
}

// Close ends the subscription. What the last subscriber had not taken is kept
// for the next.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if _, ok := s.hub.subs[s]; !ok {
		return
	}
	delete(s.hub.subs, s)
	if len(s.hub.subs) == 0 {
		s.hub.backlog = s.queue
		s.hub.backlog.trim(backlogSize)
	}
	s.queue = queue{}
	s.hub.room.Broadcast()
}
