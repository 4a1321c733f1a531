package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/sdk"
)

func (a *app) sandboxCommand() *cobra.Command {
	return group("sandbox", "Create, list, use and kill sandboxes",
		a.sandboxCreate(), a.sandboxList(), a.sandboxGet(), a.sandboxExec(), a.sandboxShell(), a.sandboxCopy(), a.sandboxURL(), a.sandboxTimeout(), a.sandboxKill())
}

// createFlags are the flags of everything that creates a sandbox.
type createFlags struct {
	cpus, memory, disk int32
	env, metadata      []string
	ttl                time.Duration
}

func (f *createFlags) register(fs *pflag.FlagSet) {
	fs.Int32Var(&f.cpus, "cpus", 0, "virtual processors (default: the template's)")
	fs.Int32Var(&f.memory, "memory", 0, "memory in MiB (default: the template's)")
	fs.Int32Var(&f.disk, "disk", 0, "disk in MiB (default: the template's)")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "environment as KEY=VALUE; may be repeated")
	fs.StringArrayVar(&f.metadata, "metadata", nil, "a note to find it by, as KEY=VALUE; may be repeated")
}

func (f *createFlags) request(fs *pflag.FlagSet, template string) (*lehrv1.CreateSandboxRequest, error) {
	env, err := pairs("env", f.env)
	if err != nil {
		return nil, err
	}
	metadata, err := pairs("metadata", f.metadata)
	if err != nil {
		return nil, err
	}
	if f.ttl < 0 {
		return nil, usage("--ttl %s: want 0 or more", f.ttl)
	}
	req := &lehrv1.CreateSandboxRequest{Template: template, Env: env, Metadata: metadata}
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
		Example: "  lehr sandbox create web --ttl 1h\n  lehr sandbox create web --memory 1024 --metadata job=42 -e MODE=test\n  id=$(lehr sandbox create web -q)",
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
				return a.meantTemplate(cmd.Context(), c, args[0], err)
			}
			return a.printSandbox(res.Msg)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().DurationVar(&f.ttl, "ttl", 0, "end the sandbox after this time (default: never)")
	return cmd
}

func (a *app) printSandbox(s *lehrv1.Sandbox) error {
	rows := [][2]string{
		{"id", s.GetId()},
		{"template", s.GetTemplate()},
		{"state", stateText(s)},
		{"vcpus", fmt.Sprint(s.GetVcpus())},
		{"memory", fmt.Sprintf("%d MiB", s.GetMemoryMb())},
		{"disk", fmt.Sprintf("%d MiB", s.GetDiskMb())},
		{"created", stamp(s.GetCreatedAt())},
		{"expires", stamp(s.GetExpiresAt())},
		{"host", dash(s.GetHostId())},
	}
	if s.Url != nil {
		rows = append(rows, [2]string{"url", s.GetUrl()})
	}
	if len(s.GetMetadata()) > 0 {
		rows = append(rows, [2]string{"metadata", joinPairs(s.GetMetadata())})
	}
	return a.printOne(s, rows)
}

// joinPairs prints metadata or labels in one line.
func joinPairs(m map[string]string) string {
	list := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k+"="+m[k])
	}
	return strings.Join(list, " ")
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
	var metadata []string
	cmd := &cobra.Command{
		Use: "ls", Short: "List live sandboxes, newest first", Args: noArgs,
		Example: "  lehr sandbox ls\n  lehr sandbox ls --all --state failed\n  lehr sandbox ls --template web --metadata job=42\n  lehr sandbox kill $(lehr sandbox ls -q --limit 0)",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if req.Metadata, err = pairs("metadata", metadata); err != nil {
				return err
			}
			return printAll(a, limit, listing[*lehrv1.Sandbox]{
				head: "ID TEMPLATE STATE CREATED EXPIRES", ids: one((*lehrv1.Sandbox).GetId),
				row: func(s *lehrv1.Sandbox) []string {
					return []string{s.GetId(), s.GetTemplate(), stateText(s), stamp(s.GetCreatedAt()), stamp(s.GetExpiresAt())}
				},
			}, sandboxPages(cmd.Context(), c, &req))
		},
	}
	cmd.Flags().BoolVar(&req.All, "all", false, "list those that ended in the last 24 hours too")
	cmd.Flags().StringVar(&req.State, "state", "", "only those in this state: creating, running, pausing, paused, resuming, killed or failed")
	cmd.Flags().StringVar(&req.Template, "template", "", "only those of this template, NAME or NAME:TAG")
	cmd.Flags().StringArrayVar(&metadata, "metadata", nil, "only those with this KEY=VALUE; may be repeated")
	limitFlag(cmd.Flags(), &limit)
	return cmd
}

func (a *app) sandboxGet() *cobra.Command {
	return &cobra.Command{
		Use: "get SANDBOX", Short: "Show one sandbox", Args: exactArgs("SANDBOX"),
		Long:    "Show one sandbox, by its id or the beginning of it. As JSON it includes the token that opens its guest daemon.",
		Example: "  lehr sandbox get sb…\n  lehr sandbox get sb… -o json | jq -r .state",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := a.sandbox(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return a.printSandbox(s)
		},
	}
}

func (a *app) sandboxTimeout() *cobra.Command {
	return &cobra.Command{
		Use: "timeout SANDBOX DURATION", Short: "Set how long a sandbox lives, from now on", Args: exactArgs("SANDBOX", "DURATION"),
		Long:    "Set how long a sandbox lives, counted from now, in place of what was set before; 0 is for ever.",
		Example: "  lehr sandbox timeout sb… 30m\n  lehr sandbox timeout sb… 0",
		RunE: func(cmd *cobra.Command, args []string) error {
			if d, err := time.ParseDuration(args[1]); err != nil || d < 0 {
				return usage("%q is not a duration: write it like 90s, 10m or 1h30m; 0 is for ever", args[1])
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			id, err := a.sandboxID(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			res, err := c.Sandboxes.SetTimeout(cmd.Context(), connect.NewRequest(&lehrv1.SetSandboxTimeoutRequest{Id: id, Timeout: args[1]}))
			if err != nil {
				return err
			}
			return a.printSandbox(res.Msg)
		},
	}
}

func (a *app) sandboxKill() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "kill SANDBOX…", Short: "End sandboxes and everything of them", Args: atLeastOne("SANDBOX"),
		Long:    "End sandboxes and everything of them. On a terminal more than one is asked about first.",
		Example: "  lehr sandbox kill sb…\n  lehr sandbox kill --yes $(lehr sandbox ls -q --template web)",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if len(args) > 1 {
				if err := a.confirm(cmd.Context(), yes, "End %d sandboxes and everything in them?", len(args)); err != nil {
					return err
				}
			}
			return a.each(args, func(text string) (string, error) {
				id, err := a.sandboxID(cmd.Context(), c, text)
				if err != nil {
					return "", err
				}
				_, err = c.Sandboxes.Kill(cmd.Context(), connect.NewRequest(&lehrv1.KillSandboxRequest{Id: id}))
				return id, err
			}, "killed")
		},
	}
	yesFlag(cmd.Flags(), &yes)
	return cmd
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
	for _, arg := range append([]string{f.user, f.cwd}, cmd...) {
		if !utf8.ValidString(arg) {
			return nil, errs.New(errs.Invalid, "the argument %.100q is not UTF-8", arg).WithCode("not_utf8").
				WithRemedy("pass such bytes through standard input (-i) or a file")
		}
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
			if req.Id, err = a.sandboxID(cmd.Context(), c, args[0]); err != nil {
				return a.lehrFailed(err)
			}
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
