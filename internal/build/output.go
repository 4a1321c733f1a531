package build

import (
	"context"
	"sync"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// stepOutput takes the output of one step: lines go to the log, the end of each
// stream is kept for the step's result. It is safe for concurrent use.
type stepOutput struct {
	log *logWriter
	at  spot

	mu             sync.Mutex
	stdout, stderr outStream
}

// outStream is one stream of a step; guarded by stepOutput.mu.
type outStream struct {
	lines lineSplitter
	tail  tail
	quiet bool // nothing came since partial output was last looked at
}

// write takes the next bytes of a stream.
func (o *stepOutput) write(ctx context.Context, stream lehr.LogStream, b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stream(stream)
	s.quiet = false
	s.tail.write(b)
	s.lines.write(b, o.emit(ctx, stream))
}

func (o *stepOutput) stream(stream lehr.LogStream) *outStream {
	if stream == lehr.StreamStderr {
		return &o.stderr
	}
	return &o.stdout
}

func (o *stepOutput) emit(ctx context.Context, stream lehr.LogStream) func(string) {
	return func(text string) {
		o.log.put(ctx, lehr.LogLine{Phase: o.at.phase, Step: o.at.step, Stream: stream, Text: text})
	}
}

// flush puts what has no line end into the log.
func (o *stepOutput) flush(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stdout.lines.flush(o.emit(ctx, lehr.StreamStdout))
	o.stderr.lines.flush(o.emit(ctx, lehr.StreamStderr))
}

// flushPartials shows, until ctx ends, output that waits for a line end for
// longer than partialAge.
func (o *stepOutput) flushPartials(ctx context.Context, a *attempt) {
	tick := a.o.Clock.NewTicker(partialAge)
	defer tick.Stop()
	for {
		select {
		case <-tick.C():
			o.flushQuiet(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (o *stepOutput) flushQuiet(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, stream := range []lehr.LogStream{lehr.StreamStdout, lehr.StreamStderr} {
		s := o.stream(stream)
		if s.quiet {
			s.lines.flush(o.emit(ctx, stream))
		}
		s.quiet = true
	}
}

// tails returns the ends of both streams.
func (o *stepOutput) tails() (stdout, stderr string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stdout.tail.String(), o.stderr.tail.String()
}
