package guestd_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/internal/guest/guestclient"
)

// A stream tells each change, with what is there now where that is asked for.
func TestWatchDir(t *testing.T) {
	t.Parallel()
	ctx, u := patient(t), initialised(t).user(t)
	dir := openDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	w := u.watch(t, ctx, &filesystem.WatchDirRequest{Path: dir, Recursive: true, IncludeEntry: true})
	must(t, os.Mkdir(at("sub"), 0o755))
	got, e := w.next()
	if got != "EVENT_TYPE_CREATE sub" || e.GetEntry().GetType() != filesystem.FileType_FILE_TYPE_DIRECTORY || e.GetEntry().GetPath() != at("sub") {
		t.Errorf("the first change is %s with %v, want create sub", got, e.GetEntry())
	}
	// Who has heard of a directory hears of what is made in it.
	must(t, os.WriteFile(at("sub/f"), []byte("x"), 0o644))
	for _, want := range []string{"EVENT_TYPE_CREATE sub/f", "EVENT_TYPE_WRITE sub/f"} {
		if got, e := w.next(); got != want || e.GetEntry().GetName() != "f" {
			t.Errorf("next change = %s with %v, want %s", got, e.GetEntry(), want)
		}
	}
	must(t, os.Rename(at("sub/f"), at("g")))
	for _, want := range []string{"EVENT_TYPE_RENAME sub/f", "EVENT_TYPE_CREATE g"} {
		if got, _ := w.next(); got != want {
			t.Errorf("next change = %s, want %s", got, want)
		}
	}
	must(t, os.Remove(at("g")))
	if got, e := w.next(); got != "EVENT_TYPE_REMOVE g" || e.GetEntry() != nil {
		t.Errorf("next change = %s with %v, want remove g without an entry", got, e.GetEntry())
	}
}

// A watcher keeps the changes until they are asked for.
func TestWatcher(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	ctx, u := patient(t), d.user(t)
	dir := openDir(t)
	created, err := u.filesystems.CreateWatcher(ctx, connect.NewRequest(&filesystem.CreateWatcherRequest{Path: dir}))
	must(t, err)
	get := func() ([]string, error) {
		answer, err := u.filesystems.GetWatcherEvents(ctx, connect.NewRequest(&filesystem.GetWatcherEventsRequest{WatcherId: created.Msg.GetWatcherId()}))
		if err != nil {
			return nil, err
		}
		var changes []string
		for _, e := range answer.Msg.GetEvents() {
			changes = append(changes, change(e))
		}
		return changes, nil
	}
	changes, err := get()
	if err != nil || len(changes) > 0 {
		t.Errorf("GetWatcherEvents before any change = %v, %v", changes, err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "a"), 0o755))
	must(t, os.Chmod(filepath.Join(dir, "a"), 0o700))
	var all []string
	for len(all) < 2 && ctx.Err() == nil {
		changes, err := get()
		must(t, err)
		all = append(all, changes...)
	}
	if diff := cmp.Diff([]string{"EVENT_TYPE_CREATE a", "EVENT_TYPE_CHMOD a"}, all); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	_, err = u.filesystems.RemoveWatcher(ctx, connect.NewRequest(&filesystem.RemoveWatcherRequest{WatcherId: created.Msg.GetWatcherId()}))
	must(t, err)
	if _, err := get(); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("GetWatcherEvents of a removed watcher = %v, want not found", err)
	}

	// Another identity has nothing to do with this one's watchers.
	created, err = u.filesystems.CreateWatcher(ctx, connect.NewRequest(&filesystem.CreateWatcherRequest{Path: dir}))
	must(t, err)
	must(t, d.client.Init(ctx, guestclient.InitRequest{AccessToken: "token", SandboxID: "other"}))
	if _, err := get(); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("GetWatcherEvents after a restore = %v, want not found", err)
	}
}

// Watchers are bounded, and what ends makes room.
func TestWatchersAreBounded(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	ctx, u := patient(t), d.user(t)
	dir := openDir(t)
	create := func() (string, error) {
		answer, err := u.filesystems.CreateWatcher(ctx, connect.NewRequest(&filesystem.CreateWatcherRequest{Path: dir}))
		if err != nil {
			return "", err
		}
		return answer.Msg.GetWatcherId(), nil
	}
	var ids []string
	for range 64 {
		id, err := create()
		must(t, err)
		ids = append(ids, id)
	}
	if _, err := create(); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("the 65th CreateWatcher = %v, want resource exhausted", err)
	}
	_, err := u.filesystems.RemoveWatcher(ctx, connect.NewRequest(&filesystem.RemoveWatcherRequest{WatcherId: ids[0]}))
	must(t, err)
	// A refused watch does not keep the room it did not need.
	for range 3 {
		_, err := u.filesystems.CreateWatcher(ctx, connect.NewRequest(&filesystem.CreateWatcherRequest{Path: dir + "/absent"}))
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("CreateWatcher of nothing = %v, want not found", err)
		}
	}
	if _, err := create(); err != nil {
		t.Errorf("CreateWatcher after a removal = %v", err)
	}
}

// Changes that nobody fetches are bounded, and their loss is told.
func TestWatcherOverflow(t *testing.T) {
	t.Parallel()
	ctx, u := patient(t), initialised(t).user(t)
	dir := openDir(t)
	created, err := u.filesystems.CreateWatcher(ctx, connect.NewRequest(&filesystem.CreateWatcherRequest{Path: dir}))
	must(t, err)
	id := &filesystem.GetWatcherEventsRequest{WatcherId: created.Msg.GetWatcherId()}
	path := filepath.Join(dir, "d")
	var overflow error
	for overflow == nil && ctx.Err() == nil {
		// Two changes each, which cannot be told as one.
		for range 4500 {
			must(t, os.Mkdir(path, 0o755))
			must(t, os.Remove(path))
		}
		_, overflow = u.filesystems.GetWatcherEvents(ctx, connect.NewRequest(id))
	}
	var rpc *connect.Error
	if !errors.As(overflow, &rpc) || rpc.Code() != connect.CodeResourceExhausted {
		t.Errorf("GetWatcherEvents after 9,000 changes = %v, want resource exhausted", overflow)
	}
	if _, err := u.filesystems.GetWatcherEvents(ctx, connect.NewRequest(id)); err != nil {
		t.Errorf("GetWatcherEvents after the loss was told = %v", err)
	}
}
