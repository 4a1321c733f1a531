package guestd

import (
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"

	"github.com/lehr-dev/lehr/internal/guest/files"
)

// download answers with a file's content, a range of it, or, where the client
// prefers that, all of it packed by gzip. An answer that cannot be completed is
// broken off, so that nobody takes a part for the whole.
func (s *Server) download(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	user, path, err := s.place(r.Header, q.Get("username"), q.Get("path"))
	if err != nil {
		fail(w, err)
		return
	}
	coding := chooseCoding(r.Header.Get("Accept-Encoding"))
	if coding == "" {
		notAcceptable(w)
		return
	}
	file, info, err := files.Open(user, path)
	if err != nil {
		fail(w, err)
		return
	}
	defer file.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": text(filepath.Base(path))}))
	h.Set("Vary", "Accept-Encoding")
	paced := s.paceWriter(w)
	defer paced.done()
	switch {
	case coding == gzipCoding && (!isPartial(r.Header) || chooseCoding(withoutGzip(r.Header)) == ""):
		h.Set("Content-Encoding", gzipCoding)
		breakOff(pack(paced, file))
	case info.Size() == 0:
		// Files that the kernel makes up have no size and yet content.
		breakOff(whole(paced, file))
	default:
		http.ServeContent(paced, r, "", info.ModTime(), file)
	}
}

// isPartial reports whether a request is about a part of a file or its version,
// which has a meaning for the file as it is only.
func isPartial(h http.Header) bool {
	for _, name := range []string{"Range", "If-Range", "If-Modified-Since", "If-Unmodified-Since", "If-Match", "If-None-Match"} {
		if h.Get(name) != "" {
			return true
		}
	}
	return false
}

// withoutGzip is what a client accepts when gzip is out of the question.
func withoutGzip(h http.Header) string { return h.Get("Accept-Encoding") + ", gzip;q=0" }

func pack(w io.Writer, file *os.File) error {
	// The fastest level: the way is short, and the sandbox's CPU is the user's.
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := whole(packed, file); err != nil {
		return err
	}
	return packed.Close()
}

func whole(w io.Writer, file *os.File) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{file}, make([]byte, downloadSize))
	return err
}

// downloadSize is how much is read at once, in bytes.
const downloadSize = 64 << 10

// breakOff ends a connection whose answer has failed halfway.
func breakOff(err error) {
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}
