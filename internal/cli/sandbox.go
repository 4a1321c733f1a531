package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/sdk"
)

func (a *app) sandboxCommand() *cobra.Command {
	return group("sandbox", "Create, list, use and kill sandboxes",
		a.sandboxCreate(), a.sandboxList(), a.sandboxGet(), a.sandboxExec(), a.sandboxKill())
}

// createFlags are the flags of everything that creates a sandbox.
type createFlags struct {
	cpus, memory, disk int32
	env                []string
	ttl                time.Duration
}

func (f *createFlags) register(fs *pflag.FlagSet) {
	fs.Int32Var(&f.cpus, "cpus", 0, "virtual processors (default: the template's)")
	fs.Int32Var(&f.memory, "memory", 0, "memory in MiB (default: the template's)")
	fs.Int32Var(&f.disk, "disk", 0, "disk in MiB (default: the template's)")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "environment as KEY=VALUE; may be repeated")
}

func (f *createFlags) request(fs *pflag.FlagSet, template string) (*lehrv1.CreateSandboxRequest, error) {
	env, err := pairs("env", f.env)
	if err != nil {
		return nil, err
	}
	req := &lehrv1.CreateSandboxRequest{Template: template, Env: env}
	if fs.Changed("cpus") {
		req.Vcpus = &f.cpus
	}
	if fs.Changed("memory") {
		req.MemoryMb = &f.memory
	}
	if fs.Changed("disk") {
		req.DiskMb = &f.disk
	}
	if fs.Changed("ttl") {
		req.Timeout = f.ttl.String()
	}
	return req, nil
}

// pairs reads KEY=VALUE flags.
func pairs(flag string, list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usage("--%s %q: want KEY=VALUE", flag, kv)
		}
		m[k] = v
	}
	return m, nil
}

func (a *app) sandboxCreate() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use: "create TEMPLATE", Short: "Start a sandbox that stays until it is killed", Args: exactArgs("TEMPLATE"),
		Example: "  lehr sandbox create web --ttl 1h\n  id=$(lehr sandbox create web -o json | jq -r .id)",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			req, err := f.request(cmd.Flags(), args[0])
			if err != nil {
				return err
			}
			res, err := c.Sandboxes.Create(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return a.printSandbox(res.Msg)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().DurationVar(&f.ttl, "ttl", 0, "end the sandbox after this time (default: never)")
	return cmd
}

func (a *app) printSandbox(s *lehrv1.Sandbox) error {
	return a.printOne(s, [][2]string{
		{"id", s.GetId()},
		{"template", s.GetTemplate()},
		{"state", stateText(s)},
		{"vcpus", fmt.Sprint(s.GetVcpus())},
		{"memory", fmt.Sprintf("%d MiB", s.GetMemoryMb())},
		{"disk", fmt.Sprintf("%d MiB", s.GetDiskMb())},
		{"created", stamp(s.GetCreatedAt())},
		{"expires", stamp(s.GetExpiresAt())},
		{"host", dash(s.GetHostId())},
	})
}

func stateText(s *lehrv1.Sandbox) string {
	if s.GetReason() != "" {
		return s.GetState() + " (" + s.GetReason() + ")"
	}
	return s.GetState()
}

func (a *app) sandboxList() *cobra.Command {
	var req lehrv1.ListSandboxesRequest
	var limit int
	cmd := &cobra.Command{
		Use: "ls", Short: "List live sandboxes, newest first", Args: noArgs,
		Example: "  lehr sandbox ls\n  lehr sandbox kill $(lehr sandbox ls -o json | jq -r '.[].id')",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := pages(limit, func(limit int32, cursor string) ([]*lehrv1.Sandbox, string, error) {
				req.Limit, req.Cursor = limit, cursor
				res, err := c.Sandboxes.List(cmd.Context(), connect.NewRequest(&req))
				if err != nil {
					return nil, "", err
				}
				return res.Msg.GetSandboxes(), res.Msg.GetNextCursor(), nil
			})
			if err != nil {
				return err
			}
			return printList(a, list, "ID TEMPLATE STATE CREATED EXPIRES", func(s *lehrv1.Sandbox) []string {
				return []string{s.GetId(), s.GetTemplate(), stateText(s), stamp(s.GetCreatedAt()), stamp(s.GetExpiresAt())}
			})
		},
	}
	cmd.Flags().BoolVar(&req.All, "all", false, "list those that ended in the last 24 hours too")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most; 0 for all")
	return cmd
}

func (a *app) sandboxGet() *cobra.Command {
	return &cobra.Command{
		Use: "get SANDBOX", Short: "Show one sandbox", Args: exactArgs("SANDBOX"),
		Example: "  lehr sandbox get sb…",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			res, err := c.Sandboxes.Get(cmd.Context(), connect.NewRequest(&lehrv1.GetSandboxRequest{Id: args[0]}))
			if err != nil {
				return err
			}
			return a.printSandbox(res.Msg)
		},
	}
}

func (a *app) sandboxKill() *cobra.Command {
	return &cobra.Command{
		Use: "kill SANDBOX…", Short: "End sandboxes and everything of them", Args: atLeastOne("SANDBOX"),
		Example: "  lehr sandbox kill sb…",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.each(args, func(id string) error {
				_, err := c.Sandboxes.Kill(cmd.Context(), connect.NewRequest(&lehrv1.KillSandboxRequest{Id: id}))
				return err
			}, "killed")
		},
	}
}

// execFlags are the flags of everything that runs a command.
type execFlags struct {
	user, cwd string
	timeout   time.Duration
	stdin     bool
}

func (f *execFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.user, "user", "", "user to run as (default: the template's)")
	fs.StringVar(&f.cwd, "cwd", "", "directory to run in (default: the template's)")
	fs.DurationVar(&f.timeout, "timeout", 0, "end the command after this time, with exit code 124 (default: never)")
	fs.BoolVarP(&f.stdin, "stdin", "i", false, "pass standard input on, at most 1 MiB")
}

func (a *app) execRequest(ctx context.Context, f *execFlags, id string, cmd []string) (*lehrv1.ExecRequest, error) {
	if f.timeout < 0 {
		return nil, usage("--timeout %s: want 0 or more", f.timeout)
	}
	req := &lehrv1.ExecRequest{Id: id, Cmd: cmd, User: f.user, Cwd: f.cwd}
	if f.timeout > 0 {
		req.Timeout = f.timeout.String()
	}
	if !f.stdin {
		return req, nil
	}
	const most = 1 << 20
	in, err := a.readStdin(ctx, most+1)
	if err != nil {
		return nil, err
	}
	if len(in) > most {
		return nil, errs.New(errs.Invalid, "standard input is larger than 1 MiB").WithCode("stdin_too_large").
			WithRemedy("write a file in the sandbox and redirect from it")
	}
	req.Stdin = in
	return req, nil
}

func (a *app) sandboxExec() *cobra.Command {
	var f execFlags
	var env []string
	cmd := &cobra.Command{
		Use: "exec SANDBOX [flags] -- CMD…", Short: "Run a command in a sandbox",
		Example: "  lehr sandbox exec sb… -- ls -l /\n  lehr sandbox exec sb… --user nobody -e A=1 -- sh -c 'id; echo $A'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage("lehr sandbox exec wants SANDBOX -- CMD…")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			vars, err := pairs("env", env)
			if err != nil {
				return err
			}
			req, err := a.execRequest(cmd.Context(), &f, args[0], args[1:])
			if err != nil {
				return a.lehrFailed(err)
			}
			c, err := a.client()
			if err != nil {
				return a.lehrFailed(err)
			}
			req.Env = vars
			return a.exec(cmd.Context(), c, req)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "environment as KEY=VALUE; may be repeated")
	return cmd
}

// exec runs a command, passes its output on and ends with its exit code.
func (a *app) exec(ctx context.Context, c *sdk.Client, req *lehrv1.ExecRequest) error {
	exit, err := a.stream(ctx, c, req)
	switch {
	case err != nil:
		return a.lehrFailed(err)
	case exit.GetTimedOut():
		fmt.Fprintf(a.env.Stderr, "lehr: the command reached its time limit of %s\n", req.GetTimeout())
		return exitCode(ExitTimeLimit)
	case exit.GetCode() != 0:
		return exitCode(exit.GetCode())
	}
	return nil
}

func (a *app) stream(ctx context.Context, c *sdk.Client, req *lehrv1.ExecRequest) (*lehrv1.ExecExit, error) {
	stream, err := c.Sandboxes.Exec(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	for stream.Receive() {
		switch e := stream.Msg().GetEvent().(type) {
		case *lehrv1.ExecResponse_Stdout:
			_, err = a.env.Stdout.Write(e.Stdout)
		case *lehrv1.ExecResponse_Stderr:
			_, err = a.env.Stderr.Write(e.Stderr)
		case *lehrv1.ExecResponse_Exit:
			return e.Exit, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the server ended the stream without an exit code")
}

// lehrFailed says why a command could not be run and picks the exit code that
// a shell would.
func (a *app) lehrFailed(err error) error {
	var code exitCode
	if errors.As(err, &code) || codeOf(err) == ExitCancelled || codeOf(err) == ExitUsage {
		return err
	}
	a.printError(err)
	switch sdk.ErrorDetail(err).GetCode() {
	case "command_not_found":
		return exitCode(127)
	case "command_not_executable":
		return exitCode(126)
	}
	return exitCode(ExitLehr)
}
