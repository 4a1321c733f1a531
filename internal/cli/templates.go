package cli

import (
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

func (a *app) templatesCommand() *cobra.Command {
	return group("templates", "List, show, tag and remove templates", a.templatesList(), a.templatesGet(), a.templatesTag(), a.templatesRemove())
}

func (a *app) templatesList() *cobra.Command {
	var req lehrv1.ListTemplatesRequest
	var limit int
	var labels []string
	cmd := &cobra.Command{
		Use: "ls", Short: "List templates, newest first", Args: noArgs,
		Long:    "List the versions of templates, newest first: the team's own and the platform's.",
		Example: "  lehr templates ls\n  lehr templates ls --name web --limit 0\n  lehr templates ls --type snapshot --label maintainer=ops",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if req.Labels, err = pairs("label", labels); err != nil {
				return err
			}
			return printAll(a, limit, listing[*lehrv1.Template]{
				head: "NAME TAGS TYPE SIZE VERSION CREATED",
				ids: func(t *lehrv1.Template) (refs []string) {
					for _, tag := range t.GetTags() {
						refs = append(refs, t.GetName()+":"+tag)
					}
					return refs
				},
				row: func(t *lehrv1.Template) []string {
					return []string{t.GetName(), strings.Join(t.GetTags(), ","), t.GetType(), mebibytes(t.GetSizeBytes()), t.GetVersion(), stamp(t.GetCreatedAt())}
				},
			}, templatePages(cmd.Context(), c, &req))
		},
	}
	cmd.Flags().StringVar(&req.Name, "name", "", "only this template")
	cmd.Flags().StringVar(&req.Type, "type", "", "only base or snapshot templates")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only those whose recipe has this LABEL, as KEY=VALUE; may be repeated")
	limitFlag(cmd.Flags(), &limit)
	return cmd
}

func (a *app) templatesTag() *cobra.Command {
	return &cobra.Command{
		Use: "tag TEMPLATE TAG", Short: "Give a version of a template another tag", Args: exactArgs("TEMPLATE", "TAG"),
		Long: "Make TAG point to the version that TEMPLATE (NAME, NAME:TAG or an id) names. A tag that exists moves; sandboxes that\n" +
			"run stay as they are.",
		Example: "  lehr templates tag web:v2 stable\n  lehr templates tag web:v1 default   # back to v1",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			name, err := a.templateRef(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			res, err := c.Templates.Tag(cmd.Context(), connect.NewRequest(&lehrv1.TagTemplateRequest{Name: name, Tag: args[1]}))
			if err != nil {
				return a.meantTemplate(cmd.Context(), c, args[0], err)
			}
			return a.printTemplate(res.Msg)
		},
	}
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
			name, err := a.templateRef(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			res, err := c.Templates.Get(cmd.Context(), connect.NewRequest(&lehrv1.GetTemplateRequest{Name: name}))
			if err != nil {
				return a.meantTemplate(cmd.Context(), c, args[0], err)
			}
			return a.printTemplate(res.Msg)
		},
	}
}

func (a *app) printTemplate(t *lehrv1.Template) error {
	rows := [][2]string{
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
	}
	if len(t.GetLabels()) > 0 {
		rows = append(rows, [2]string{"labels", joinPairs(t.GetLabels())})
	}
	if len(t.GetExposed()) > 0 {
		rows = append(rows, [2]string{"exposed", strings.Join(t.GetExposed(), ", ")})
	}
	return a.printOne(t, rows)
}

func (a *app) templatesRemove() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "rm TEMPLATE…", Short: "Remove templates (NAME) or single tags (NAME:TAG)",
		Long: "Remove templates (NAME) or single tags (NAME:TAG). One that live sandboxes use is refused. On a terminal a whole\n" +
			"template is asked about first.",
		Example: "  lehr templates rm web:v1\n  lehr templates rm --yes web tools",
		Args:    atLeastOne("TEMPLATE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			whole := slices.DeleteFunc(slices.Clone(args), func(s string) bool { return strings.Contains(s, ":") })
			if len(whole) > 0 {
				if err := a.confirm(cmd.Context(), yes, "Remove %s with all tags and versions?", strings.Join(whole, ", ")); err != nil {
					return err
				}
			}
			return a.each(args, func(name string) (string, error) {
				name, err := a.templateRef(cmd.Context(), c, name)
				if err != nil {
					return "", err
				}
				_, err = c.Templates.Remove(cmd.Context(), connect.NewRequest(&lehrv1.RemoveTemplateRequest{Name: name}))
				return name, a.meantTemplate(cmd.Context(), c, name, err)
			}, "removed")
		},
	}
	yesFlag(cmd.Flags(), &yes)
	return cmd
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
func (a *app) each(args []string, do func(string) (id string, err error), done string) error {
	var last error
	for _, arg := range args {
		if last != nil {
			a.printError(last)
			last = exitCode(codeOf(last))
		}
		id, err := do(arg)
		if err != nil {
			last = err
			continue
		}
		if !a.quiet {
			fmt.Fprintf(a.env.Stderr, "%s %s\n", done, clean(id))
		}
	}
	return last
}
