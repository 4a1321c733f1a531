package guestd_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/api/gen/envd/process"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

func needBash(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/bin/bash"); err != nil {
		t.Skip("SKIP-ENV: there is no bash")
	}
}

// Several clients follow one process from when they come; who comes after its
// end finds nothing.
func TestFollowers(t *testing.T) {
	t.Parallel()
	ctx, u := patient(t), initialised(t).user(t)
	req := script("while read line; do echo $line; done; exit 4")
	tag := "loop"
	req.Tag = &tag
	req.Process.Envs = map[string]string{"A": "1"}
	pid, first := u.start(t, ctx, req)
	must(t, u.stdin(ctx, pid, "one\n"))
	first.until(func() bool { return first.stdout == "one\n" })
	same, second := u.connect(t, ctx, byTag("loop"))
	if same != pid {
		t.Errorf("Connect tells process %d, want %d", same, pid)
	}
	_, third := u.connect(t, ctx, byPID(pid))

	list, err := u.processes.List(ctx, connect.NewRequest(&process.ListRequest{}))
	must(t, err)
	if n := len(list.Msg.GetProcesses()); n != 1 {
		t.Fatalf("List has %d processes, want 1", n)
	}
	info := list.Msg.GetProcesses()[0]
	if info.GetPid() != pid || info.GetTag() != tag || info.GetConfig().GetCmd() != "/bin/sh" || info.GetConfig().GetCwd() != "/tmp" {
		t.Errorf("List tells %v", info)
	}
	if diff := cmp.Diff(map[string]string{"A": "1"}, info.GetConfig().GetEnvs()); diff != "" {
		t.Errorf("List's environment (-want +got):\n%s", diff)
	}

	stream := u.processes.StreamInput(ctx)
	must(t, stream.Send(&process.StreamInputRequest{Event: &process.StreamInputRequest_Start{
		Start: &process.StreamInputRequest_StartEvent{Process: byTag("loop")},
	}}))
	for _, line := range []string{"two\n", "three\n"} {
		must(t, stream.Send(&process.StreamInputRequest{Event: &process.StreamInputRequest_Data{
			Data: &process.StreamInputRequest_DataEvent{Input: &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: []byte(line)}}},
		}}))
		must(t, stream.Send(&process.StreamInputRequest{Event: &process.StreamInputRequest_Keepalive{Keepalive: &process.StreamInputRequest_KeepAlive{}}}))
	}
	_, err = stream.CloseAndReceive()
	must(t, err)
	must(t, u.closeStdin(ctx, pid))
	for name, e := range map[string]*events{"first": first, "second": second, "third": third} {
		if end := e.ended(); end.GetExitCode() != 4 {
			t.Errorf("%s: the process ended with %v, want code 4", name, end)
		}
		want := "two\nthree\n"
		if name == "first" {
			want = "one\n" + want
		}
		if e.stdout != want {
			t.Errorf("%s: %q, want %q", name, e.stdout, want)
		}
	}
	late, err := u.processes.Connect(ctx, connect.NewRequest(&process.ConnectRequest{Process: byPID(pid)}))
	must(t, err)
	if late.Receive() || connect.CodeOf(late.Err()) != connect.CodeNotFound {
		t.Errorf("Connect to an ended process = %v, want not found", late.Err())
	}
	if err := u.stdin(ctx, pid, "x"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("SendInput to an ended process = %v, want not found", err)
	}
}

// A follower that does not read slows nobody: the other gets all, and the slow
// one is told that it has not. What is written cannot be packed, so that it does
// not fit into the connection.
func TestSlowFollower(t *testing.T) {
	t.Parallel()
	ctx, u := patient(t), initialised(t).user(t)
	const size = 4 << 20
	pid, fast := u.start(t, ctx, script(fmt.Sprintf("read go; head -c %d /dev/urandom", size)))
	_, slow := u.connect(t, ctx, byPID(pid))
	must(t, u.stdin(ctx, pid, "\n"))
	got := 0
	for end := (*process.ProcessEvent_EndEvent)(nil); end == nil; {
		ev, err := fast.next()
		must(t, err)
		got += len(ev.GetData().GetStdout())
		end = ev.GetEnd()
	}
	if got != size {
		t.Errorf("the fast follower got %d bytes, want %d", got, size)
	}
	for {
		ev, err := slow.next()
		if err != nil {
			if connect.CodeOf(err) != connect.CodeResourceExhausted {
				t.Errorf("the slow follower's stream ended with %v, want resource exhausted", err)
			}
			return
		}
		if ev.GetEnd() != nil {
			t.Fatal("the slow follower has missed nothing: make the output larger")
		}
	}
}

// A client that goes away leaves its process running, unless it set a time
// limit, which is the process's.
func TestDisconnect(t *testing.T) {
	t.Parallel()
	ctx, u := patient(t), initialised(t).user(t)
	stream, err := u.processes.Start(ctx, connect.NewRequest(script("echo ready; read line; echo got $line")))
	must(t, err)
	for stream.Receive() && stream.Msg().GetEvent().GetStart() == nil {
		continue
	}
	pid := stream.Msg().GetEvent().GetStart().GetPid()
	must(t, stream.Close())
	_, again := u.connect(t, ctx, byPID(pid))
	must(t, u.stdin(ctx, pid, "it\n"))
	again.ended()
	if !strings.HasSuffix(again.stdout, "got it\n") {
		t.Errorf("after coming back: %q, want the rest", again.stdout)
	}

	req := connect.NewRequest(script("echo $$; exec sleep 1000"))
	req.Header().Set(wire.HeaderConnectTimeout, "300")
	limited, err := u.processes.Start(ctx, req)
	must(t, err)
	for limited.Receive() {
		continue
	}
	if connect.CodeOf(limited.Err()) != connect.CodeDeadlineExceeded {
		t.Errorf("a limited process ended with %v, want deadline exceeded", limited.Err())
	}
	must(t, limited.Close())
}

// Keepalives come where nothing else is said.
func TestKeepalive(t *testing.T) {
	t.Parallel()
	ctx, u := patient(t), initialised(t).user(t)
	req := connect.NewRequest(script("exec sleep 1000"))
	req.Header().Set(wire.HeaderKeepalive, "1")
	req.Header().Set(wire.HeaderOnDisconnect, wire.OnDisconnectKill)
	stream, err := u.processes.Start(ctx, req)
	must(t, err)
	defer stream.Close()
	for stream.Receive() && stream.Msg().GetEvent().GetKeepalive() == nil {
		continue
	}
	if stream.Msg().GetEvent().GetKeepalive() == nil {
		t.Errorf("the stream ended with %v, want a keepalive", stream.Err())
	}
}

// A list tells arguments as long as they are not too much; of several processes
// with one tag the last is meant, and a tag is a name and not a text.
func TestListAndTags(t *testing.T) {
	t.Parallel()
	ctx, u := patient(t), initialised(t).user(t)
	tag := "twice"
	var last uint32
	for range 30 {
		req := script("read line")
		req.Tag = &tag
		for range 2 {
			req.Process.Args = append(req.Process.Args, strings.Repeat("x", 100_000))
		}
		last, _ = u.start(t, ctx, req)
	}
	list, err := u.processes.List(ctx, connect.NewRequest(&process.ListRequest{}))
	must(t, err)
	size, full := 0, 0
	for _, p := range list.Msg.GetProcesses() {
		for _, arg := range p.GetConfig().GetArgs() {
			size += len(arg)
		}
		if len(p.GetConfig().GetArgs()) > 0 {
			full++
		}
	}
	if n := len(list.Msg.GetProcesses()); n != 30 || full == 0 || size > 2<<20 {
		t.Errorf("List tells %d processes, %d with arguments, of %d bytes; want 30, some, and at most 2 MiB", n, full, size)
	}
	if pid, _ := u.connect(t, ctx, byTag(tag)); pid != last {
		t.Errorf("Connect by a tag of several = process %d, want the last, %d", pid, last)
	}
	req := script("true")
	long := strings.Repeat("x", 257)
	req.Tag = &long
	stream, err := u.processes.Start(ctx, connect.NewRequest(req))
	must(t, err)
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeInvalidArgument {
		t.Errorf("Start with a tag of 257 bytes = %v, want invalid argument", stream.Err())
	}
}
