package hostrpc_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/enginetest"
	"github.com/lehr-dev/lehr/internal/engine/fake"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host/hosttest"
	"github.com/lehr-dev/lehr/internal/hostrpc"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// wire puts a simulated host behind its RPC.
func wire(t *testing.T) (*hosttest.Bundle, *hostrpc.Client) {
	t.Helper()
	b := hosttest.New(t, hosttest.Options{})
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := hostrpc.NewServer(b.Host, slog.New(slog.DiscardHandler))
	go func() { _ = server.Serve(listener) }() // ends with Close
	client := hostrpc.DialUnix(socket)
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	return b, client
}

// TestEngineLaw runs the engine suite, as far as an agent offers the law, on
// the fake engine behind host and RPC.
func TestEngineLaw(t *testing.T) {
	t.Parallel()
	enginetest.ExerciseOnly(t, func(t *testing.T) enginetest.Subject {
		b, client := wire(t)
		image, err := client.ImportImage(t.Context(), agent.ImportTar, bytes.NewReader(enginetest.RootTar()))
		if err != nil {
			t.Fatalf("ImportImage() = %v", err)
		}
		e := &hosttest.OverAgent{Agent: client, Probe: []string{"probe"}}
		again := func(*testing.T) engine.Engine { return e }
		return enginetest.Subject{
			Engine: e, Image: engine.Rootfs{Digest: image.Digest}, Run: e.Run, Crash: again, Reopen: again,
			Leaks:     func(context.Context) ([]string, error) { return b.World.Belongings(), nil },
			Processes: fake.MaxProcesses + 1,
		}
	}, hosttest.OverAgentSubtests()...)
}

func create(t *testing.T, b *hosttest.Bundle, a agent.Agent) lehr.SandboxID {
	t.Helper()
	r := hosttest.Request(b.Minimal(t))
	sb, err := a.CreateSandbox(t.Context(), r)
	if err != nil || sb.State != lehr.SandboxRunning {
		t.Fatalf("CreateSandbox() = %+v, %v", sb, err)
	}
	return r.ID
}

func discard(lehr.LogStream, []byte) error { return nil }

func TestCodesCrossTheWire(t *testing.T) {
	t.Parallel()
	b, a := wire(t)
	id := create(t, b, a)
	none := lehr.NewSandboxID()
	calls := map[string]struct {
		err  error
		kind errs.Kind
		code string
	}{
		"unknown sandbox": {second(a.GetSandbox(t.Context(), none)), errs.NotFound, "sandbox_not_found"},
		"unknown command": {second(a.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"none"}}, discard)), errs.Invalid, "command_not_found"},
		"missing image":   {second(a.CreateSandbox(t.Context(), hosttest.Request(lehr.DigestOf([]byte("none"))))), errs.NotFound, "image_missing"},
		"used image":      {a.RemoveArtifact(t.Context(), b.Minimal(t)), errs.Conflict, "artifact_in_use"},
		"missing file":    {a.ReadFile(t.Context(), agent.File{SandboxID: id, Path: "/none"}, &bytes.Buffer{}), errs.NotFound, "not_found"},
		"bad upload":      {second(a.ImportImage(t.Context(), agent.ImportTar, strings.NewReader("no tar"))), errs.Invalid, "invalid"},
		"bad bytes":       {second(a.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"\xff\xfe"}}, discard)), errs.Invalid, "command_not_found"},
	}
	for name, c := range calls {
		if errs.KindOf(c.err) != c.kind || errs.CodeOf(c.err) != c.code {
			t.Errorf("%s = %v (kind %q, code %q), want kind %q, code %q", name, c.err, errs.KindOf(c.err), errs.CodeOf(c.err), c.kind, c.code)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestLargeFiles(t *testing.T) {
	t.Parallel()
	b, a := wire(t)
	id := create(t, b, a)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	f := agent.File{SandboxID: id, Path: "/opt/\xff/large"}
	if err := a.WriteFile(t.Context(), f, bytes.NewReader(content)); err != nil {
		t.Fatalf("WriteFile() = %v", err)
	}
	var got bytes.Buffer
	if err := a.ReadFile(t.Context(), f, &got); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("ReadFile() = %d bytes, %v, want the %d that were written", got.Len(), err, len(content))
	}
	// The host refuses at once; the upload is far larger than any buffer.
	err := a.WriteFile(t.Context(), agent.File{SandboxID: lehr.NewSandboxID(), Path: "/x"}, bytes.NewReader(make([]byte, 32<<20)))
	if !errs.IsKind(err, errs.NotFound) {
		t.Errorf("WriteFile(unknown sandbox) = %v, want kind not_found", err)
	}
}

func TestTheEndOfTheCallerEndsTheCommand(t *testing.T) {
	t.Parallel()
	b, a := wire(t)
	id := create(t, b, a)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the build was cancelled")
	_, err := a.Exec(ctx, agent.Exec{SandboxID: id, Args: []string{"sh", "-c", "echo started; sleep infinity"}},
		func(lehr.LogStream, []byte) error { cancel(reason); return nil })
	if !errors.Is(err, reason) || !errs.IsKind(err, errs.Cancelled) {
		t.Errorf("Exec(cancelled) = %v, want the cause, kind cancelled", err)
	}
	slots, err := b.Opt.Engine.List(t.Context())
	if err != nil || len(slots) != 1 {
		t.Fatal(slots, err)
	}
	machine := b.World.Machine(slots[0].Slot)
	for len(machine.Processes()) > 0 {
		select {
		case <-machine.Killed(machine.Processes()[0].PID):
		case <-t.Context().Done():
			t.Fatal("the command outlives its caller")
		}
	}
}

func TestWatchSeesEnds(t *testing.T) {
	t.Parallel()
	b, a := wire(t)
	id := create(t, b, a)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var states []string
	enough := errors.New("enough")
	err := a.WatchSandboxes(ctx, func(s agent.Sandbox) error {
		states = append(states, string(s.State)+" "+string(s.Reason))
		if !s.State.Live() {
			return enough
		}
		_, err := a.Exec(ctx, agent.Exec{SandboxID: id, Args: []string{"eat", "100000"}}, discard)
		if errs.CodeOf(err) != "sandbox_ended" {
			t.Errorf("Exec(eat) = %v, want code sandbox_ended", err)
		}
		return nil
	})
	if want := "running , failed oom"; strings.Join(states, ", ") != want || !errors.Is(err, enough) {
		t.Errorf("WatchSandboxes() saw %q, %v, want %q", strings.Join(states, ", "), err, want)
	}
}

func TestTheAgentsEndEndsCalls(t *testing.T) {
	t.Parallel()
	b, a := wire(t)
	id := create(t, b, a)
	started := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		_, err := a.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"sh", "-c", "echo started; sleep infinity"}},
			func(lehr.LogStream, []byte) error { close(started); return nil })
		failed <- err
	}()
	<-started
	if err := b.Host.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Exec() when the agent stops = %v, want kind unavailable", err)
	}
}
