package build

import (
	"context"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Bounds of a log batch, and of what may wait to be written.
const (
	batchAge     = 10 * time.Millisecond
	batchBytes   = 64 << 10
	lineOverhead = 32 // what a line costs besides its text, so that empty lines count
	maxWaiting   = 1 << 20
	appendAgain  = 200 * time.Millisecond
)

// logTarget is where a logWriter's lines go.
type logTarget struct {
	clock   clock.Clock
	append  func(context.Context, []lehr.LogLine) error // durable when it returns
	publish func(context.Context)
	broken  func(error)   // called once, when append fails for good
	retry   time.Duration // how long a failing append is repeated
}

// logWriter makes an attempt's log durable as it grows. Lines put together
// within batchAge become one write; while a write runs, the next batch gathers.
// When too much waits, put blocks, which slows the command that talks so much.
//
// One goroutine, run, writes; a second, tell, announces what was written, so
// that a slow bus delays no line. put and flush may be called concurrently.
type logWriter struct {
	logTarget

	mu      sync.Mutex
	waiting []lehr.LogLine
	bytes   int           // size of waiting
	err     error         // sticky; lines are dropped from then on
	state   chan struct{} // closed and replaced when waiting shrinks or err is set
	idle    bool          // nothing waits and no write runs

	wake chan struct{} // capacity 1: something waits
	full chan struct{} // capacity 1: a batch is full
	told chan struct{} // capacity 1: something was written
	quit chan struct{} // closed by close
	done sync.WaitGroup
}

func newLogWriter(t logTarget) *logWriter {
	return &logWriter{
		logTarget: t, state: make(chan struct{}), idle: true, quit: make(chan struct{}),
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1), told: make(chan struct{}, 1),
	}
}

// start runs the writer until close. ctx carries values only: a cancelled
// build's last lines are written too.
func (w *logWriter) start(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	w.done.Go(func() { w.run(ctx) })
	w.done.Go(func() { w.tell(ctx) })
}

// put hands a line over; it blocks while too much waits. Lines are dropped once
// ctx has ended or the log is broken.
func (w *logWriter) put(ctx context.Context, line lehr.LogLine) {
	line.Time = w.clock.Now().UTC().Truncate(time.Microsecond)
	for {
		w.mu.Lock()
		if w.err != nil {
			w.mu.Unlock()
			return
		}
		if w.bytes < maxWaiting {
			w.add(line)
			w.mu.Unlock()
			return
		}
		changed := w.state
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// add appends a line; mu is held.
func (w *logWriter) add(line lehr.LogLine) {
	w.waiting = append(w.waiting, line)
	w.bytes += len(line.Text) + lineOverhead
	w.idle = false
	signal(w.wake)
	if w.bytes >= batchBytes {
		signal(w.full)
	}
}

// flush returns when every line put before is durable, the log is broken, or
// ctx has ended.
func (w *logWriter) flush(ctx context.Context) {
	for {
		w.mu.Lock()
		idle, changed := w.idle || w.err != nil, w.state
		w.mu.Unlock()
		if idle {
			return
		}
		signal(w.full)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// close writes what waits and ends the writer.
func (w *logWriter) close() {
	close(w.quit)
	w.done.Wait()
}

func (w *logWriter) run(ctx context.Context) {
	for {
		select {
		case <-w.wake:
		case <-w.quit:
			w.write(ctx)
			return
		}
		select {
		case <-w.clock.After(batchAge):
		case <-w.full:
		case <-w.quit:
		}
		w.write(ctx)
	}
}

// write stores all that waits, in batches.
func (w *logWriter) write(ctx context.Context) {
	for {
		batch := w.take()
		if len(batch) == 0 {
			return
		}
		err := w.store(ctx, batch)
		signal(w.told)
		w.mu.Lock()
		if err != nil && w.err == nil {
			w.err, w.waiting, w.bytes = err, nil, 0
		}
		w.idle = len(w.waiting) == 0
		w.announce()
		w.mu.Unlock()
		if err != nil {
			w.broken(err)
			return
		}
	}
}

// take cuts the next batch off.
func (w *logWriter) take() []lehr.LogLine {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, size := 0, 0
	for n < len(w.waiting) && size < batchBytes {
		size += len(w.waiting[n].Text) + lineOverhead
		n++
	}
	batch := w.waiting[:n:n]
	w.waiting = w.waiting[n:]
	w.bytes -= size
	w.announce()
	return batch
}

// announce tells waiters in put and flush to look again; mu is held.
func (w *logWriter) announce() {
	close(w.state)
	w.state = make(chan struct{})
}

// store appends a batch, again and again for a while where the store is not
// available. A write whose answer was lost is then repeated: a line may come
// twice, none is missing.
func (w *logWriter) store(ctx context.Context, batch []lehr.LogLine) error {
	ctx, cancel := context.WithTimeout(ctx, w.retry)
	defer cancel()
	for {
		err := w.append(ctx, batch)
		if err == nil || !errs.IsKind(err, errs.Unavailable) {
			return err
		}
		if w.clock.Sleep(ctx, appendAgain) != nil {
			return err
		}
	}
}

// tell publishes after writes; several of them may share one signal.
func (w *logWriter) tell(ctx context.Context) {
	for {
		select {
		case <-w.told:
			w.publish(ctx)
		case <-w.quit:
			return
		}
	}
}

// signal leaves a token in a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
