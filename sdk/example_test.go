package sdk_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/sdk"
)

// The address and key of a server come from wherever a program keeps them;
// here one is started in this process.
func ExampleNew() {
	server := startServer()
	defer server.Close()

	c, err := sdk.New(sdk.Options{URL: server.URL, Key: server.Key})
	if err != nil {
		fmt.Println(err)
		return
	}
	team, err := c.Teams.Get(context.Background(), connect.NewRequest(&lehrv1.GetTeamRequest{}))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the key is of team", team.Msg.GetName())
	// Output: the key is of team default
}

// Build a template from a recipe and show its log while it is made.
func ExampleClient_FollowBuild() {
	server := startServer()
	defer server.Close()
	ctx := context.Background()
	c, _ := sdk.New(sdk.Options{URL: server.URL, Key: server.Key})

	created, err := c.Builds.Create(ctx, connect.NewRequest(&lehrv1.CreateBuildRequest{
		Name:        "web:v1",
		Recipe:      []string{"FROM minimal", "ENV GREETING=hello", "RUN echo made by a recipe"},
		SkipPrePost: true,
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	build, err := c.FollowBuild(ctx, created.Msg.GetId(), sdk.Follow{
		Line: func(l *lehrv1.LogLine) error {
			if l.GetStream() != "system" {
				fmt.Printf("#%d %s: %s\n", l.GetStep(), l.GetStream(), l.GetText())
			}
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(build.GetStatus(), build.GetArtifact().GetType(), build.GetName()+":"+build.GetTag())
	// Output:
	// #2 stdout: made by a recipe
	// success base web:v1
}

// A build that fails is no error of the call: its error says whose fault it
// is, where, and what to do.
func ExampleClient_FollowBuild_failed() {
	server := startServer()
	defer server.Close()
	ctx := context.Background()
	c, _ := sdk.New(sdk.Options{URL: server.URL, Key: server.Key})

	created, err := c.Builds.Create(ctx, connect.NewRequest(&lehrv1.CreateBuildRequest{
		Name: "web", Recipe: []string{`RUN ["make", "all"]`}, SkipPrePost: true,
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	build, err := c.FollowBuild(ctx, created.Msg.GetId(), sdk.Follow{})
	if err != nil {
		fmt.Println(err)
		return
	}
	e := build.GetError()
	fmt.Println(build.GetStatus(), "by the", e.GetFault(), "in step", e.GetStep())
	fmt.Println(e.GetCode()+":", e.GetMessage())
	fmt.Println("try:", e.GetRemedy())
	// Output:
	// failed by the user in step 1
	// step_failed: recipe step 1 failed: make: *** No targets.
	// try: read the step's output in the build's log
}

// Create a sandbox, run a command in it and take its output as it comes.
func Example_exec() {
	server := startServer()
	defer server.Close()
	ctx := context.Background()
	c, _ := sdk.New(sdk.Options{URL: server.URL, Key: server.Key})

	box, err := c.Sandboxes.Create(ctx, connect.NewRequest(&lehrv1.CreateSandboxRequest{
		Template: "minimal",
		Timeout:  "10m", // it is killed then, if nobody does it before
		Metadata: map[string]string{"job": "42"},
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Sandboxes.Kill(ctx, connect.NewRequest(&lehrv1.KillSandboxRequest{Id: box.Msg.GetId()}))

	stream, err := c.Sandboxes.Exec(ctx, connect.NewRequest(&lehrv1.ExecRequest{
		Id: box.Msg.GetId(), Cmd: []string{"echo", "6 * 7 = 42"}, Timeout: "30s",
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	for stream.Receive() {
		switch e := stream.Msg().GetEvent().(type) {
		case *lehrv1.ExecResponse_Stdout:
			fmt.Printf("out: %s", e.Stdout)
		case *lehrv1.ExecResponse_Stderr:
			fmt.Printf("err: %s", e.Stderr)
		case *lehrv1.ExecResponse_Exit: // the last message
			fmt.Println("exit code", e.Exit.GetCode())
		}
	}
	if err := stream.Err(); err != nil { // the command could not be run, or the connection broke
		fmt.Println(err)
	}
	// Output:
	// out: 6 * 7 = 42
	// exit code 0
}

// Errors have a stable code, a message and a remedy.
func ExampleErrorDetail() {
	server := startServer()
	defer server.Close()
	c, _ := sdk.New(sdk.Options{URL: server.URL, Key: server.Key})

	_, err := c.Builds.Create(context.Background(), connect.NewRequest(&lehrv1.CreateBuildRequest{
		Name: "web", Recipe: []string{"RNU make"},
	}))
	if d := sdk.ErrorDetail(err); d != nil {
		fmt.Println(connect.CodeOf(err), d.GetCode())
		fmt.Println(d.GetMessage())
		fmt.Println("try:", d.GetRemedy())
	}
	// Output:
	// invalid_argument unknown_instruction
	// recipe: recipe line 1: unknown instruction "RNU"
	// try: did you mean RUN?
}

// A create with an idempotency key can be made again when its answer got lost:
// there is one build, however often it is asked for.
func Example_idempotency() {
	server := startServer()
	defer server.Close()
	ctx := context.Background()
	c, _ := sdk.New(sdk.Options{URL: server.URL, Key: server.Key})

	create := func(recipe string) (*connect.Response[lehrv1.Build], error) {
		return c.Builds.Create(ctx, connect.NewRequest(&lehrv1.CreateBuildRequest{
			Name: "web", Recipe: []string{recipe}, IdempotencyKey: "deploy-2026-05-04",
		}))
	}
	first, err := create("RUN true")
	if err != nil {
		fmt.Println(err)
		return
	}
	again, err := create("RUN true")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the same build:", first.Msg.GetId() == again.Msg.GetId())
	_, err = create("RUN something else")
	fmt.Println("another request with that key:", sdk.ErrorDetail(err).GetCode())
	// Output:
	// the same build: true
	// another request with that key: idempotency_mismatch
}

// Lists come in pages; All… walks through them and stops where the loop does.
func ExampleClient_AllSandboxes() {
	server := startServer()
	defer server.Close()
	ctx := context.Background()
	c, _ := sdk.New(sdk.Options{URL: server.URL, Key: server.Key})
	for n := range 5 {
		_, err := c.Sandboxes.Create(ctx, connect.NewRequest(&lehrv1.CreateSandboxRequest{
			Template: "minimal", Metadata: map[string]string{"even": fmt.Sprint(n%2 == 0)},
		}))
		if err != nil {
			fmt.Println(err)
			return
		}
	}

	count := 0
	for box, err := range c.AllSandboxes(ctx, &lehrv1.ListSandboxesRequest{
		Limit: 2, Metadata: map[string]string{"even": "true"},
	}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		count++
		fmt.Println(count, box.GetState())
	}
	// Output:
	// 1 running
	// 2 running
	// 3 running
}

// Write a file into a sandbox and read it back, through the API. The Files of a
// Guest do more, and need the gateway.
func Example_files() {
	server := startServer()
	defer server.Close()
	ctx := context.Background()
	c, _ := sdk.New(sdk.Options{URL: server.URL, Key: server.Key})
	box, err := c.Sandboxes.Create(ctx, connect.NewRequest(&lehrv1.CreateSandboxRequest{Template: "minimal"}))
	if err != nil {
		fmt.Println(err)
		return
	}
	id := box.Msg.GetId()

	up := c.Sandboxes.WriteFile(ctx)
	// The first message names the file; large ones go in several messages.
	err = up.Send(&lehrv1.WriteFileRequest{Id: id, Path: "/tmp/note", User: "root", Data: []byte("six times ")})
	if err == nil {
		err = up.Send(&lehrv1.WriteFileRequest{Data: []byte("seven\n")})
	}
	if _, closeErr := up.CloseAndReceive(); err != nil || closeErr != nil {
		fmt.Println(err, closeErr)
		return
	}

	down, err := c.Sandboxes.ReadFile(ctx, connect.NewRequest(&lehrv1.ReadFileRequest{Id: id, Path: "/tmp/note"}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer down.Close()
	for down.Receive() {
		fmt.Printf("%s", down.Msg().GetData())
	}
	if err := down.Err(); err != nil { // a file that was cut off never looks whole
		fmt.Println(err)
	}
	// Output: six times seven
}

// Wait for a server in a sandbox and talk to it through the gateway.
func ExampleClient_Port() {
	server := startServer()
	defer server.Close()
	ctx := context.Background()
	c, _ := sdk.New(sdk.Options{URL: server.URL, Key: server.Key})
	box, err := c.Sandboxes.Create(ctx, connect.NewRequest(&lehrv1.CreateSandboxRequest{Template: "minimal"}))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(strings.ReplaceAll(sdk.PortURL(box.Msg, 8000), box.Msg.GetId(), "<id>"))

	inside := c.Port(box.Msg, 8000)
	for {
		res, err := inside.Get("http://sandbox/index.html")
		if err != nil {
			fmt.Println(err)
			return
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			fmt.Println(err)
			return
		}
		if res.Header.Get("X-Lehr-Error-Code") == "port_closed" { // nothing listens yet
			time.Sleep(10 * time.Millisecond)
			continue
		}
		fmt.Printf("%d %s", res.StatusCode, body)
		break
	}
	// Output:
	// http://8000-<id>.localhost:5347
	// 200 hello from /index.html
}

// A Guest works inside one sandbox with terminals, processes and files, as long
// as the server has a gateway. This example is compiled, not run: it needs a
// real sandbox.
func ExampleClient_Guest() {
	ctx := context.Background()
	c, err := sdk.New(sdk.Options{URL: os.Getenv("LEHR_URL"), Key: os.Getenv("LEHR_API_KEY")})
	if err != nil {
		fmt.Println(err)
		return
	}
	box, err := c.Sandboxes.Create(ctx, connect.NewRequest(&lehrv1.CreateSandboxRequest{Template: "minimal", Timeout: "10m"}))
	if err != nil {
		fmt.Println(err)
		return
	}
	inside := c.Guest(box.Msg)
	if err := inside.Files.Write(ctx, "/tmp/numbers", strings.NewReader("3\n1\n2\n")); err != nil {
		fmt.Println(err)
		return
	}
	stdout, _, exit, err := inside.Processes.Output(ctx, sdk.Command{Args: []string{"sort", "/tmp/numbers"}}, 1<<20)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s exit code %d\n", stdout, exit.Code)
}
