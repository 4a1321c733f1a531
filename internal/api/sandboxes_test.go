package api_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/sdk"
)

// plays says its standard input and arguments, then ends as the last argument
// asks for.
func plays(_ context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
	what := r.Args[len(r.Args)-1]
	if what == "early" {
		return agent.Exit{}, errs.New(errs.Invalid, "there is no early").WithCode("command_not_found")
	}
	if err := errors.Join(out(lehr.StreamStdout, r.Stdin), out(lehr.StreamStderr, []byte(strings.Join(r.Args, " ")))); err != nil {
		return agent.Exit{}, err
	}
	switch what {
	case "late":
		return agent.Exit{}, errs.New(errs.Conflict, "the sandbox ended").WithCode("sandbox_ended")
	case "seven":
		return agent.Exit{Code: 7}, nil
	case "killed":
		return agent.Exit{Code: 137, Signal: 9, TimedOut: true}, nil
	}
	return agent.Exit{}, nil
}

func TestExecOverREST(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plays)
	path := "/v1/sandboxes/" + w.sandbox() + "/exec"
	stdin := base64.StdEncoding.EncodeToString([]byte("in\x00put"))
	a := w.call("POST", path, `{"cmd":["a","seven"],"stdin":"`+stdin+`"}`)
	want := fmt.Sprintf(`{"stdout":%q,"stderr":null,"exit":null}
{"stdout":null,"stderr":%q,"exit":null}
{"stdout":null,"stderr":null,"exit":{"code":7,"signal":0,"timed_out":false}}
`, stdin, base64.StdEncoding.EncodeToString([]byte("a seven")))
	if a.ok(200, nil); string(a.body) != want {
		t.Errorf("exec = %s, want %s", a.body, want)
	}
	late := w.call("POST", path, `{"cmd":["late"]}`)
	lines := strings.Split(strings.TrimSpace(string(late.body)), "\n")
	if late.status != 200 || len(lines) != 3 || !strings.HasPrefix(lines[2], `{"error":{"code":"sandbox_ended"`) {
		t.Errorf("exec that breaks = %d %s, want an error as last line", late.status, late.body)
	}
	w.call("POST", path, `{"cmd":["early"]}`).fails(400, "command_not_found")
	w.call("POST", path, `{"cmd":["x"],"timeout":"soon"}`).fails(400, "duration_invalid")
	w.call("POST", path, `{"cmd":["x"],"shell":true}`).fails(400, "body_invalid")
	w.call("POST", path+"?user=root", `{"cmd":["x"]}`).fails(400, "parameter_unknown")
	w.call("POST", path, `{"cmd":["x"],"stdin":"`+base64.StdEncoding.EncodeToString(make([]byte, 1<<20+1))+`"}`).fails(400, "invalid")
	w.call("POST", path, `{}`).fails(400, "no_command")
	w.call("POST", "/v1/sandboxes/"+unknownSandbox+"/exec", `{"cmd":["x"]}`).fails(404, "sandbox_not_found")
	w.call("POST", "/v1/sandboxes/odd/exec", `{"cmd":["x"]}`).fails(400, "id_invalid")
}

func TestExecOverConnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plays)
	c, id := w.client(w.user), w.sandbox()
	exec := func(cmd ...string) (out string, exit *lehrv1.ExecExit, err error) {
		s, err := c.Sandboxes.Exec(t.Context(), connect.NewRequest(&lehrv1.ExecRequest{Id: id, Cmd: cmd}))
		if err != nil {
			return "", nil, err
		}
		defer s.Close()
		for s.Receive() {
			out += string(s.Msg().GetStderr())
			if e := s.Msg().GetExit(); e != nil {
				exit = e
			}
		}
		return out, exit, s.Err()
	}
	if out, exit, err := exec("killed"); err != nil || out != "killed" || exit.GetCode() != 137 || exit.GetSignal() != 9 || !exit.GetTimedOut() {
		t.Errorf("exec(killed) = %q, %v, %v", out, exit, err)
	}
	if out, exit, err := exec("late"); out != "late" || exit != nil || sdk.ErrorDetail(err).GetCode() != "sandbox_ended" {
		t.Errorf("exec(late) = %q, %v, %v, want its output, then sandbox_ended", out, exit, err)
	}
	if _, _, err := exec("early"); connect.CodeOf(err) != connect.CodeInvalidArgument || sdk.ErrorDetail(err).GetCode() != "command_not_found" {
		t.Errorf("exec(early) = %v, want command_not_found", err)
	}
}

// A client that goes away ends its command.
func TestExecEndsWithItsClient(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	w := newWorld(t, func(ctx context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		if err := out(lehr.StreamStdout, []byte("begun")); err != nil {
			return agent.Exit{}, err
		}
		<-ctx.Done()
		ended <- ctx.Err()
		return agent.Exit{}, context.Cause(ctx)
	})
	ctx, leave := context.WithCancel(t.Context())
	s, err := w.client(w.user).Sandboxes.Exec(ctx, connect.NewRequest(&lehrv1.ExecRequest{Id: w.sandbox(), Cmd: []string{"x"}}))
	if err != nil {
		t.Fatal(err)
	}
	if !s.Receive() {
		t.Fatal(s.Err())
	}
	leave()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the command's context ended with %v", err)
	}
	_ = s.Close()
}

func TestFilesOverREST(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	files := "/v1/sandboxes/" + w.sandbox() + "/files"
	content := strings.Repeat("large \x00\xff ", 1<<20)
	if a := w.call("PUT", files+"?path=/a/b", content); a.status != 204 || len(a.body) != 0 {
		t.Errorf("PUT = %d %s, want 204", a.status, a.body)
	}
	if a := w.call("GET", files+"?path=/a/b", ""); a.status != 200 || string(a.body) != content {
		t.Errorf("GET = %d and %d bytes, want 200 and the %d that were written", a.status, len(a.body), len(content))
	}
	w.call("PUT", files+"?path=/empty", "").ok(204, nil)
	if a := w.call("GET", files+"?path=/empty", ""); a.status != 200 || len(a.body) != 0 {
		t.Errorf("GET of an empty file = %d %q, want 200 and nothing", a.status, a.body)
	}
	w.call("GET", files+"?path=/none", "").fails(404, "not_found")
	w.call("GET", files, "").fails(400, "invalid")
	w.call("PUT", files, "x").fails(400, "invalid")
	w.call("GET", files+"?path=/a&mode=5", "").fails(400, "parameter_unknown")
	w.call("PUT", files+"?path=/a&mode=5", "").fails(400, "parameter_unknown")
	w.call("GET", "/v1/sandboxes/odd/files?path=/a", "").fails(400, "id_invalid")
}

func TestFilesOverConnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	c, id := w.client(w.user), w.sandbox()
	up := c.Sandboxes.WriteFile(t.Context())
	for _, m := range []*lehrv1.WriteFileRequest{{Id: id, Path: "/f", Data: []byte("one ")}, {}, {Data: []byte("two")}} {
		if err := up.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := up.CloseAndReceive(); err != nil {
		t.Fatal(err)
	}
	down, err := c.Sandboxes.ReadFile(t.Context(), connect.NewRequest(&lehrv1.ReadFileRequest{Id: id, Path: "/f"}))
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for down.Receive() {
		got = append(got, down.Msg().GetData()...)
	}
	if down.Err() != nil || string(got) != "one two" {
		t.Errorf("ReadFile = %q, %v, want what was written", got, down.Err())
	}
	if _, err := c.Sandboxes.WriteFile(t.Context()).CloseAndReceive(); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an empty stream = %v, want invalid_argument", err)
	}
}

// uploads is a host that tells when an upload begins and with which error it
// ends.
type uploads struct {
	*agenttest.Host
	begun chan struct{}
	ended chan error
}

func (u uploads) take(r io.Reader) error {
	_, err := io.CopyN(io.Discard, r, 4)
	u.begun <- struct{}{}
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	u.ended <- err
	return err
}

func (u uploads) WriteFile(_ context.Context, _ agent.File, r io.Reader) error {
	return u.take(r)
}

func (u uploads) ImportImage(_ context.Context, _ agent.ImportKind, r io.Reader) (agent.Image, error) {
	return agent.Image{}, u.take(r)
}

// An upload that breaks must not leave half a file or image that looks whole.
func TestBrokenUpload(t *testing.T) {
	t.Parallel()
	host := uploads{Host: agenttest.NewHost(), begun: make(chan struct{}), ended: make(chan error)}
	w := newWorldOn(t, host)
	id := w.sandbox()
	rest := func(method, path string) func(cut <-chan struct{}) {
		r, half := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), method, w.url+path, r)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", w.user)
		return func(cut <-chan struct{}) {
			go func() {
				_, _ = half.Write([]byte("half"))
				<-cut
				_ = half.CloseWithError(errors.New("gone"))
			}()
			if res, err := http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
				t.Errorf("%s %s = %d, want the request's own error", method, path, res.StatusCode)
			}
		}
	}
	for name, send := range map[string]func(cut <-chan struct{}){
		"file over REST":  rest("PUT", "/v1/sandboxes/"+id+"/files?path=/f"),
		"image over REST": rest("POST", "/v1/templates/import?kind=tar"),
		"file over Connect": func(cut <-chan struct{}) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if err := w.client(w.user).Sandboxes.WriteFile(ctx).Send(&lehrv1.WriteFileRequest{Id: id, Path: "/f", Data: []byte("half")}); err != nil {
				t.Error(err)
			}
			<-cut
		},
	} {
		cut := make(chan struct{})
		go send(cut)
		<-host.begun
		close(cut)
		if err := <-host.ended; errs.CodeOf(err) != "upload_broken" {
			t.Errorf("%s ended with %v, want upload_broken", name, err)
		}
	}
}

func TestSandboxes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.sandbox()
	var s object
	w.call("GET", "/v1/sandboxes/"+id, "").ok(200, &s)
	if s["state"] != "running" || s["expires_at"] != nil || s["url"] != nil {
		t.Errorf("sandbox = %v, want running without an end", s)
	}
	w.call("POST", "/v1/sandboxes", `{"template":"minimal","timeout":"1h"}`).ok(201, &s)
	if s["expires_at"] == nil {
		t.Errorf("sandbox with a timeout = %v, want expires_at", s)
	}
	var page struct {
		Sandboxes  []object
		NextCursor *string `json:"next_cursor"`
	}
	w.call("GET", "/v1/sandboxes?limit=1", "").ok(200, &page)
	if len(page.Sandboxes) != 1 || page.NextCursor == nil {
		t.Fatalf("first page = %+v, want one and a cursor", page)
	}
	w.call("GET", "/v1/sandboxes?limit=1&cursor="+*page.NextCursor, "").ok(200, &page)
	if len(page.Sandboxes) != 1 || page.Sandboxes[0]["id"] != id || page.NextCursor != nil {
		t.Errorf("second page = %+v, want %s and no cursor", page, id)
	}
	for range 2 { // killing twice is no error
		if w.call("DELETE", "/v1/sandboxes/"+id, "").ok(200, &s); s["state"] != "killed" || s["reason"] != "user" {
			t.Errorf("killed sandbox = %v, want killed by user", s)
		}
	}
	w.call("POST", "/v1/sandboxes/"+id+"/exec", `{"cmd":["x"]}`).fails(409, "sandbox_ended")
	if a := w.call("GET", "/v1/sandboxes", ""); strings.Contains(string(a.body), id) {
		t.Errorf("live sandboxes = %s, want %s not in it", a.body, id)
	}
	if a := w.call("GET", "/v1/sandboxes?all=true", ""); !strings.Contains(string(a.body), id) {
		t.Errorf("all sandboxes = %s, want %s in it", a.body, id)
	}
	w.call("POST", "/v1/sandboxes", `{"template":"missing"}`).fails(404, "template_not_found")
	w.call("POST", "/v1/sandboxes", `{"template":"minimal","timeout":"x"}`).fails(400, "duration_invalid")
	w.call("POST", "/v1/sandboxes", `{"template":"minimal","memory_mb":1}`).fails(400, "size_invalid")
	w.call("GET", "/v1/sandboxes?cursor=x", "").fails(400, "cursor_invalid")
	w.call("GET", "/v1/sandboxes/"+unknownSandbox, "").fails(404, "sandbox_not_found")
	w.call("DELETE", "/v1/sandboxes/"+unknownSandbox, "").fails(404, "sandbox_not_found")
}
