package guestd

import (
	"io"
	"net/http"
	"os"
	"time"
)

// stallLimit is how long a transfer may stand still before it is given up: a
// client that neither reads nor goes must not hold its connection for ever.
const stallLimit = 5 * time.Minute

// paceStep is how much has to be moved within the stall limit, in bytes.
const paceStep = 1 << 20

// pacedWriter writes an answer that fails once its reader stands still.
type pacedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	limit   time.Duration
}

func (s *Server) paceWriter(w http.ResponseWriter) *pacedWriter {
	return &pacedWriter{ResponseWriter: w, control: http.NewResponseController(w), limit: s.stall()}
}

// done lifts the limit, for the connection's next answer.
func (p *pacedWriter) done() { _ = p.control.SetWriteDeadline(time.Time{}) }

// extend begins another step. A connection that knows no deadlines, as in
// tests, goes without.
func (p *pacedWriter) extend() { _ = p.control.SetWriteDeadline(time.Now().Add(p.limit)) }

// Write implements io.Writer.
func (p *pacedWriter) Write(b []byte) (int, error) {
	p.extend()
	return p.ResponseWriter.Write(b)
}

// ReadFrom implements io.ReaderFrom. A part of a file goes from kernel to
// kernel, step by step.
func (p *pacedWriter) ReadFrom(r io.Reader) (total int64, err error) {
	part, ok := r.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{p}, r)
	}
	if _, ok = part.R.(*os.File); !ok {
		return io.Copy(struct{ io.Writer }{p}, r)
	}
	for part.N > 0 && err == nil {
		p.extend()
		step := &io.LimitedReader{R: part.R, N: min(part.N, paceStep)}
		want := step.N
		n, stepErr := io.Copy(p.ResponseWriter, step)
		total, part.N, err = total+n, part.N-n, stepErr
		if n < want {
			break // the file has become shorter
		}
	}
	return total, err
}

// pacedBody reads a request that fails once its sender stands still. The limit
// stays for what the server skips of the body; the next request has its own.
type pacedBody struct {
	body    io.Reader
	control *http.ResponseController
	limit   time.Duration
}

func (s *Server) paceBody(w http.ResponseWriter, r *http.Request) *pacedBody {
	return &pacedBody{body: r.Body, control: http.NewResponseController(w), limit: s.stall()}
}

// Read implements io.Reader.
func (p *pacedBody) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(p.limit))
	return p.body.Read(b)
}

func (s *Server) stall() time.Duration {
	if s.opt.StallLimit > 0 {
		return s.opt.StallLimit
	}
	return stallLimit
}
