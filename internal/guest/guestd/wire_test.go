package guestd_test

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem"
	"github.com/lehr-dev/lehr/api/gen/envd/filesystem/filesystemconnect"
	"github.com/lehr-dev/lehr/api/gen/envd/process"
	"github.com/lehr-dev/lehr/api/gen/envd/process/processconnect"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// user is a client that speaks as the SDKs do: Connect in JSON, with the access
// token.
type user struct {
	idle        func() // closes the connections that are not in use
	processes   processconnect.ProcessClient
	filesystems filesystemconnect.FilesystemClient
}

func (d *daemon) user(t *testing.T) user {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: withToken{transport}}
	return user{
		idle:        transport.CloseIdleConnections,
		processes:   processconnect.NewProcessClient(client, "http://sandbox", connect.WithProtoJSON()),
		filesystems: filesystemconnect.NewFilesystemClient(client, "http://sandbox", connect.WithProtoJSON()),
	}
}

type withToken struct{ next http.RoundTripper }

func (w withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set(wire.HeaderToken, "token")
	return w.next.RoundTrip(r)
}

// patient bounds what a test waits for.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return withoutDeadline{ctx}
}

// withoutDeadline hides a deadline, which would travel to the daemon and end
// the process there.
type withoutDeadline struct{ context.Context }

func (withoutDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }

// events are the events of a process as either call streams them.
type events struct {
	t      *testing.T
	next   func() (*process.ProcessEvent, error)
	stdout string
	pty    string
	end    *process.ProcessEvent_EndEvent
}

// start starts a process and returns its number and what follows.
func (u user) start(t *testing.T, ctx context.Context, req *process.StartRequest) (uint32, *events) { //nolint:revive // the test first, as elsewhere
	t.Helper()
	stream, err := u.processes.Start(ctx, connect.NewRequest(req))
	must(t, err)
	t.Cleanup(func() { _ = stream.Close() })
	e := &events{t: t, next: func() (*process.ProcessEvent, error) {
		if !stream.Receive() {
			return nil, stream.Err()
		}
		return stream.Msg().GetEvent(), nil
	}}
	return e.started(), e
}

// connect attaches to a process.
func (u user) connect(t *testing.T, ctx context.Context, sel *process.ProcessSelector) (uint32, *events) { //nolint:revive // as above
	t.Helper()
	stream, err := u.processes.Connect(ctx, connect.NewRequest(&process.ConnectRequest{Process: sel}))
	must(t, err)
	t.Cleanup(func() { _ = stream.Close() })
	e := &events{t: t, next: func() (*process.ProcessEvent, error) {
		if !stream.Receive() {
			return nil, stream.Err()
		}
		return stream.Msg().GetEvent(), nil
	}}
	return e.started(), e
}

// started takes the first event, which says the number.
func (e *events) started() uint32 {
	e.t.Helper()
	first, err := e.next()
	must(e.t, err)
	if first.GetStart() == nil {
		e.t.Fatalf("the first event is %v, want start", first)
	}
	return first.GetStart().GetPid()
}

// until takes events until done says so or the process has ended.
func (e *events) until(done func() bool) {
	e.t.Helper()
	for e.end == nil && !done() {
		ev, err := e.next()
		if err != nil || ev == nil {
			e.t.Fatalf("the stream ended with %v after …%q", err, (e.stdout + e.pty)[max(0, len(e.stdout)+len(e.pty)-200):])
		}
		e.stdout += string(ev.GetData().GetStdout())
		e.pty += string(ev.GetData().GetPty())
		e.end = ev.GetEnd()
	}
}

// ended takes the rest.
func (e *events) ended() *process.ProcessEvent_EndEvent {
	e.t.Helper()
	e.until(func() bool { return false })
	return e.end
}

func byPID(pid uint32) *process.ProcessSelector {
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Pid{Pid: pid}}
}

func byTag(tag string) *process.ProcessSelector {
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Tag{Tag: tag}}
}

// script is a start request for /bin/sh.
func script(text string) *process.StartRequest {
	return &process.StartRequest{Process: &process.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", text}}}
}

func (u user) stdin(ctx context.Context, pid uint32, text string) error {
	_, err := u.processes.SendInput(ctx, connect.NewRequest(&process.SendInputRequest{
		Process: byPID(pid), Input: &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: []byte(text)}},
	}))
	return err
}

// types types text into a process's terminal.
func (u user) types(ctx context.Context, pid uint32, text string) error {
	_, err := u.processes.SendInput(ctx, connect.NewRequest(&process.SendInputRequest{
		Process: byPID(pid), Input: &process.ProcessInput{Input: &process.ProcessInput_Pty{Pty: []byte(text)}},
	}))
	return err
}

func (u user) resize(ctx context.Context, pid, columns, rows uint32) error {
	_, err := u.processes.Update(ctx, connect.NewRequest(&process.UpdateRequest{
		Process: byPID(pid), Pty: &process.PTY{Size: &process.PTY_Size{Cols: columns, Rows: rows}},
	}))
	return err
}

func (u user) closeStdin(ctx context.Context, pid uint32) error {
	_, err := u.processes.CloseStdin(ctx, connect.NewRequest(&process.CloseStdinRequest{Process: byPID(pid)}))
	return err
}

func (u user) signal(ctx context.Context, pid uint32, n process.Signal) error {
	_, err := u.processes.SendSignal(ctx, connect.NewRequest(&process.SendSignalRequest{Process: byPID(pid), Signal: n}))
	return err
}

// watched are the changes that a stream tells.
type watched struct {
	t      *testing.T
	stream *connect.ServerStreamForClient[filesystem.WatchDirResponse]
}

func (u user) watch(t *testing.T, ctx context.Context, req *filesystem.WatchDirRequest) *watched { //nolint:revive // as above
	t.Helper()
	stream, err := u.filesystems.WatchDir(ctx, connect.NewRequest(req))
	must(t, err)
	t.Cleanup(func() { _ = stream.Close() })
	if !stream.Receive() || stream.Msg().GetStart() == nil {
		t.Fatalf("WatchDir begins with %v, %v; want start", stream.Msg(), stream.Err())
	}
	return &watched{t: t, stream: stream}
}

// next returns the next change, as "create a/b".
func (w *watched) next() (string, *filesystem.FilesystemEvent) {
	w.t.Helper()
	for w.stream.Receive() {
		if e := w.stream.Msg().GetFilesystem(); e != nil {
			return change(e), e
		}
	}
	w.t.Fatalf("the stream ended: %v", w.stream.Err())
	return "", nil
}

func change(e *filesystem.FilesystemEvent) string { return e.GetType().String() + " " + e.GetName() }
