package agent_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/api/gen/envd/filesystem/filesystemconnect"
	"github.com/lehr-dev/lehr/api/gen/envd/process"
	"github.com/lehr-dev/lehr/api/gen/envd/process/processconnect"
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/guest/wire"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// visitor is a user of one sandbox's guest daemon.
type visitor struct {
	process processconnect.ProcessClient
	files   filesystemconnect.FilesystemClient
}

// as is a RoundTripper that reaches one sandbox with a token.
type as struct {
	token string
	next  *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (v as) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set(wire.HeaderToken, v.token)
	return v.next.RoundTrip(r)
}

func visit(t *testing.T, a *running, id lehr.SandboxID, token string) visitor {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return a.Dial(ctx, id, wire.Port)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: as{token, transport}}
	return visitor{processconnect.NewProcessClient(client, "http://sandbox"), filesystemconnect.NewFilesystemClient(client, "http://sandbox")}
}

// watcher makes a watcher of / and returns its id.
func (v visitor) watcher(t *testing.T) string {
	t.Helper()
	answer, err := v.files.CreateWatcher(t.Context(), connect.NewRequest(&filesystem.CreateWatcherRequest{Path: "/srv"}))
	if err != nil {
		t.Fatal(err)
	}
	return answer.Msg.GetWatcherId()
}

func (v visitor) changes(t *testing.T, watcher string) (int, error) {
	t.Helper()
	answer, err := v.files.GetWatcherEvents(t.Context(), connect.NewRequest(&filesystem.GetWatcherEventsRequest{WatcherId: watcher}))
	if err != nil {
		return 0, err
	}
	return len(answer.Msg.GetEvents()), nil
}

// types types text into a terminal and follows it until it shows want.
func (v visitor) types(t *testing.T, tag, text, want string) {
	t.Helper()
	sel := &process.ProcessSelector{Selector: &process.ProcessSelector_Tag{Tag: tag}}
	stream, err := v.process.Connect(t.Context(), connect.NewRequest(&process.ConnectRequest{Process: sel}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	_, err = v.process.SendInput(t.Context(), connect.NewRequest(&process.SendInputRequest{
		Process: sel, Input: &process.ProcessInput{Input: &process.ProcessInput_Pty{Pty: []byte(text)}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	var screen strings.Builder
	for !strings.Contains(screen.String(), want) {
		if !stream.Receive() {
			t.Fatalf("the terminal shows %q, %v; want %q", screen.String(), stream.Err(), want)
		}
		screen.Write(stream.Msg().GetEvent().GetData().GetPty())
	}
}

// A restored sandbox has another token and no watchers, and its terminals go
// on; the original keeps all of it.
func TestRestoredGuest(t *testing.T) {
	needRoot(t)
	a := start(t, newData(t), 0, host.Pool{})
	base := busybox(t, a)
	sandbox := func(snapshot lehr.Digest, token string) lehr.SandboxID {
		id := lehr.NewSandboxID()
		_, err := a.CreateSandbox(t.Context(), agent.CreateSandbox{
			ID: id, TeamID: lehr.PlatformTeam, Image: base.Digest, Snapshot: snapshot, Resources: lehr.DefaultResources, AccessToken: token,
		})
		if err != nil {
			t.Fatalf("CreateSandbox() = %v", err)
		}
		t.Cleanup(func() { _ = a.DestroySandbox(context.Background(), id) })
		return id
	}
	original := sandbox("", "first")
	first := visit(t, a, original, "first")
	tag := "shell"
	stream, err := first.process.Start(t.Context(), connect.NewRequest(&process.StartRequest{
		Process: &process.ProcessConfig{Cmd: "/bin/sh"}, Tag: &tag, Pty: &process.PTY{Size: &process.PTY_Size{Cols: 80, Rows: 24}},
	}))
	if err != nil || !stream.Receive() {
		t.Fatalf("Start() = %v, %v", err, stream.Err())
	}
	_ = stream.Close() // a shell outlives its client
	first.types(t, tag, "secret=nonce\n", "secret")
	watcher := first.watcher(t)
	snap, err := a.CreateSnapshot(t.Context(), original)
	if err != nil {
		t.Fatalf("CreateSnapshot() = %v", err)
	}

	clone := sandbox(snap.Digest, "second")
	second := visit(t, a, clone, "second")
	if _, err := visit(t, a, clone, "first").process.List(t.Context(), connect.NewRequest(&process.ListRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("List in the clone with the original's token = %v, want unauthenticated", err)
	}
	second.types(t, tag, "echo $secret''$secret\n", "noncenonce")
	if _, err := second.changes(t, watcher); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("GetWatcherEvents in the clone of the original's watcher = %v, want not found", err)
	}
	fresh := second.watcher(t)
	for name, v := range map[string]struct {
		visitor
		id      lehr.SandboxID
		watcher string
	}{"original": {first, original, watcher}, "clone": {second, clone, fresh}} {
		sh(t, a, v.id, "echo x > /srv/"+name)
		n := 0
		for n == 0 && err == nil && t.Context().Err() == nil {
			n, err = v.changes(t, v.watcher)
		}
		if n == 0 || err != nil {
			t.Errorf("%s: GetWatcherEvents after a change = %d, %v", name, n, err)
		}
	}
	first.types(t, tag, "echo still''$secret\n", "stillnonce")
}
