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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/program"
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
	ExitPipe      = 141 // whoever read our output is gone; as a shell says it of SIGPIPE
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
	a := &app{env: env, terminal: isTerminal(env.Stderr)}
	if a.terminal {
		a.size = sizeOf(env.Stderr)
	}
	a.stdout = env.Stdout
	a.env.Stdout, a.env.Stderr = pipe{env.Stdout}, pipe{env.Stderr}
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	listening.Go(func() { a.interrupts(ctx, cancel) })
	defer listening.Wait()
	defer cancel()
	root := a.root()
	root.SetArgs(append([]string{}, env.Args...)) // nil would be os.Args
	root.SetIn(env.Stdin)
	root.SetOut(a.env.Stdout)
	root.SetErr(a.env.Stderr)
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
	manners
	env      Env
	output   string                     // "table" or "json"
	terminal bool                       // a person watches stderr
	size     func() (width, height int) // of that terminal, nil where there is none

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

// pipe is an output whose reader may go away, as in `lehr builds ls | head -1`:
// that ends the command quietly.
type pipe struct{ io.Writer }

func (p pipe) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = exitCode(ExitPipe)
	}
	return n, err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// sizeOf asks a terminal for its size; 0 where it does not say.
func sizeOf(w io.Writer) func() (width, height int) {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	return func() (width, height int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0, 0
		}
		return width, height
	}
}

// usageError marks a wrong command line.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// codeOf maps an error to the exit code of ordinary commands.
func codeOf(err error) int {
	var u usageError
	if errors.As(err, &u) {
		return ExitUsage
	}
	if cancelled(err) {
		return ExitCancelled
	}
	var ce *connect.Error
	if errors.As(err, &ce) {
		return codeOfConnect(ce.Code())
	}
	switch errs.KindOf(err) {
	case errs.Invalid, errs.NotFound, errs.Exists, errs.Conflict, errs.Unsupported, errs.PermissionDenied, errs.Unauthenticated, errs.Exhausted:
		return ExitRefused
	}
	return ExitPlatform
}

// cancelled reports whether an interrupt ended it, not a failure.
func cancelled(err error) bool {
	return errors.Is(err, context.Canceled) || connect.CodeOf(err) == connect.CodeCanceled || errs.IsKind(err, errs.Cancelled)
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
	a.printFailure(message, code, remedy)
}

// printFailure takes texts that may quote a sandbox.
func (a *app) printFailure(message, code, remedy string) {
	text := "lehr: " + strings.Join(cleanLines(message), "\n  ")
	if code != "" {
		text += " [" + clean(code) + "]"
	}
	fmt.Fprintln(a.env.Stderr, text)
	if remedy != "" {
		fmt.Fprintf(a.env.Stderr, "  try: %s\n", clean(remedy))
	}
}

func describe(err error) (message, code, remedy string) {
	if d := sdk.ErrorDetail(err); d != nil {
		return d.GetMessage(), d.GetCode(), d.GetRemedy()
	}
	if cancelled(err) {
		return "cancelled", "", ""
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
		Long: `Turn a recipe into a template and start sandboxes from it in milliseconds.

Commands talk to the lehr up of the same user, or to the server that LEHR_URL and LEHR_API_KEY name.
They print data on stdout and everything else on stderr.

Exit codes: 0 done, 1 your build failed or the request was refused, 2 wrong command line, 3 a fault of the platform,
130 cancelled. run and exec return the command's own code; 124 is its time limit, 125 a failure of Lehr.`,
		Version: program.Version(),
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
	a.manners.flags(root.PersistentFlags())
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = true
	root.Flags().Bool("version", false, "print the version") // without -v, which is for verbose
	root.SetVersionTemplate("lehr {{.Version}}\n")
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), helpText(cmd)) })
	root.SetUsageFunc(func(cmd *cobra.Command) error { _, err := fmt.Fprint(cmd.OutOrStderr(), helpText(cmd)); return err })
	root.AddCommand(
		a.upCommand(), a.agentCommand(), a.buildCommand(), a.buildsCommand(), a.templatesCommand(),
		a.runCommand(), a.sandboxCommand(), a.keysCommand(), a.teamsCommand(), a.doctorCommand(), a.completionCommand(), a.versionCommand(),
	)
	a.complete(root)
	return root
}

// group returns a command that only has subcommands; a word that is none of
// them is a usage error.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	c.AddCommand(subs...)
	return c
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return nil
}

func unknownCommand(cmd *cobra.Command, word string) error {
	if !cmd.HasAvailableSubCommands() {
		return usage("%s takes no argument %q", cmd.CommandPath(), word)
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		return usage("unknown command %q for %q; did you mean %s?", word, cmd.CommandPath(), strings.Join(slices.Sorted(slices.Values(near)), " or "))
	}
	return usage("unknown command %q for %q", word, cmd.CommandPath())
}

func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usage("%s wants %s", cmd.CommandPath(), strings.Join(names, " "))
		}
		return nil
	}
}
