package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lehr-dev/lehr/internal/httpkit"
)

// watchedBody is the body of a request over HTTP/1, which may be answered before
// it was read to its end. net/http leaves two things open for such answers: what
// remains of the body must never be taken for another request, and a client
// that never ends it must not be waited for. All methods may be called on nil,
// which is a request without a body, or over HTTP/2.
type watchedBody struct {
	io.ReadCloser
	ended atomic.Bool // read to its end

	mu   sync.Mutex // held while reading
	left bool       // the answer is complete: nobody reads any more
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended.Store(true)
	}
	return n, err
}

// endConnection lets the client's connection end with an answer that begins
// before the request has ended.
func (b *watchedBody) endConnection(answer http.Header) {
	if b != nil && !b.ended.Load() {
		answer.Set("Connection", "close")
	}
}

// leave ends the reading once the answer is complete, and bounds the time in
// which the server takes in the rest. It waits for a reader under way: the
// server would take our bound away with it.
func (b *watchedBody) leave(w http.ResponseWriter) {
	if b.ended.Load() {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // wakes the reader; a connection that is gone needs none
	b.mu.Lock()
	b.left = true
	b.mu.Unlock()
	httpkit.Dismiss(w)
}
