package guestd

import (
	"context"
	"io/fs"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	rpc "github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/internal/guest/account"
	"github.com/lehr-dev/lehr/internal/guest/files"
)

// filesystemService is the Connect service filesystem.Filesystem.
type filesystemService struct {
	server *Server
}

// Stat describes a path.
func (s *filesystemService) Stat(_ context.Context, req *connect.Request[rpc.StatRequest]) (*connect.Response[rpc.StatResponse], error) {
	user, path, err := s.server.place(req.Header(), "", req.Msg.GetPath())
	if err != nil {
		return nil, rpcError(err)
	}
	entry, err := s.describe(user, path)
	if err != nil {
		return nil, rpcError(err)
	}
	return connect.NewResponse(&rpc.StatResponse{Entry: entry}), nil
}

// MakeDir makes a directory and its parents.
func (s *filesystemService) MakeDir(_ context.Context, req *connect.Request[rpc.MakeDirRequest]) (*connect.Response[rpc.MakeDirResponse], error) {
	user, path, err := s.server.place(req.Header(), "", req.Msg.GetPath())
	if err != nil {
		return nil, rpcError(err)
	}
	if err := files.MakeDir(user, path); err != nil {
		return nil, rpcError(err)
	}
	entry, err := s.describe(user, path)
	if err != nil {
		return nil, rpcError(err)
	}
	return connect.NewResponse(&rpc.MakeDirResponse{Entry: entry}), nil
}

// Move renames a path, making the destination's parents.
func (s *filesystemService) Move(_ context.Context, req *connect.Request[rpc.MoveRequest]) (*connect.Response[rpc.MoveResponse], error) {
	user, source, err := s.server.place(req.Header(), "", req.Msg.GetSource())
	if err != nil {
		return nil, rpcError(err)
	}
	destination, err := files.Resolve(req.Msg.GetDestination(), s.server.current().DefaultWorkdir, user.Home)
	if err != nil {
		return nil, rpcError(err)
	}
	if err := files.Move(user, source, destination); err != nil {
		return nil, rpcError(err)
	}
	entry, err := s.describe(user, destination)
	if err != nil {
		return nil, rpcError(err)
	}
	return connect.NewResponse(&rpc.MoveResponse{Entry: entry}), nil
}

// ListDir lists a directory down to a depth.
func (s *filesystemService) ListDir(_ context.Context, req *connect.Request[rpc.ListDirRequest]) (*connect.Response[rpc.ListDirResponse], error) {
	user, path, err := s.server.place(req.Header(), "", req.Msg.GetPath())
	if err != nil {
		return nil, rpcError(err)
	}
	entries, err := files.List(user, path, req.Msg.GetDepth())
	if err != nil {
		return nil, rpcError(err)
	}
	names := s.server.opt.Users.Names()
	answer := &rpc.ListDirResponse{Entries: make([]*rpc.EntryInfo, 0, len(entries))}
	for _, e := range entries {
		answer.Entries = append(answer.Entries, entryInfo(e, names))
	}
	return connect.NewResponse(answer), nil
}

// Remove removes a path and all below it; an absent path is no error.
func (s *filesystemService) Remove(_ context.Context, req *connect.Request[rpc.RemoveRequest]) (*connect.Response[rpc.RemoveResponse], error) {
	user, path, err := s.server.place(req.Header(), "", req.Msg.GetPath())
	if err != nil {
		return nil, rpcError(err)
	}
	if err := files.Remove(user, path); err != nil {
		return nil, rpcError(err)
	}
	return connect.NewResponse(&rpc.RemoveResponse{}), nil
}

func (s *filesystemService) describe(user account.User, path string) (*rpc.EntryInfo, error) {
	entry, err := files.Stat(user, path)
	if err != nil {
		return nil, err
	}
	return entryInfo(entry, s.server.opt.Users.Names()), nil
}

// place resolves who a file call works as and where.
func (s *Server) place(h http.Header, query, path string) (account.User, string, error) {
	init := s.current()
	user, err := s.userOf(h, query, init)
	if err != nil {
		return account.User{}, "", err
	}
	path, err = files.Resolve(path, init.DefaultWorkdir, user.Home)
	return user, path, err
}

func entryInfo(e files.Entry, names account.Names) *rpc.EntryInfo {
	info := &rpc.EntryInfo{
		Name: text(e.Name), Path: text(e.Path), Type: fileType(e.Mode), Size: e.Size, Mode: uint32(e.Mode.Perm()),
		Permissions: e.Permissions, Owner: text(names.User(e.UID)), Group: text(names.Group(e.GID)),
		ModifiedTime: timestamppb.New(e.ModTime),
	}
	if e.IsLink {
		target := text(e.Target)
		info.SymlinkTarget = &target
		if e.Dangling {
			info.Type = rpc.FileType_FILE_TYPE_UNSPECIFIED
		}
	}
	for key, value := range e.Metadata {
		if info.Metadata == nil {
			info.Metadata = map[string]string{}
		}
		info.Metadata[text(key)] = text(value)
	}
	return info
}

// text makes s one that a message can carry: bytes that are no UTF-8 become the
// replacement character. Names are bytes to the kernel, and one that is no text
// must not spoil a whole listing.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func fileType(mode fs.FileMode) rpc.FileType {
	switch {
	case mode.IsRegular():
		return rpc.FileType_FILE_TYPE_FILE
	case mode.IsDir():
		return rpc.FileType_FILE_TYPE_DIRECTORY
	}
	return rpc.FileType_FILE_TYPE_UNSPECIFIED
}
