package guestd

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	rpc "github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/internal/guest/watch"
)

// watchRequest is what both ways to watch ask for.
type watchRequest interface {
	GetPath() string
	GetRecursive() bool
	GetIncludeEntry() bool
	GetAllowNetworkMounts() bool
}

// WatchDir streams what changes in a directory: a start event once everything
// that is done from then on is told, then the changes, with keepalives where
// there are none.
func (s *filesystemService) WatchDir(ctx context.Context, req *connect.Request[rpc.WatchDirRequest], stream *connect.ServerStream[rpc.WatchDirResponse]) error {
	w, v, err := s.watch(req.Header(), req.Msg)
	if err != nil {
		return rpcError(err)
	}
	defer s.server.watchers.close(w)
	err = stream.Send(&rpc.WatchDirResponse{Event: &rpc.WatchDirResponse_Start{Start: &rpc.WatchDirResponse_StartEvent{}}})
	every := keepalive(req.Header())
	for err == nil {
		err = s.pass(ctx, w, v, every, stream)
	}
	return err
}

// pass sends what has changed, or a keepalive when nothing has for a while.
func (s *filesystemService) pass(ctx context.Context, w *watch.Watcher, v view, every time.Duration, stream *connect.ServerStream[rpc.WatchDirResponse]) error {
	quiet, cancel := context.WithTimeoutCause(ctx, every, errQuiet)
	defer cancel()
	switch err := w.Wait(quiet); {
	case errors.Is(err, errQuiet):
		return stream.Send(&rpc.WatchDirResponse{Event: &rpc.WatchDirResponse_Keepalive{Keepalive: &rpc.WatchDirResponse_KeepAlive{}}})
	case err != nil:
		return rpcError(err)
	}
	events, err := w.Take()
	if err != nil {
		return rpcError(err)
	}
	for _, e := range events {
		if err := stream.Send(&rpc.WatchDirResponse{Event: &rpc.WatchDirResponse_Filesystem{Filesystem: s.event(e, v)}}); err != nil {
			return err
		}
	}
	return nil
}

// CreateWatcher begins to watch a directory for GetWatcherEvents.
func (s *filesystemService) CreateWatcher(_ context.Context, req *connect.Request[rpc.CreateWatcherRequest]) (*connect.Response[rpc.CreateWatcherResponse], error) {
	w, v, err := s.watch(req.Header(), req.Msg)
	if err != nil {
		return nil, rpcError(err)
	}
	return connect.NewResponse(&rpc.CreateWatcherResponse{WatcherId: s.server.watchers.keep(w, v)}), nil
}

// GetWatcherEvents returns what has changed since the last call.
func (s *filesystemService) GetWatcherEvents(_ context.Context, req *connect.Request[rpc.GetWatcherEventsRequest]) (*connect.Response[rpc.GetWatcherEventsResponse], error) {
	w, err := s.server.watchers.find(req.Msg.GetWatcherId())
	if err != nil {
		return nil, rpcError(err)
	}
	events, err := w.Take()
	if err != nil {
		return nil, rpcError(err)
	}
	answer := &rpc.GetWatcherEventsResponse{Events: make([]*rpc.FilesystemEvent, 0, len(events))}
	for _, e := range events {
		answer.Events = append(answer.Events, s.event(e, w.view))
	}
	return connect.NewResponse(answer), nil
}

// RemoveWatcher ends a watcher.
func (s *filesystemService) RemoveWatcher(_ context.Context, req *connect.Request[rpc.RemoveWatcherRequest]) (*connect.Response[rpc.RemoveWatcherResponse], error) {
	if err := s.server.watchers.remove(req.Msg.GetWatcherId()); err != nil {
		return nil, rpcError(err)
	}
	return connect.NewResponse(&rpc.RemoveWatcherResponse{}), nil
}

// watch begins to watch what a request asks for.
func (s *filesystemService) watch(h http.Header, req watchRequest) (*watch.Watcher, view, error) {
	user, path, err := s.server.place(h, "", req.GetPath())
	if err != nil {
		return nil, view{}, err
	}
	w, err := s.server.watchers.open(watch.Options{
		User: user, Path: path, Recursive: req.GetRecursive(), NetworkMount: req.GetAllowNetworkMounts(),
	})
	return w, view{user: user, root: path, includeEntry: req.GetIncludeEntry()}, err
}

// event translates e. An entry is what is there now, and absent when nothing
// is any more.
func (s *filesystemService) event(e watch.Event, v view) *rpc.FilesystemEvent {
	event := &rpc.FilesystemEvent{Name: text(e.Name), Type: eventType(e.Op)}
	if !v.includeEntry {
		return event
	}
	if entry, err := s.describe(v.user, filepath.Join(v.root, e.Name)); err == nil {
		event.Entry = entry
	}
	return event
}

func eventType(op watch.Op) rpc.EventType {
	switch op {
	case watch.Create:
		return rpc.EventType_EVENT_TYPE_CREATE
	case watch.Write:
		return rpc.EventType_EVENT_TYPE_WRITE
	case watch.Remove:
		return rpc.EventType_EVENT_TYPE_REMOVE
	case watch.Rename:
		return rpc.EventType_EVENT_TYPE_RENAME
	case watch.Chmod:
		return rpc.EventType_EVENT_TYPE_CHMOD
	}
	return rpc.EventType_EVENT_TYPE_UNSPECIFIED
}
