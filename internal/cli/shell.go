package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/sdk"
)

// shellFlags are the flags of `lehr sandbox shell`.
type shellFlags struct {
	user, cwd string
	env       []string
}

func (a *app) sandboxShell() *cobra.Command {
	var f shellFlags
	cmd := &cobra.Command{
		Use: "shell SANDBOX [flags] [-- CMD…]", Short: "Open a terminal in a sandbox",
		Long: "Open a terminal in a sandbox, with bash where the sandbox has it, else sh, or with CMD.\n" +
			"It ends with the exit code of the shell; 125 says that the connection was lost or that it could not be opened.\n" +
			"The shell ends with the connection. For scripts use lehr sandbox exec, which needs no terminal.",
		Example: "  lehr sandbox shell sb…\n  lehr sandbox shell sb… --user nobody --cwd /tmp -e PS1='> '\n  lehr sandbox shell sb… -- python3",
		Args:    atLeastOne("SANDBOX"),
		RunE: func(cmd *cobra.Command, args []string) error {
			vars, err := pairs("env", f.env)
			if err != nil {
				return err
			}
			in, out, err := a.screen()
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return a.lehrFailed(err)
			}
			box, err := a.sandbox(cmd.Context(), c, args[0])
			if err != nil {
				return a.lehrFailed(err)
			}
			s := &shell{app: a, in: in, out: out, guest: c.Guest(box).As(f.user), command: sdk.Command{Args: args[1:], Cwd: f.cwd, Env: vars}}
			return s.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&f.user, "user", "", "user to run as (default: the template's)")
	cmd.Flags().StringVar(&f.cwd, "cwd", "", "directory to begin in (default: the template's)")
	cmd.Flags().StringArrayVarP(&f.env, "env", "e", nil, "environment as KEY=VALUE; may be repeated")
	return cmd
}

// screen returns the terminal that the command was started on.
func (a *app) screen() (in, out *os.File, err error) {
	in, inOK := a.env.Stdin.(*os.File)
	out, outOK := a.stdout.(*os.File)
	if !inOK || !outOK || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		return nil, nil, usage("a shell needs a terminal on standard input and output; without one run commands with: lehr sandbox exec SANDBOX -- CMD…")
	}
	return in, out, nil
}

// sandbox finds a sandbox by its id or the beginning of it.
func (a *app) sandbox(ctx context.Context, c *sdk.Client, id string) (*lehrv1.Sandbox, error) {
	id, err := a.sandboxID(ctx, c, id)
	if err != nil {
		return nil, err
	}
	res, err := c.Sandboxes.Get(ctx, connect.NewRequest(&lehrv1.GetSandboxRequest{Id: id}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// shell is one terminal session.
type shell struct {
	app     *app
	in, out *os.File
	guest   *sdk.Guest
	command sdk.Command
}

// loginShells are tried in order where no command is given.
func loginShells() [][]string { return [][]string{{"/bin/bash", "-l"}, {"/bin/sh", "-l"}} }

func (s *shell) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := s.start(ctx)
	if err != nil {
		return s.app.lehrFailed(err)
	}
	defer p.Close()
	// Everything below may end in any way, also in a panic: the terminal is put
	// back first.
	restore, err := raw(s.in)
	if err != nil {
		return s.app.lehrFailed(err)
	}
	defer restore()
	go s.keyboard(ctx, p)
	var resizing sync.WaitGroup
	resizing.Go(func() { s.resize(ctx, p) })
	err = s.show(p)
	cancel()
	resizing.Wait()
	restore()
	switch {
	case errors.Is(err, io.EOF):
		if code := p.Exit().Code; code != 0 {
			return exitCode(code)
		}
		return nil
	case errors.Is(err, sdk.ErrLost):
		fmt.Fprintln(s.app.env.Stderr, "\nlehr: the connection to the sandbox was lost, and the shell with it\n  try: lehr sandbox get, which says whether the sandbox still runs")
		return exitCode(ExitLehr)
	}
	return s.app.lehrFailed(err)
}

// raw switches a terminal to raw mode; restore puts it back and may be called
// again.
func raw(f *os.File) (restore func(), err error) {
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(int(f.Fd()), before) }, nil // nobody could be told
}

// start starts the command, or the first shell that the sandbox has.
func (s *shell) start(ctx context.Context) (*sdk.Process, error) {
	size := s.size()
	s.command.Terminal = &size
	if _, given := s.command.Env["TERM"]; !given {
		s.command.Env["TERM"] = orElse(s.app.getenv("TERM"), "xterm")
	}
	if len(s.command.Args) > 0 {
		return s.guest.Processes.Start(ctx, s.command)
	}
	var p *sdk.Process
	var err error
	for _, args := range loginShells() {
		s.command.Args = args
		p, err = s.guest.Processes.Start(ctx, s.command)
		if sdk.ErrorDetail(err).GetCode() != "command_not_found" {
			return p, err
		}
	}
	return nil, usage("the sandbox has no /bin/bash and no /bin/sh; name a program of it after --")
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// show writes what the shell writes until it ends.
func (s *shell) show(p *sdk.Process) error {
	for {
		_, b, err := p.Next()
		if err != nil {
			return err
		}
		if _, err := s.out.Write(b); err != nil {
			return err
		}
	}
}

// keyboard sends the keyboard's input. A read of a terminal ends with the process
// only, so nothing waits for this goroutine; input that comes while a call is
// on its way goes with the next one.
func (s *shell) keyboard(ctx context.Context, p *sdk.Process) {
	buf := make([]byte, 32<<10)
	for {
		n, err := s.in.Read(buf)
		if n > 0 && p.Write(ctx, buf[:n]) != nil {
			return // the stream of the output says why
		}
		if err != nil {
			// The terminal is gone: so is whoever sat at it.
			p.Close()
			return
		}
	}
}

// resize passes changes of the terminal's size on until ctx ends.
func (s *shell) resize(ctx context.Context, p *sdk.Process) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	last := *s.command.Terminal
	for {
		// Looked at first: a change during the start sent no signal here.
		if now := s.size(); now != last && p.Resize(ctx, now) == nil {
			last = now
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (s *shell) size() sdk.Size {
	cols, rows, err := term.GetSize(int(s.out.Fd()))
	if err != nil || cols < 1 || rows < 1 {
		return sdk.Size{Cols: 80, Rows: 24}
	}
	return sdk.Size{Cols: uint16(min(cols, 1<<16-1)), Rows: uint16(min(rows, 1<<16-1))}
}

// shortly bounds a call about an end that the user waits for.
const shortly = 10 * time.Second
