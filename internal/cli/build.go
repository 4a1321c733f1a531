package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/recipe"
	"github.com/lehr-dev/lehr/sdk"
)

// maxRecipe bounds a recipe file, in bytes.
const maxRecipe = 1 << 20

// buildFlags are the flags of `lehr build`.
type buildFlags struct {
	tag, file, base, healthcheck string
	cpus, memory, disk           int32
	noCache, skipPrePost, detach bool
	args, secrets                []string
}

func (a *app) buildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use: "build -t NAME[:TAG] [flags]", Short: "Turn a recipe into a template",
		Long: "Turn a recipe into a template and show what happens, live.\n" +
			"The first Ctrl-C cancels the build, a second one leaves it to itself.",
		Example: `  lehr build -t web                         # reads Recipe, else Dockerfile
  lehr build -t web:v2 -f web.recipe --memory 1024
  lehr build -t mine --base dir:./rootfs -f - <<< 'RUN make install'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("a build context (%s) is not supported yet; recipes cannot COPY", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return a.build(cmd, &f) },
	}
	fs := cmd.Flags()
	fs.StringVarP(&f.tag, "tag", "t", "", "template to build, NAME or NAME:TAG (required)")
	fs.StringVarP(&f.file, "file", "f", "", "recipe file, - for standard input (default: Recipe, then Dockerfile)")
	fs.StringVar(&f.base, "base", "", "base: a template, or dir:PATH, tar:PATH, oci:PATH (default: FROM, else minimal)")
	fs.StringVar(&f.healthcheck, "healthcheck", "", "healthcheck, in place of the recipe's")
	fs.Int32Var(&f.cpus, "cpus", 1, "virtual processors")
	fs.Int32Var(&f.memory, "memory", 512, "memory in MiB")
	fs.Int32Var(&f.disk, "disk", 5120, "disk in MiB")
	fs.BoolVar(&f.noCache, "no-cache", false, "run every step again")
	fs.StringArrayVar(&f.args, "build-arg", nil, "value of an ARG as KEY=VALUE; may be repeated")
	fs.StringArrayVar(&f.secrets, "secret", nil, "not supported yet")
	fs.BoolVar(&f.skipPrePost, "skip-pre-post", false, "leave out the pre- and post-build steps")
	fs.BoolVar(&f.detach, "detach", false, "print the created build and do not wait for it")
	return cmd
}

func (a *app) build(cmd *cobra.Command, f *buildFlags) error {
	switch {
	case f.tag == "":
		return usage("a build needs a name: -t NAME[:TAG]")
	case len(f.secrets) > 0:
		return usage("--secret is not supported yet")
	}
	req, err := a.buildRequest(cmd, f)
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if req.BaseTemplate, err = a.uploadBase(cmd.Context(), c, f.base); err != nil {
		return err
	}
	res, err := c.Builds.Create(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return err
	}
	if f.detach {
		return a.printBuild(res.Msg)
	}
	return a.watchBuild(cmd.Context(), c, res.Msg)
}

func (a *app) buildRequest(cmd *cobra.Command, f *buildFlags) (*lehrv1.CreateBuildRequest, error) {
	args, err := pairs("build-arg", f.args)
	if err != nil {
		return nil, err
	}
	text, err := a.readRecipe(f.file)
	if err != nil {
		return nil, err
	}
	// Read here too, because only here the lines of the file are known.
	if _, err := recipe.ParseFile(text); err != nil {
		return nil, err
	}
	elements, err := recipe.Split(text)
	if err != nil {
		return nil, err
	}
	req := &lehrv1.CreateBuildRequest{
		Name: f.tag, Recipe: elements.Texts(), Healthcheck: f.healthcheck, SkipPrePost: f.skipPrePost, NoCache: f.noCache, BuildArgs: args,
	}
	if cmd.Flags().Changed("cpus") {
		req.Vcpus = &f.cpus
	}
	if cmd.Flags().Changed("memory") {
		req.MemoryMb = &f.memory
	}
	if cmd.Flags().Changed("disk") {
		req.DiskMb = &f.disk
	}
	return req, nil
}

// readRecipe reads the named file, standard input for "-", or the first of
// Recipe and Dockerfile in the current folder.
func (a *app) readRecipe(name string) (string, error) {
	if name == "-" {
		return readBounded(a.env.Stdin, "standard input")
	}
	names := []string{name}
	if name == "" {
		names = []string{"Recipe", "Dockerfile"}
	}
	for _, n := range names {
		f, err := os.Open(filepath.Clean(n))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", errs.New(errs.Invalid, "the recipe cannot be read: %v", err)
		}
		defer f.Close()
		return readBounded(f, n)
	}
	if name != "" {
		return "", usage("there is no recipe file %s", name)
	}
	return "", usage("there is no Recipe or Dockerfile in this folder; name one with -f")
}

func readBounded(r io.Reader, name string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxRecipe+1))
	if err != nil {
		return "", errs.New(errs.Invalid, "%s cannot be read: %v", name, err)
	}
	if len(b) > maxRecipe {
		return "", errs.New(errs.Invalid, "%s is larger than 1 MiB", name).WithCode("recipe_too_large")
	}
	return string(b), nil
}

// watchBuild shows a build until it has ended and returns its exit code.
func (a *app) watchBuild(ctx context.Context, c *sdk.Client, b *lehrv1.Build) error {
	fmt.Fprintf(a.env.Stderr, "build %s of %s:%s, %d steps\n", b.GetId(), b.GetName(), b.GetTag(), b.GetTotalSteps())
	watch, stop := context.WithCancel(ctx)
	defer stop()
	i := &buildInterrupts{app: a, client: c, id: b.GetId(), detach: stop}
	defer i.wait()
	onInterrupt := i.interrupted
	a.onInterrupt.Store(&onInterrupt)
	defer a.onInterrupt.Store(nil)

	p := &plainLog{out: a.env.Stderr}
	err := a.followLogs(watch, c, &lehrv1.BuildLogsRequest{Id: b.GetId(), Follow: true}, p.line)
	if watch.Err() != nil {
		fmt.Fprintf(a.env.Stderr, "detached; follow it with: lehr builds logs -f %s\n", b.GetId())
		return exitCode(ExitCancelled)
	}
	if err != nil {
		return err
	}
	res, err := c.Builds.Get(ctx, connect.NewRequest(&lehrv1.GetBuildRequest{Id: b.GetId()}))
	if err != nil {
		return err
	}
	return a.finishBuild(res.Msg)
}

// finishBuild says how a build ended; the object goes to stdout as JSON.
func (a *app) finishBuild(b *lehrv1.Build) error {
	if a.json() {
		if err := a.printOne(b, nil); err != nil {
			return err
		}
	}
	switch b.GetStatus() {
	case "success":
		art := b.GetArtifact()
		fmt.Fprintf(a.env.Stderr, "built %s:%s, a %s template of %s (%s)\n  try: lehr run %s:%s -- true\n",
			b.GetName(), b.GetTag(), art.GetType(), mebibytes(art.GetSizeBytes()), art.GetVersion(), b.GetName(), b.GetTag())
		return nil
	case "cancelled":
		fmt.Fprintf(a.env.Stderr, "cancelled %s\n", b.GetId())
		return exitCode(ExitCancelled)
	}
	e := b.GetError()
	fmt.Fprintf(a.env.Stderr, "lehr: %s [%s]\n", clean(e.GetMessage()), e.GetCode())
	if e.GetRemedy() != "" {
		fmt.Fprintf(a.env.Stderr, "  try: %s\n", e.GetRemedy())
	}
	fmt.Fprintf(a.env.Stderr, "  log: lehr builds logs %s\n", b.GetId())
	if e.GetFault() == "platform" {
		return exitCode(ExitPlatform)
	}
	return exitCode(ExitRefused)
}

// buildInterrupts makes the first interrupt cancel the build and, on a
// terminal, the second one detach from it.
type buildInterrupts struct {
	app    *app
	client *sdk.Client
	id     string
	detach context.CancelFunc

	mu    sync.Mutex
	count int
	done  sync.WaitGroup
}

func (i *buildInterrupts) interrupted() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.count++
	switch {
	case i.count == 1:
		fmt.Fprintln(i.app.env.Stderr, "cancelling the build; press Ctrl-C again to leave it to itself")
		i.done.Go(i.cancel)
	case i.app.onTerminal():
		i.detach()
	}
}

// cancel asks the server; the log's end then ends the command.
func (i *buildInterrupts) cancel() {
	ctx, done := context.WithTimeout(context.Background(), killTime)
	defer done()
	_, err := i.client.Builds.Cancel(ctx, connect.NewRequest(&lehrv1.CancelBuildRequest{Id: i.id}))
	if err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition {
		i.app.printError(err)
	}
}

func (i *buildInterrupts) wait() { i.done.Wait() }

// onTerminal reports whether a person watches stderr.
func (a *app) onTerminal() bool {
	f, ok := a.env.Stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
