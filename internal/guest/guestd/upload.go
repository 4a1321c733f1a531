package guestd

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
	"github.com/lehr-dev/lehr/internal/guest/files"
)

// Limits of requests that name many files, and so of their answers.
const (
	maxParts   = 10_000
	maxCompose = 4 << 20 // bytes of the request
)

// metadataHeader begins the name of a header that carries metadata.
const metadataHeader = "X-Metadata-"

// uploaded is what an upload reports of each file.
type uploaded struct {
	Path     string         `json:"path"`
	Name     string         `json:"name"`
	Type     string         `json:"type"`
	Metadata files.Metadata `json:"metadata,omitempty"`
}

func report(path string, m files.Metadata) uploaded {
	return uploaded{Path: text(path), Name: text(filepath.Base(path)), Type: "file", Metadata: m}
}

// upload writes files: one from a plain body to the path query, or each "file"
// part of a multipart body, to the path query or its own file name.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	user, target, err := s.place(r.Header, q.Get("username"), q.Get("path"))
	if err != nil {
		fail(w, err)
		return
	}
	u := uploadRequest{
		user: user, target: target, hasTarget: q.Get("path") != "", metadata: metadataOf(r.Header), seen: map[string]bool{},
	}
	if err := u.receive(r.Header, s.paceBody(w, r)); err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, http.StatusOK, u.done)
}

// metadataOf reads the metadata headers; of one that stands twice, the first.
func metadataOf(h http.Header) files.Metadata {
	var m files.Metadata
	for name, values := range h {
		key, ok := strings.CutPrefix(name, metadataHeader)
		if !ok || key == "" || len(values) == 0 {
			continue
		}
		if m == nil {
			m = files.Metadata{}
		}
		m[strings.ToLower(key)] = values[0]
	}
	return m
}

// uploadRequest is one upload on its way.
type uploadRequest struct {
	user      account.User
	target    string // of the path query
	hasTarget bool
	metadata  files.Metadata // of each file
	seen      map[string]bool
	done      []uploaded
}

// receive takes the body as its headers say.
func (u *uploadRequest) receive(h http.Header, body io.Reader) error {
	if err := u.metadata.Validate(); err != nil {
		return err
	}
	coding, err := sentCoding(h)
	if err != nil {
		return err
	}
	kind, parameters, _ := mime.ParseMediaType(h.Get("Content-Type"))
	multiple := strings.HasPrefix(kind, "multipart/")
	switch {
	case multiple && parameters["boundary"] == "":
		return errs.New(errs.Invalid, "the multipart body has no boundary").WithField("Content-Type")
	case !multiple && !u.hasTarget:
		return errs.New(errs.Invalid, "the path query is missing").WithField("path")
	}
	if coding == gzipCoding {
		// However much it unpacks to, it only passes through; the disk bounds it.
		if body, err = gzip.NewReader(body); err != nil {
			return errs.New(errs.Invalid, "the body is not gzip: %w", err)
		}
	}
	if multiple {
		return u.parts(multipart.NewReader(body, parameters["boundary"]))
	}
	return u.write(u.target, body)
}

func (u *uploadRequest) parts(body *multipart.Reader) error {
	for n := 0; ; n++ {
		part, err := body.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return bodyError(err)
		}
		if n == maxParts {
			return errs.New(errs.Invalid, "more than %d parts in one upload", maxParts)
		}
		if part.FormName() != "file" {
			continue
		}
		path, err := u.partPath(part)
		if err != nil {
			return err
		}
		if err := u.write(path, part); err != nil {
			return err
		}
	}
	if len(u.done) == 0 {
		return errs.New(errs.Invalid, "the body has no part named file")
	}
	return nil
}

// partPath is the path query, or the part's whole file name: the library's
// FileName keeps only its last element.
func (u *uploadRequest) partPath(part *multipart.Part) (string, error) {
	if u.hasTarget {
		return u.target, nil
	}
	_, parameters, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil || parameters["filename"] == "" {
		return "", errs.New(errs.Invalid, "a part named file has no file name")
	}
	return files.Resolve(parameters["filename"], "", u.user.Home)
}

func (u *uploadRequest) write(path string, body io.Reader) error {
	if u.seen[path] {
		return errs.New(errs.Invalid, "more than one file for the path '%s', the first was written", path).WithField("path")
	}
	u.seen[path] = true
	if err := files.Write(u.user, path, u.metadata, body); err != nil {
		return bodyError(err)
	}
	u.done = append(u.done, report(path, u.metadata))
	return nil
}

// bodyError calls what is not ours a fault of the body: cut short, or not what
// its header says.
func bodyError(err error) error {
	var known *errs.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errs.New(errs.Timeout, "the body stood still for too long")
	}
	return errs.New(errs.Invalid, "the body could not be read: %w", err)
}

// composeRequest is the body of POST /files/compose.
type composeRequest struct {
	Sources     []string `json:"source_paths"`
	Destination string   `json:"destination"`
	Username    string   `json:"username"`
}

// compose makes one file of several, which it removes.
func (s *Server) compose(w http.ResponseWriter, r *http.Request) {
	var req composeRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxCompose)).Decode(&req); err != nil {
		fail(w, errs.New(errs.Invalid, "the body is no valid JSON: %w", err))
		return
	}
	path, err := s.composeFiles(r, req)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, http.StatusOK, report(path, nil))
}

func (s *Server) composeFiles(r *http.Request, req composeRequest) (string, error) {
	switch {
	case len(req.Sources) == 0:
		return "", errs.New(errs.Invalid, "source_paths must not be empty").WithField("source_paths")
	case len(req.Sources) > maxParts:
		return "", errs.New(errs.Invalid, "more than %d source_paths", maxParts).WithField("source_paths")
	case req.Destination == "":
		return "", errs.New(errs.Invalid, "destination is required").WithField("destination")
	}
	user, destination, err := s.place(r.Header, req.Username, req.Destination)
	if err != nil {
		return "", err
	}
	sources := make([]string, len(req.Sources))
	for i, source := range req.Sources {
		if source == "" {
			return "", errs.New(errs.Invalid, "source path %d is empty", i+1).WithField("source_paths")
		}
		if _, sources[i], err = s.place(r.Header, req.Username, source); err != nil {
			return "", err
		}
	}
	return destination, files.Compose(r.Context(), user, sources, destination)
}
