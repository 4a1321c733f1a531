package cli

import (
	"context"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/api/jsonwire"
	"github.com/lehr-dev/lehr/internal/cli/progress"
	"github.com/lehr-dev/lehr/sdk"
)

func (a *app) buildsCommand() *cobra.Command {
	return group("builds", "List, show, follow and cancel builds", a.buildsList(), a.buildsGet(), a.buildsLogs(), a.buildsCancel())
}

func (a *app) buildsList() *cobra.Command {
	var req lehrv1.ListBuildsRequest
	var limit int
	var metadata []string
	cmd := &cobra.Command{
		Use: "ls", Short: "List builds, newest first", Args: noArgs,
		Example: "  lehr builds ls --status running",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if req.Metadata, err = pairs("metadata", metadata); err != nil {
				return err
			}
			return printAll(a, limit, listing[*lehrv1.Build]{
				head: "ID TEMPLATE STATUS STEP CREATED", ids: one((*lehrv1.Build).GetId),
				row: func(b *lehrv1.Build) []string {
					return []string{b.GetId(), b.GetName() + ":" + b.GetTag(), b.GetStatus(), steps(b), stamp(b.GetCreatedAt())}
				},
			}, buildPages(cmd.Context(), c, &req))
		},
	}
	cmd.Flags().StringVar(&req.Name, "name", "", "only builds of this template")
	cmd.Flags().StringVar(&req.Status, "status", "", "only builds in this state: pending, running, success, failed or cancelled")
	cmd.Flags().StringArrayVar(&metadata, "metadata", nil, "only builds with this KEY=VALUE; may be repeated")
	limitFlag(cmd.Flags(), &limit)
	return cmd
}

func steps(b *lehrv1.Build) string {
	return fmt.Sprintf("%d/%d", b.GetCurrentStep(), b.GetTotalSteps())
}

func (a *app) buildsGet() *cobra.Command {
	return &cobra.Command{
		Use: "get BUILD", Short: "Show one build with its steps", Args: exactArgs("BUILD"),
		Example: "  lehr builds get bld-…\n  lehr builds get bld-… -o json | jq .error",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			id, err := a.buildID(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			res, err := c.Builds.Get(cmd.Context(), connect.NewRequest(&lehrv1.GetBuildRequest{Id: id}))
			if err != nil {
				return err
			}
			return a.printBuild(res.Msg)
		},
	}
}

func (a *app) printBuild(b *lehrv1.Build) error {
	rows := [][2]string{
		{"id", b.GetId()},
		{"template", b.GetName() + ":" + b.GetTag()},
		{"status", b.GetStatus()},
		{"base", b.GetBaseTemplate()},
		{"steps", steps(b)},
		{"attempt", fmt.Sprint(b.GetAttempt())},
		{"created", stamp(b.GetCreatedAt())},
		{"completed", stamp(b.GetCompletedAt())},
	}
	if art := b.GetArtifact(); art != nil {
		rows = append(rows, [2]string{"version", art.GetVersion()}, [2]string{"type", art.GetType()}, [2]string{"size", mebibytes(art.GetSizeBytes())})
	}
	if e := b.GetError(); e != nil {
		rows = append(rows, [2]string{"error", e.GetMessage() + " [" + e.GetCode() + ", " + e.GetFault() + "]"}, [2]string{"try", dash(e.GetRemedy())})
	}
	for _, s := range b.GetSteps() {
		rows = append(rows, [2]string{fmt.Sprintf("#%d %s", s.GetStep(), s.GetStatus()), fmt.Sprintf("%6.1fs  %s", float64(s.GetElapsedMs())/1000, s.GetCmd())})
	}
	return a.printOne(b, rows)
}

func (a *app) buildsLogs() *cobra.Command {
	req := &lehrv1.BuildLogsRequest{}
	var mode string
	cmd := &cobra.Command{
		Use: "logs BUILD", Short: "Print a build's log", Args: exactArgs("BUILD"),
		Long: "Print a build's log: step, seconds since the first line, text.\n" +
			"With --output json a bare array, or with --follow one object a line as they come.\n" +
			"--progress tty shows a build that runs as lehr build does, and ends with its exit code; Ctrl-C only ends the watching.",
		Example: "  lehr builds logs -f bld-…          # follow until the build has ended\n  lehr builds logs --after 120 bld-… # continue where you were\n" +
			"  lehr builds logs --progress tty bld-…",
		RunE: func(cmd *cobra.Command, args []string) error {
			mode, err := a.progressTerminal().Choose(mode)
			if err != nil {
				return usageError{err}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			if req.Id, err = a.buildID(cmd.Context(), c, args[0]); err != nil {
				return err
			}
			switch {
			case mode != progress.Plain:
				w := &watch{app: a, client: c, quiet: mode == progress.Quiet}
				w.display = a.display(mode, recipeSource{}, nil, false)
				return w.rejoin(cmd.Context(), req)
			case a.json() && !req.GetFollow():
				return a.printLogArray(cmd.Context(), c, req)
			}
			return a.followLogs(cmd.Context(), c, req, a.logPrinter(a.env.Stdout))
		},
	}
	cmd.Flags().BoolVarP(&req.Follow, "follow", "f", false, "go on until the build has ended")
	cmd.Flags().Int64Var(&req.After, "after", 0, "only lines after this seq")
	a.progressFlag(cmd.Flags(), &mode, progress.Plain)
	completeProgress(cmd)
	return cmd
}

// logPrinter returns how one line is printed: "#step seconds text", or one JSON
// object a line.
func (a *app) logPrinter(w io.Writer) func(*lehrv1.LogLine) error {
	if a.json() {
		return func(l *lehrv1.LogLine) error {
			b, err := jsonwire.Marshal(l)
			if err == nil {
				_, err = fmt.Fprintf(w, "%s\n", b)
			}
			return err
		}
	}
	p := &progress.Lines{Out: w}
	return func(l *lehrv1.LogLine) error { return p.Print(l, l.GetText()) }
}

func (a *app) printLogArray(ctx context.Context, c *sdk.Client, req *lehrv1.BuildLogsRequest) error {
	list := []*lehrv1.LogLine{}
	err := a.followLogs(ctx, c, req, func(l *lehrv1.LogLine) error {
		list = append(list, l)
		return nil
	})
	if err != nil {
		return err
	}
	b, err := jsonwire.MarshalList(list)
	if err == nil {
		_, err = fmt.Fprintf(a.env.Stdout, "%s\n", b)
	}
	return err
}

func (a *app) buildsCancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel BUILD", Short: "Cancel a pending or running build", Args: exactArgs("BUILD"),
		Example: "  lehr builds cancel bld-…",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			id, err := a.buildID(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			res, err := c.Builds.Cancel(cmd.Context(), connect.NewRequest(&lehrv1.CancelBuildRequest{Id: id}))
			if err != nil {
				return err
			}
			return a.printBuild(res.Msg)
		},
	}
}
