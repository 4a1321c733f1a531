package httpkit

import (
	"io"
	"net/http"
	"time"
)

// How long a client may take with a body that somebody or nobody waits for.
const (
	bodyTime   = 30 * time.Second // a whole JSON document
	unreadTime = 5 * time.Second  // what a refused request still sends
)

// ReadBody reads a small body of at most limit bytes, in at most 30 seconds: a
// client that never ends it holds no goroutine. The error is *http.MaxBytesError
// for a larger one.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	control := http.NewResponseController(w)
	if control.SetReadDeadline(time.Now().Add(bodyTime)) == nil {
		defer func() { _ = control.SetReadDeadline(time.Time{}) }() // the connection is kept, or broken anyway
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
}

// Dismiss bounds the time in which the server takes in what a refused request
// still sends: it reads on before it answers.
func Dismiss(w http.ResponseWriter) {
	// Not every writer has a connection, and a broken one needs no bound.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadTime))
}
