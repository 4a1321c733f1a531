package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/api/gen/envd/filesystem/filesystemconnect"
)

// Files reads and writes the files of one sandbox with the rights of one of
// its users. Paths are absolute, or relative to the user's home.
type Files struct {
	rpc  filesystemconnect.FilesystemClient
	http *http.Client
	base string
}

// FileReader is a file on its way out of a sandbox. Read fails when the
// connection breaks: a cut file never looks whole.
type FileReader struct {
	io.ReadCloser
	Size int64 // bytes; -1 where it is not known
}

// Read opens a regular file. The caller closes it.
func (f *Files) Read(ctx context.Context, path string) (*FileReader, error) {
	resp, err := f.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return &FileReader{ReadCloser: resp.Body, Size: resp.ContentLength}, nil
}

// Write creates or replaces a file, and its missing parents, with what r
// delivers. A failure leaves what was written until then: write under another
// name and Move it when it has to be whole. A full disk is code "disk_full".
func (f *Files) Write(ctx context.Context, path string, r io.Reader) error {
	src := &source{reader: r}
	resp, err := f.call(ctx, http.MethodPost, path, src)
	if err != nil {
		if own := src.failure(); own != nil {
			return own // before what it led to
		}
		return err
	}
	return resp.Body.Close()
}

// source keeps a reader's error: the transport hides it. A Read may still be on
// its way when the call has ended.
type source struct {
	reader io.Reader

	mu  sync.Mutex
	err error
}

// Read implements io.Reader.
func (s *source) Read(b []byte) (int, error) {
	n, err := s.reader.Read(b)
	if err != nil && err != io.EOF {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = err
	}
	return n, err
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (f *Files) call(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, f.base+"/files?"+url.Values{"path": {path}}.Encode(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // so that the size is known
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := f.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var ce *connect.Error
		if errors.As(err, &ce) {
			return nil, ce
		}
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	if resp.StatusCode >= 300 {
		_ = resp.Body.Close()
		return nil, guestError(resp.StatusCode, resp.Header.Get(headerErrorCode), fmt.Sprintf("the guest daemon answered %q", resp.Status))
	}
	return resp, nil
}

// Stat describes a path. A symbolic link is described as what it leads to, with
// symlink_target.
func (f *Files) Stat(ctx context.Context, path string) (*filesystem.EntryInfo, error) {
	res, err := f.rpc.Stat(ctx, connect.NewRequest(&filesystem.StatRequest{Path: path}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetEntry(), nil
}

// List describes what is in a directory, down to depth levels.
func (f *Files) List(ctx context.Context, path string, depth uint32) ([]*filesystem.EntryInfo, error) {
	res, err := f.rpc.ListDir(ctx, connect.NewRequest(&filesystem.ListDirRequest{Path: path, Depth: depth}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetEntries(), nil
}

// MakeDir makes a directory and its missing parents. One that is there already
// is no error.
func (f *Files) MakeDir(ctx context.Context, path string) error {
	_, err := f.rpc.MakeDir(ctx, connect.NewRequest(&filesystem.MakeDirRequest{Path: path}))
	if connect.CodeOf(err) == connect.CodeAlreadyExists {
		return nil
	}
	return err
}

// Move renames a path, over a file that is there.
func (f *Files) Move(ctx context.Context, from, to string) error {
	_, err := f.rpc.Move(ctx, connect.NewRequest(&filesystem.MoveRequest{Source: from, Destination: to}))
	return err
}

// Remove removes a path and all below it. What is not there is no error.
func (f *Files) Remove(ctx context.Context, path string) error {
	_, err := f.rpc.Remove(ctx, connect.NewRequest(&filesystem.RemoveRequest{Path: path}))
	return err
}
