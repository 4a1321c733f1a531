package hostrpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// serve puts a host behind the wire on a unix socket.
func serve(t *testing.T, a agent.Agent) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(a, slog.New(slog.DiscardHandler))
	go func() { _ = server.Serve(l) }() // ends with Close
	c := DialUnix(path)
	t.Cleanup(func() {
		_ = c.Close()
		_ = server.Close()
	})
	return c
}

func request() agent.CreateSandbox {
	return agent.CreateSandbox{
		ID: lehr.NewSandboxID(), TeamID: lehr.NewTeamID(), TemplateID: lehr.NewTemplateID(), VersionID: lehr.NewVersionID(),
		Fence: lehr.Fence{BuildID: lehr.NewBuildID(), Attempt: 3}, Image: lehr.DigestOf([]byte("image")), Snapshot: lehr.DigestOf([]byte("snapshot")),
		Resources: lehr.Resources{VCPUs: 2, MemoryMB: 512, DiskMB: 1024},
		Config: lehr.ImageConfig{
			Env: []lehr.EnvVar{{Name: "A", Value: "line\nline"}, {Name: "BYTES", Value: "\xff\x01"}}, User: "u", Workdir: "/w",
			Entrypoint: []string{"e"}, Cmd: []string{"c"}, Shell: []string{"sh"}, Labels: []lehr.EnvVar{{Name: "l", Value: "v"}}, Exposed: []string{"80/tcp"}, Debian: true,
		},
		Env: map[string]string{"K": "V"}, TTL: 90 * time.Second,
	}
}

func TestRequestsArriveWhole(t *testing.T) {
	r := request()
	if got := createIn(createOut(r)); !equal(got, r) {
		t.Errorf("CreateSandbox over the wire = %+v, want %+v", got, r)
	}
	e := agent.Exec{
		SandboxID: r.ID, Args: []string{"a", "", "\xff"}, Env: r.Config.Env, CleanEnv: true, User: "u", Workdir: "/w", Timeout: time.Millisecond, Stdin: []byte{}, Linger: true,
	}
	if got := execIn(execOut(e)); !equal(got, e) {
		t.Errorf("Exec over the wire = %+v, want %+v", got, e)
	}
	s := agent.Sandbox{ID: r.ID, TeamID: r.TeamID, Fence: r.Fence, State: lehr.SandboxFailed, Reason: lehr.ReasonOOM, Resources: r.Resources, ExpiresAt: time.Unix(1, 2000).UTC()}
	if got := sandboxIn(sandboxOut(s)); !equal(got, s) {
		t.Errorf("Sandbox over the wire = %+v, want %+v", got, s)
	}
}

func TestErrorsKeepTheirParts(t *testing.T) {
	h := agenttest.NewHost()
	want := errs.New(errs.Exhausted, "no memory is left").WithCode("memory_full").WithField("memory_mb").WithRemedy("ask for less")
	h.Hook = func(context.Context, string, lehr.SandboxID) error {
		return errs.Wrap(want, errs.Exhausted, "x", "hidden")
	}
	c := serve(t, h)
	h.Hook = func(context.Context, string, lehr.SandboxID) error { return want }
	_, err := c.CreateSandbox(t.Context(), request())
	var got *errs.Error
	if !errors.As(err, &got) || got.Kind != want.Kind || got.Code != want.Code || got.Field != want.Field || got.Message != want.Message || got.Remedy != want.Remedy {
		t.Errorf("error over the wire = %#v, want the parts of %#v", err, want)
	}
	if err := c.ReadFile(t.Context(), agent.File{}, io.Discard); errs.CodeOf(err) != "memory_full" {
		t.Errorf("error of a stream = %v, want code memory_full", err)
	}
	if err := c.WriteFile(t.Context(), agent.File{}, strings.NewReader("x")); errs.CodeOf(err) != "memory_full" {
		t.Errorf("error of an upload = %v, want code memory_full", err)
	}
}

func TestNobodyThere(t *testing.T) {
	c := DialUnix(filepath.Join(t.TempDir(), "none.sock"))
	if _, err := c.Info(t.Context()); errs.CodeOf(err) != "agent_unreachable" || !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Info without an agent = %v, want Unavailable, agent_unreachable", err)
	}
}

func TestAnotherProtocolIsRefused(t *testing.T) {
	r, err := http.NewRequest(http.MethodPost, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(protocolHeader, "999")
	if err := checkProtocol(r.Header); errs.CodeOf(err) != "protocol_mismatch" || !strings.Contains(err.Error(), "999") {
		t.Errorf("checkProtocol(999) = %v, want protocol_mismatch and the number", err)
	}
}

func TestOutputStreamsInOrderAndLeavingEndsTheCommand(t *testing.T) {
	h := agenttest.NewHost()
	ended := make(chan error, 1)
	h.Run = func(ctx context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		for _, p := range []struct {
			s lehr.LogStream
			b string
		}{{lehr.StreamStdout, "one"}, {lehr.StreamStderr, "two"}, {lehr.StreamStdout, "three"}} {
			if err := out(p.s, []byte(p.b)); err != nil {
				return agent.Exit{}, err
			}
		}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return agent.Exit{}, ctx.Err()
	}
	c := serve(t, h)
	r := request()
	h.AddArtifact(r.Image)
	h.AddArtifact(r.Snapshot)
	if _, err := c.CreateSandbox(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	var got []string
	stop := errors.New("enough")
	_, err := c.Exec(t.Context(), agent.Exec{SandboxID: r.ID, Args: []string{"x"}}, func(s lehr.LogStream, b []byte) error {
		got = append(got, string(s)+" "+string(b))
		if len(got) == 3 {
			return stop
		}
		return nil
	})
	if want := "stdout one|stderr two|stdout three"; strings.Join(got, "|") != want || !errors.Is(err, stop) {
		t.Errorf("output = %q, %v, want %q and the caller's own error", strings.Join(got, "|"), err, want)
	}
	<-ended // the test's limit ends a command that was not told
}

func TestABrokenReaderBreaksTheUpload(t *testing.T) {
	got := make(chan error, 1)
	c := serve(t, importer{Host: agenttest.NewHost(), got: got})
	broken := errors.New("the disk is on fire")
	_, err := c.ImportImage(t.Context(), agent.ImportTar, io.MultiReader(bytes.NewReader(make([]byte, 2*chunkBytes)), failing{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("ImportImage = %v, want the reader's error", err)
	}
	if err := <-got; err == nil {
		t.Error("the host read a broken upload to its end")
	}
}

// importer reads what is imported and tells how the reading ended.
type importer struct {
	*agenttest.Host
	got chan error
}

func (i importer) ImportImage(_ context.Context, _ agent.ImportKind, r io.Reader) (agent.Image, error) {
	_, err := io.Copy(io.Discard, r)
	i.got <- err
	return agent.Image{}, err
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
