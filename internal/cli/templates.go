package cli

import (
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

func (a *app) templatesCommand() *cobra.Command {
	return group("templates", "List, show and remove templates", a.templatesList(), a.templatesGet(), a.templatesRemove())
}

func (a *app) templatesList() *cobra.Command {
	var req lehrv1.ListTemplatesRequest
	var limit int
	cmd := &cobra.Command{
		Use: "ls", Short: "List templates, newest first", Args: noArgs,
		Example: "  lehr templates ls\n  lehr templates ls --name web --limit 0",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := pages(limit, func(limit int32, cursor string) ([]*lehrv1.Template, string, error) {
				req.Limit, req.Cursor = limit, cursor
				res, err := c.Templates.List(cmd.Context(), connect.NewRequest(&req))
				if err != nil {
					return nil, "", err
				}
				return res.Msg.GetTemplates(), res.Msg.GetNextCursor(), nil
			})
			if err != nil {
				return err
			}
			return printList(a, list, "NAME TAGS TYPE SIZE VERSION CREATED", func(t *lehrv1.Template) []string {
				return []string{t.GetName(), strings.Join(t.GetTags(), ","), t.GetType(), mebibytes(t.GetSizeBytes()), t.GetVersion(), stamp(t.GetCreatedAt())}
			})
		},
	}
	cmd.Flags().StringVar(&req.Name, "name", "", "only this template")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most; 0 for all")
	return cmd
}

func (a *app) templatesGet() *cobra.Command {
	return &cobra.Command{
		Use: "get TEMPLATE", Short: "Show one template", Args: exactArgs("TEMPLATE"),
		Example: "  lehr templates get web\n  lehr templates get web:v2 -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			res, err := c.Templates.Get(cmd.Context(), connect.NewRequest(&lehrv1.GetTemplateRequest{Name: args[0]}))
			if err != nil {
				return err
			}
			t := res.Msg
			return a.printOne(t, [][2]string{
				{"id", t.GetId()},
				{"name", t.GetName()},
				{"tags", strings.Join(t.GetTags(), ", ")},
				{"type", t.GetType()},
				{"version", t.GetVersion()},
				{"base", dash(t.GetBaseTemplate())},
				{"vcpus", fmt.Sprint(t.GetVcpus())},
				{"memory", fmt.Sprintf("%d MiB", t.GetMemoryMb())},
				{"size", mebibytes(t.GetSizeBytes())},
				{"created", stamp(t.GetCreatedAt())},
			})
		},
	}
}

func (a *app) templatesRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm TEMPLATE…", Short: "Remove templates (NAME) or single tags (NAME:TAG)",
		Long:    "Remove templates (NAME) or single tags (NAME:TAG). One that live sandboxes use is refused.",
		Example: "  lehr templates rm web:v1\n  lehr templates rm web tools",
		Args:    atLeastOne("TEMPLATE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.each(args, func(name string) error {
				_, err := c.Templates.Remove(cmd.Context(), connect.NewRequest(&lehrv1.RemoveTemplateRequest{Name: name}))
				return err
			}, "removed")
		},
	}
}

func atLeastOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("%s wants at least one %s", cmd.CommandPath(), name)
		}
		return nil
	}
}

// each does something to every argument, says so on stderr, and goes on after
// errors; the last one is returned, those before it are printed.
func (a *app) each(args []string, do func(string) error, done string) error {
	var last error
	for _, arg := range args {
		if last != nil {
			a.printError(last)
			last = exitCode(codeOf(last))
		}
		if err := do(arg); err != nil {
			last = err
			continue
		}
		fmt.Fprintf(a.env.Stderr, "%s %s\n", done, arg)
	}
	return last
}
