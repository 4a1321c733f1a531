package guestd

import (
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/account"
	"github.com/lehr-dev/lehr/internal/guest/files"
)

// maxParts bounds the files of one upload, and so the answer's size.
const maxParts = 10_000

// uploaded is what an upload reports of each file.
type uploaded struct {
	Path string `json:"path"`
	Name string `json:"name"`
	Type string `json:"type"`
}

// download answers with a file's content, or a range of it.
func (s *Server) download(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	user, path, err := s.place(r.Header, q.Get("username"), q.Get("path"))
	if err != nil {
		fail(w, err)
		return
	}
	if !acceptsIdentity(r.Header.Get("Accept-Encoding")) {
		writeJSON(w, http.StatusNotAcceptable, map[string]any{
			"code": http.StatusNotAcceptable, "message": "no acceptable encoding: files are served as they are",
		})
		return
	}
	file, info, err := files.Open(user, path)
	if err != nil {
		fail(w, err)
		return
	}
	defer file.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": info.Name()}))
	if info.Size() == 0 {
		// Kernel-made files have no size and yet content.
		_, _ = io.Copy(w, file)
		return
	}
	http.ServeContent(w, r, "", info.ModTime(), file)
}

// acceptsIdentity reports whether an unencoded answer is acceptable: it is
// unless the client rules it out with a zero weight.
func acceptsIdentity(accept string) bool {
	star := true
	for item := range strings.SplitSeq(strings.ToLower(accept), ",") {
		coding, weight, _ := strings.Cut(item, ";")
		zero := isZero(weight)
		switch strings.TrimSpace(coding) {
		case "identity":
			return !zero
		case "*":
			star = !zero
		}
	}
	return star
}

func isZero(weight string) bool {
	v, ok := strings.CutPrefix(strings.ReplaceAll(weight, " ", ""), "q=")
	return ok && strings.Trim(v, "0.") == ""
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
	body, err := decoded(r)
	if err != nil {
		fail(w, err)
		return
	}
	u := uploadRequest{user: user, target: target, hasTarget: q.Get("path") != ""}
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind == "multipart/form-data" {
		err = u.parts(multipart.NewReader(body, params["boundary"]))
	} else {
		err = u.whole(body)
	}
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, http.StatusOK, u.done)
}

// decoded undoes the request's content encoding.
func decoded(r *http.Request) (io.Reader, error) {
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
		return r.Body, nil
	case "gzip":
		body, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, errs.New(errs.Invalid, "the body is not gzip: %w", err)
		}
		return body, nil
	}
	return nil, errs.New(errs.Invalid, "the body's encoding is not supported").
		WithRemedy("send it as it is, or as gzip")
}

// uploadRequest is one upload on its way.
type uploadRequest struct {
	user      account.User
	target    string // of the path query
	hasTarget bool
	done      []uploaded
}

func (u *uploadRequest) whole(body io.Reader) error {
	if !u.hasTarget {
		return errs.New(errs.Invalid, "the path query is missing").WithField("path")
	}
	return u.write(u.target, body)
}

func (u *uploadRequest) parts(body *multipart.Reader) error {
	for {
		part, err := body.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return bodyError(err)
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
	if u.hasTarget && len(u.done) > 0 {
		return "", errs.New(errs.Invalid, "more than one file for one path").WithField("path")
	}
	if u.hasTarget {
		return u.target, nil
	}
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil || params["filename"] == "" {
		return "", errs.New(errs.Invalid, "a part named file has no file name")
	}
	return files.Resolve(params["filename"], "", u.user.Home)
}

func (u *uploadRequest) write(path string, body io.Reader) error {
	if len(u.done) == maxParts {
		return errs.New(errs.Invalid, "more than %d files in one upload", maxParts)
	}
	if err := files.Write(u.user, path, body); err != nil {
		return bodyError(err)
	}
	u.done = append(u.done, uploaded{Path: path, Name: filepath.Base(path), Type: "file"})
	return nil
}

// bodyError calls what is not ours a fault of the body: cut short, or not what
// its header says.
func bodyError(err error) error {
	var known *errs.Error
	if errors.As(err, &known) {
		return err
	}
	return errs.New(errs.Invalid, "the body could not be read: %w", err)
}
