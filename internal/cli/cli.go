// Package cli is the lehr command: it parses arguments, calls a server through
// the sdk and prints what came back. Data goes to stdout, everything else to
// stderr; exit codes are part of the contract, see the Exit constants.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/sdk"
)

// The exit codes of lehr. `run` and `exec` return the command's own code
// instead: 128 + signal, ExitTimeLimit, ExitLehr, or 126 and 127 as a shell.
const (
	ExitOK        = 0
	ExitRefused   = 1   // the user's build failed, or the request was refused
	ExitUsage     = 2   // the command line is wrong
	ExitPlatform  = 3   // a fault of the platform
	ExitTimeLimit = 124 // run, exec: the time limit ended the command
	ExitLehr      = 125 // run, exec: Lehr failed, not the command
	ExitCancelled = 130 // cancelled
)

// Env is the world of one command run.
type Env struct {
	Args      []string // without the program's name
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
	LookupEnv func(string) (string, bool)
	// Signals delivers interrupts; nil never does.
	Signals <-chan os.Signal
}

// Main runs one command line and returns its exit code.
func Main(ctx context.Context, env Env) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &app{env: env}
	go a.interrupts(ctx, cancel)
	root := a.root()
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	a.printError(err)
	return codeOf(err)
}

// app is shared by the commands of one run.
type app struct {
	env    Env
	output string // "table" or "json"

	// onInterrupt takes interrupts where the command wants them; nil ends the
	// command's context.
	onInterrupt atomic.Pointer[func()]
}

// interrupts deals with each interrupt until ctx ends.
func (a *app) interrupts(ctx context.Context, cancel context.CancelFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.env.Signals:
			if f := a.onInterrupt.Load(); f != nil {
				(*f)()
			} else {
				cancel()
			}
		}
	}
}

// exitCode is an error that only carries an exit code: everything was said.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usageError marks a wrong command line.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// codeOf maps an error to the exit code of ordinary commands.
func codeOf(err error) int {
	var u usageError
	if errors.As(err, &u) || strings.HasPrefix(err.Error(), "unknown command") {
		return ExitUsage
	}
	if errors.Is(err, context.Canceled) || connect.CodeOf(err) == connect.CodeCanceled {
		return ExitCancelled
	}
	var ce *connect.Error
	if errors.As(err, &ce) {
		return codeOfConnect(ce.Code())
	}
	switch errs.KindOf(err) {
	case errs.Invalid, errs.NotFound, errs.Exists, errs.Conflict, errs.Unsupported, errs.PermissionDenied, errs.Unauthenticated:
		return ExitRefused
	}
	return ExitPlatform
}

func codeOfConnect(c connect.Code) int {
	switch c {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodeFailedPrecondition,
		connect.CodeUnimplemented, connect.CodePermissionDenied, connect.CodeUnauthenticated, connect.CodeResourceExhausted:
		return ExitRefused
	}
	return ExitPlatform
}

// printError says what is wrong and what to do, on stderr.
func (a *app) printError(err error) {
	message, code, remedy := describe(err)
	fmt.Fprintf(a.env.Stderr, "lehr: %s", message)
	if code != "" {
		fmt.Fprintf(a.env.Stderr, " [%s]", code)
	}
	fmt.Fprintln(a.env.Stderr)
	if remedy != "" {
		fmt.Fprintf(a.env.Stderr, "  try: %s\n", remedy)
	}
}

func describe(err error) (message, code, remedy string) {
	if d := sdk.ErrorDetail(err); d != nil {
		return d.GetMessage(), d.GetCode(), d.GetRemedy()
	}
	var ce *connect.Error
	if errors.As(err, &ce) {
		if ce.Code() == connect.CodeUnavailable {
			return "the server does not answer: " + ce.Message(), "unavailable", "is `lehr up` running? set LEHR_URL if it listens elsewhere"
		}
		return ce.Message(), ce.Code().String(), ""
	}
	var u usageError
	if errors.As(err, &u) {
		return u.Error(), "", "see --help"
	}
	var e *errs.Error
	if errors.As(err, &e) {
		return e.Error(), errs.CodeOf(err), e.Remedy
	}
	return err.Error(), "", ""
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lehr",
		Short: "Turn a recipe into a template and start sandboxes from it in milliseconds",
		Example: `  lehr up                                   # start everything on this machine
  lehr build -t web -f Recipe               # recipe → template
  lehr run web -- python3 -c 'print(6*7)'   # a sandbox for one command
  lehr sandbox create web                   # a sandbox that stays`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "table or json")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "table" && a.output != "json" {
			return usage("--output %q: want table or json", a.output)
		}
		return nil
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		a.upCommand(), a.agentCommand(), a.buildCommand(), a.buildsCommand(), a.templatesCommand(),
		a.runCommand(), a.sandboxCommand(), a.keysCommand(), a.doctorCommand(), a.versionCommand(),
	)
	return root
}

// group returns a command that only has subcommands; a word that is none of
// them is a usage error.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("unknown command %q for %q", args[0], cmd.CommandPath())
			}
			return cmd.Help()
		},
	}
	c.AddCommand(subs...)
	return c
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("unknown command or argument %q for %q", args[0], cmd.CommandPath())
	}
	return nil
}

func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usage("%s wants %s", cmd.CommandPath(), strings.Join(names, " "))
		}
		return nil
	}
}
