package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
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
}

func (a *app) buildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use: "build -t NAME[:TAG] [flags]", Short: "Turn a recipe into a template",
		Long: "Turn a recipe into a template and show what happens, live.\n" +
			"The first Ctrl-C cancels the build; on a terminal a second one leaves it to itself.\n" +
			"With --output json the build is printed on stdout once it has ended, also when it failed.",
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
	if !f.detach {
		return a.buildAndWatch(cmd.Context(), c, req)
	}
	res, err := c.Builds.Create(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return err
	}
	return a.printBuild(res.Msg)
}

func (a *app) buildRequest(cmd *cobra.Command, f *buildFlags) (*lehrv1.CreateBuildRequest, error) {
	args, err := pairs("build-arg", f.args)
	if err != nil {
		return nil, err
	}
	text, err := a.readRecipe(cmd.Context(), f.file)
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
func (a *app) readRecipe(ctx context.Context, name string) (string, error) {
	if name == "-" {
		return recipeText(a.readStdin(ctx, maxRecipe+1))
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
		text, err := recipeText(io.ReadAll(io.LimitReader(f, maxRecipe+1)))
		if err != nil {
			return "", errs.Wrap(err, errs.Invalid, "", n).WithCode(errs.CodeOf(err))
		}
		return text, nil
	}
	if name != "" {
		return "", usage("there is no recipe file %s", name)
	}
	return "", usage("there is no Recipe or Dockerfile in this folder; name one with -f")
}

func recipeText(b []byte, err error) (string, error) {
	if err == nil && len(b) > maxRecipe {
		err = errs.New(errs.Invalid, "the recipe is larger than 1 MiB").WithCode("recipe_too_large")
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
