package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/cli/progress"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// maxRecipe bounds a recipe file, in bytes.
const maxRecipe = 1 << 20

// buildFlags are the flags of `lehr build`.
type buildFlags struct {
	tag, file, base, healthcheck string
	cpus, memory, disk           int32
	noCache, skipPrePost, detach bool
	args, secrets                []string
	progress                     string
	login                        loginFlags
}

func (a *app) buildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use: "build -t NAME[:TAG] [flags]", Short: "Turn a recipe into a template",
		Long: "Turn a recipe into a template and show what happens, live.\n" +
			"The first Ctrl-C cancels the build; on a terminal a second one leaves it to itself.\n" +
			"With --output json the build is printed on stdout once it has ended, also when it failed.\n\n" +
			"Progress goes to stderr. tty is a live picture, plain one line \"#step seconds text\" for each line of output,\n" +
			"rawjson one JSON object a line for each event (build, step, log, note, error), quiet nothing but errors, with the\n" +
			"version on stdout. auto is tty on a terminal, and plain elsewhere, in CI and where TERM is dumb.",
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
	fs.StringVar(&f.base, "base", "", "base: a template, or an image, dir:PATH, tar:PATH, oci:PATH (default: FROM, else minimal)")
	fs.StringVar(&f.healthcheck, "healthcheck", "", "healthcheck, in place of the recipe's")
	fs.Int32Var(&f.cpus, "cpus", 1, "virtual processors")
	fs.Int32Var(&f.memory, "memory", 512, "memory in MiB")
	fs.Int32Var(&f.disk, "disk", 5120, "disk in MiB")
	fs.BoolVar(&f.noCache, "no-cache", false, "run every step again")
	fs.StringArrayVar(&f.args, "build-arg", nil, "value of an ARG as KEY=VALUE; may be repeated")
	fs.StringArrayVar(&f.secrets, "secret", nil, "not supported yet")
	fs.BoolVar(&f.skipPrePost, "skip-pre-post", false, "leave out the pre- and post-build steps")
	fs.BoolVar(&f.detach, "detach", false, "print the created build and do not wait for it")
	f.login.add(fs)
	a.progressFlag(fs, &f.progress, progress.Auto)
	completeProgress(cmd)
	_ = fs.MarkHidden("secret") // refused with a reason; the flag exists
	return cmd
}

func (a *app) build(cmd *cobra.Command, f *buildFlags) error {
	switch {
	case f.tag == "":
		return usage("a build needs a name: -t NAME[:TAG]")
	case len(f.secrets) > 0:
		return usage("--secret is not supported yet")
	}
	if a.quiet && !cmd.Flags().Changed("progress") {
		f.progress = string(progress.Quiet)
	}
	if err := f.login.check(f.file); err != nil {
		return err
	}
	mode, err := a.progressTerminal().Choose(f.progress)
	if err != nil {
		return usageError{err}
	}
	req, source, err := a.buildRequest(cmd, f)
	if err != nil {
		return err
	}
	if req.RegistryAuth, err = a.registryLogin(cmd.Context(), f, recipe.Recipe{Instructions: source.instructions}); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if req.BaseTemplate, err = a.uploadBase(cmd.Context(), c, f.base); err != nil {
		return err
	}
	if !f.detach {
		w := &watch{app: a, client: c, source: source, quiet: mode == progress.Quiet}
		w.display = a.display(mode, source, a.earlier(cmd.Context(), c, mode, req.GetName()), true)
		return w.buildAndWatch(cmd.Context(), req)
	}
	res, err := c.Builds.Create(cmd.Context(), connect.NewRequest(req))
	switch {
	case err != nil:
		w := &watch{app: a, source: source, display: a.display(progress.Plain, source, nil, false)}
		return w.refused(err)
	case mode == progress.Quiet && !a.json():
		_, err := fmt.Fprintln(a.env.Stdout, res.Msg.GetId())
		return err
	}
	return a.printBuild(res.Msg)
}

func (a *app) buildRequest(cmd *cobra.Command, f *buildFlags) (*lehrv1.CreateBuildRequest, recipeSource, error) {
	args, err := pairs("build-arg", f.args)
	if err != nil {
		return nil, recipeSource{}, err
	}
	name, text, err := a.readRecipe(cmd.Context(), f.file)
	if err != nil {
		return nil, recipeSource{}, err
	}
	// Read here too, because only here the lines of the file are known.
	parsed, err := recipe.ParseFile(text)
	if err != nil {
		return nil, recipeSource{}, err
	}
	elements, err := recipe.Split(text)
	if err != nil {
		return nil, recipeSource{}, err
	}
	source := newRecipeSource(name, text, parsed, elements)
	source.ownCheck = f.healthcheck == ""
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
	return req, source, nil
}

// readRecipe reads the named file, standard input for "-", or the first of
// Recipe and Dockerfile in the current folder, and says which it was.
func (a *app) readRecipe(ctx context.Context, name string) (file, text string, err error) {
	if name == "-" {
		text, err := recipeText(a.readStdin(ctx, maxRecipe+1))
		return "-", text, err
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
			return "", "", errs.New(errs.Invalid, "the recipe cannot be read: %v", err)
		}
		defer f.Close()
		text, err := recipeText(io.ReadAll(io.LimitReader(f, maxRecipe+1)))
		if err != nil {
			return "", "", errs.Wrap(err, errs.Invalid, "", n).WithCode(errs.CodeOf(err))
		}
		return n, text, nil
	}
	if name != "" {
		return "", "", usage("there is no recipe file %s", name)
	}
	return "", "", usage("there is no Recipe or Dockerfile in this folder; name one with -f")
}

func recipeText(b []byte, err error) (string, error) {
	if err == nil && len(b) > maxRecipe {
		err = errs.New(errs.Invalid, "the recipe is larger than 1 MiB").WithCode("recipe_too_large").
			WithRemedy("fetch large content in a RUN step instead of writing it into the recipe")
	}
	return string(b), err
}

// readStdin reads standard input, at most so many bytes. The end of ctx ends
// the wait; a read of a terminal ends with the process only.
func (a *app) readStdin(ctx context.Context, most int64) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	read := make(chan result, 1)
	go func() {
		b, err := io.ReadAll(io.LimitReader(a.env.Stdin, most))
		read <- result{b, err}
	}()
	select {
	case r := <-read:
		if r.err != nil {
			return nil, errs.New(errs.Invalid, "standard input cannot be read: %v", r.err)
		}
		return r.b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
