package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/sdk"
)

// Completion waits for the server no longer than a person does for a key, and
// offers no more than a screen holds.
const (
	completeTime = 500 * time.Millisecond
	completeMost = 200
)

// candidates adds what fits the beginning of a word; text behind a tab is shown
// beside it.
type candidates func(ctx context.Context, c *sdk.Client, begin string, add func(string)) error

// completion is what cobra calls.
type completion = func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective)

// live completes words by asking the server. Whatever fails, fails silently: the
// user is in the middle of a line.
func (a *app) live(from candidates) completion {
	return func(_ *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
		ctx, done := context.WithTimeout(context.Background(), completeTime)
		defer done()
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		given := map[string]bool{}
		for _, arg := range args {
			given[arg] = true
		}
		var list []string
		_ = from(ctx, c, begin, func(s string) {
			s = cellWithTab(s)
			word, _, _ := strings.Cut(s, "\t")
			if strings.HasPrefix(word, begin) && !given[word] && len(list) < completeMost {
				list = append(list, s)
			}
		})
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// cellWithTab is cell for a word and what is shown beside it.
func cellWithTab(s string) string {
	word, beside, _ := strings.Cut(s, "\t")
	return cell(word) + "\t" + cell(beside)
}

// first completes the first argument only.
func first(f completion) completion {
	return func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, begin)
	}
}

// firstThenFiles completes the first argument, then files: what follows is a
// command line of its own.
func firstThenFiles(f completion) completion {
	return func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return f(cmd, args, begin)
	}
}

// enough ends a walk after the newest items: the others are found by typing
// more of their id.
func enough[M any](ctx context.Context, page func(int32, string) ([]M, string, error), see func(M)) error {
	seen := 0
	return walk(5*pageSize, page, func(list []M) error {
		for _, m := range list {
			see(m)
		}
		if seen += len(list); ctx.Err() != nil {
			return ctx.Err()
		}
		return nil
	})
}

func liveSandboxes(all bool) candidates {
	return func(ctx context.Context, c *sdk.Client, _ string, add func(string)) error {
		return enough(ctx, sandboxPages(ctx, c, &lehrv1.ListSandboxesRequest{All: all}), func(s *lehrv1.Sandbox) {
			add(s.GetId() + "\t" + s.GetTemplate() + ", " + s.GetState())
		})
	}
}

func liveBuilds(status string) candidates {
	return func(ctx context.Context, c *sdk.Client, _ string, add func(string)) error {
		return enough(ctx, buildPages(ctx, c, &lehrv1.ListBuildsRequest{Status: status}), func(b *lehrv1.Build) {
			add(b.GetId() + "\t" + b.GetName() + ":" + b.GetTag() + ", " + b.GetStatus())
		})
	}
}

// running are the builds that can be cancelled.
func runningBuilds(ctx context.Context, c *sdk.Client, begin string, add func(string)) error {
	if err := liveBuilds("running")(ctx, c, begin, add); err != nil {
		return err
	}
	return liveBuilds("pending")(ctx, c, begin, add)
}

// liveTemplates are names, and names with tags once a colon is typed or where
// there is no default tag.
func liveTemplates(ctx context.Context, c *sdk.Client, begin string, add func(string)) error {
	name, _, tagged := strings.Cut(begin, ":")
	req := &lehrv1.ListTemplatesRequest{}
	if tagged {
		req.Name = name
	}
	said := map[string]bool{}
	say := func(word, beside string) {
		if !said[word] {
			said[word] = true
			add(word + "\t" + beside)
		}
	}
	return enough(ctx, templatePages(ctx, c, req), func(t *lehrv1.Template) {
		beside := t.GetType() + ", " + mebibytes(t.GetSizeBytes())
		if !tagged {
			say(t.GetName(), beside)
		}
		for _, tag := range t.GetTags() {
			if tagged || tag != "default" {
				say(t.GetName()+":"+tag, beside)
			}
		}
	})
}

func liveKeys(ctx context.Context, c *sdk.Client, _ string, add func(string)) error {
	return enough(ctx, keyPages(ctx, c, ""), func(k *lehrv1.Key) {
		if k.GetRevokedAt() == nil {
			add(k.GetId() + "\t" + k.GetName())
		}
	})
}

func liveTeams(ctx context.Context, c *sdk.Client, _ string, add func(string)) error {
	return enough(ctx, teamPages(ctx, c), func(t *lehrv1.Team) { add(t.GetName() + "\t" + t.GetId()) })
}

// copyPlaces completes a side of a copy: files of this machine, or a sandbox
// with its colon.
func (a *app) copyPlaces(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 || strings.ContainsAny(begin, ":/.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	list, _ := a.live(liveSandboxes(false))(cmd, nil, begin)
	for i, s := range list {
		word, beside, _ := strings.Cut(s, "\t")
		list[i] = word + ":\t" + beside
	}
	return list, cobra.ShellCompDirectiveNoSpace
}

// words completes one of a few.
func words(list ...string) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// nothingElse completes nothing, and no file either.
func nothingElse(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completions says how the arguments and flags of every command are completed,
// by its path below lehr; a flag of several commands is here by its name.
func (a *app) completions() (args, flags map[string]completion) {
	boxes, ended := a.live(liveSandboxes(false)), a.live(liveSandboxes(true))
	templates, teams := a.live(liveTemplates), a.live(liveTeams)
	args = map[string]completion{
		"run":             firstThenFiles(templates),
		"sandbox create":  first(templates),
		"sandbox get":     first(ended),
		"sandbox kill":    boxes,
		"sandbox exec":    firstThenFiles(boxes),
		"sandbox shell":   first(boxes),
		"sandbox timeout": first(boxes),
		"sandbox url":     first(boxes),
		"sandbox cp":      a.copyPlaces,
		"builds get":      first(a.live(liveBuilds(""))),
		"builds logs":     first(a.live(liveBuilds(""))),
		"builds cancel":   first(a.live(runningBuilds)),
		"templates get":   first(templates),
		"templates tag":   first(templates),
		"templates rm":    templates,
		"keys revoke":     a.live(liveKeys),
		"teams get":       first(teams),
		"teams limits":    first(teams),
		"doctor":          nothingElse,
		"version":         nothingElse,
		"up":              nothingElse,
		"builds ls":       nothingElse,
		"sandbox ls":      nothingElse,
		"templates ls":    nothingElse,
		"keys ls":         nothingElse,
		"keys create":     nothingElse,
		"teams ls":        nothingElse,
		"completion bash": nothingElse,
		"completion zsh":  nothingElse,
		"completion fish": nothingElse,
	}
	flags = map[string]completion{
		"output":    words("table", "json"),
		"status":    words("pending", "running", "success", "failed", "cancelled"),
		"state":     words("creating", "running", "pausing", "paused", "resuming", "killed", "failed"),
		"type":      words("base", "snapshot"),
		"template":  templates,
		"base":      templates,
		"name":      templates,
		"team":      teams,
		"progress":  words("auto", "tty", "plain", "rawjson", "quiet"),
		"log-level": words("debug", "info", "warn", "error"),
	}
	return args, flags
}

// complete gives every command its completions.
func (a *app) complete(root *cobra.Command) {
	args, flags := a.completions()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if f := args[strings.TrimPrefix(c.CommandPath(), "lehr ")]; f != nil {
			c.ValidArgsFunction = f
		}
		for name, f := range flags {
			if c.Flags().Lookup(name) != nil || c.PersistentFlags().Lookup(name) != nil {
				_ = c.RegisterFlagCompletionFunc(name, f) // once a command
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

func (a *app) completionCommand() *cobra.Command {
	shell := func(name, install string, write func(root *cobra.Command) error) *cobra.Command {
		return &cobra.Command{
			Use: name, Short: "Print the completion script of " + name, Args: noArgs, Example: install,
			RunE: func(cmd *cobra.Command, _ []string) error { return write(cmd.Root()) },
		}
	}
	c := group("completion", "Print a script that completes commands, flags, ids and names in your shell",
		shell("bash", "  lehr completion bash > ~/.local/share/bash-completion/completions/lehr   # new shells; wants bash-completion\n  source <(lehr completion bash)   # this shell",
			func(root *cobra.Command) error { return root.GenBashCompletionV2(a.env.Stdout, true) }),
		shell("zsh", "  lehr completion zsh > \"${fpath[1]}/_lehr\"   # new shells; wants compinit\n  source <(lehr completion zsh)   # this shell",
			func(root *cobra.Command) error { return root.GenZshCompletion(a.env.Stdout) }),
		shell("fish", "  lehr completion fish > ~/.config/fish/completions/lehr.fish   # new shells\n  lehr completion fish | source   # this shell",
			func(root *cobra.Command) error { return root.GenFishCompletion(a.env.Stdout, true) }))
	c.Long = "Print a script that completes commands, flags, and the ids and names that the server has at that moment: sandboxes,\n" +
		"templates, builds, keys and teams. The server is asked for at most half a second; without an answer nothing is offered."
	return c
}
