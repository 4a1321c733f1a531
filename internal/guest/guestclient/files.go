package guestclient

import (
	"context"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// File names a file or directory and who works on it.
type File struct {
	Path string // absolute, or relative to the user's home
	User string // "" is the default user
}

func (f File) query() url.Values { return url.Values{"path": {f.Path}} }

func (f File) header(h http.Header) http.Header {
	if f.User != "" {
		h.Set(wire.HeaderUser, f.User)
	}
	return h
}

// ReadFile streams a regular file to w. The sandbox decides how much that is;
// w has to bound it. Errors: NotFound; PermissionDenied; Invalid when it is no
// regular file; w's own.
func (c *Client) ReadFile(ctx context.Context, f File, w io.Writer) error {
	resp, err := c.do(ctx, request{method: http.MethodGet, path: "/files", query: f.query(), header: f.header(http.Header{})})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := &source{reader: resp.Body}
	_, err = io.Copy(w, body)
	if failure := body.failure(); failure != nil {
		return transportError(ctx, failure)
	}
	return err
}

// source remembers whether reading failed, to tell it from writing. The
// transport may still be reading when a call has ended; after Close it gets no
// more.
type source struct {
	reader io.Reader

	mu  sync.Mutex
	err error
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if err := s.failure(); err != nil {
		return 0, err
	}
	n, err := s.reader.Read(p)
	if err != nil && err != io.EOF {
		s.fail(err)
	}
	return n, err
}

// Close implements io.Closer.
func (s *source) Close() error {
	s.fail(http.ErrBodyReadAfterClose)
	return nil
}

func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// WriteFile creates or replaces a file, and its missing parents, with what r
// delivers; it belongs to the user. A failure leaves what was written until
// then. A Read of r that does not return outlives the call. Errors:
// PermissionDenied; Invalid; Exhausted with code "disk_full"; r's own.
func (c *Client) WriteFile(ctx context.Context, f File, r io.Reader) error {
	body := &source{reader: r}
	resp, err := c.do(ctx, request{
		method: http.MethodPost, path: "/files", query: f.query(), body: body,
		header: f.header(http.Header{"Content-Type": {"application/octet-stream"}}),
	})
	if failure := body.failure(); err != nil && failure != nil && failure != http.ErrBodyReadAfterClose {
		return failure
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// FileInfo describes a path, as the sandbox tells it.
type FileInfo struct {
	Size    int64 // bytes
	Mode    fs.FileMode
	IsDir   bool
	Owner   string
	Group   string
	ModTime time.Time
	Target  string // where a symbolic link leads; "" for anything else
}

// Stat describes a path. Errors: NotFound; PermissionDenied; Invalid.
func (c *Client) Stat(ctx context.Context, f File) (FileInfo, error) {
	req := connect.NewRequest(&filesystem.StatRequest{Path: f.Path})
	f.header(req.Header())
	resp, err := c.filesystem.Stat(ctx, req)
	if err != nil {
		return FileInfo{}, rpcError(ctx, err)
	}
	e := resp.Msg.GetEntry()
	return FileInfo{
		Size: e.GetSize(), Mode: fs.FileMode(e.GetMode()).Perm(),
		IsDir: e.GetType() == filesystem.FileType_FILE_TYPE_DIRECTORY,
		Owner: e.GetOwner(), Group: e.GetGroup(), ModTime: e.GetModifiedTime().AsTime(), Target: e.GetSymlinkTarget(),
	}, nil
}

// MakeDir makes a directory and its missing parents; one that is there already
// is no error. Errors: PermissionDenied; Invalid when something else is there.
func (c *Client) MakeDir(ctx context.Context, f File) error {
	req := connect.NewRequest(&filesystem.MakeDirRequest{Path: f.Path})
	f.header(req.Header())
	_, err := c.filesystem.MakeDir(ctx, req)
	if err == nil {
		return nil
	}
	if err = rpcError(ctx, err); errs.IsKind(err, errs.Exists) {
		return nil
	}
	return err
}
