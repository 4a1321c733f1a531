package cli

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/sdk"
)

func (a *app) teamsCommand() *cobra.Command {
	return group("teams", "List teams, show and set their limits", a.teamsList(), a.teamsGet(), a.teamsLimits())
}

func teamPages(ctx context.Context, c *sdk.Client) func(int32, string) ([]*lehrv1.Team, string, error) {
	return func(limit int32, cursor string) ([]*lehrv1.Team, string, error) {
		res, err := c.Teams.List(ctx, connect.NewRequest(&lehrv1.ListTeamsRequest{Limit: limit, Cursor: cursor}))
		if err != nil {
			return nil, "", err
		}
		return res.Msg.GetTeams(), res.Msg.GetNextCursor(), nil
	}
}

func (a *app) teamsList() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use: "ls", Short: "List teams with their limits", Args: noArgs,
		Long:    "List teams with their limits; a dash is no limit. It needs an administrator key.",
		Example: "  lehr teams ls\n  lehr teams ls -q",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return printAll(a, limit, listing[*lehrv1.Team]{
				head: "NAME SANDBOXES VCPUS MEMORY BUILDS PENDING CREATES/MIN ID",
				ids:  one((*lehrv1.Team).GetName),
				row: func(t *lehrv1.Team) []string {
					l := t.GetLimits()
					return []string{
						t.GetName(), most(l.GetSandboxes()), most(l.GetVcpus()), most(l.GetMemoryMb()), most(l.GetRunningBuilds()),
						most(l.GetPendingBuilds()), most(l.GetCreatesPerMinute()), t.GetId(),
					}
				},
			}, teamPages(cmd.Context(), c))
		},
	}
	limitFlag(cmd.Flags(), &limit)
	return cmd
}

// most prints a limit.
func most(n int32) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func (a *app) teamsGet() *cobra.Command {
	return &cobra.Command{
		Use: "get [TEAM]", Short: "Show a team's use and limits", Args: atMostOne("TEAM"),
		Long:    "Show what a team holds now and may hold at most. Without TEAM your own; another one needs an administrator key.",
		Example: "  lehr teams get\n  lehr teams get ci -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			res, err := c.Teams.Get(cmd.Context(), connect.NewRequest(&lehrv1.GetTeamRequest{Name: firstOf(args)}))
			if err != nil {
				return err
			}
			return a.printTeam(res.Msg)
		},
	}
}

func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usage("%s wants at most one %s", cmd.CommandPath(), name)
		}
		return nil
	}
}

func (a *app) printTeam(t *lehrv1.Team) error {
	l, u := t.GetLimits(), t.GetUsage()
	of := func(used, limit int32) string {
		if limit == 0 {
			return fmt.Sprintf("%d, no limit", used)
		}
		return fmt.Sprintf("%d of %d", used, limit)
	}
	return a.printOne(t, [][2]string{
		{"id", t.GetId()},
		{"name", t.GetName()},
		{"sandboxes", of(u.GetSandboxes(), l.GetSandboxes())},
		{"vcpus", of(u.GetVcpus(), l.GetVcpus())},
		{"memory MiB", of(u.GetMemoryMb(), l.GetMemoryMb())},
		{"running builds", of(u.GetRunningBuilds(), l.GetRunningBuilds())},
		{"pending builds", of(u.GetPendingBuilds(), l.GetPendingBuilds())},
		{"creates a minute", most(l.GetCreatesPerMinute())},
		{"created", stamp(t.GetCreatedAt())},
	})
}

func (a *app) teamsLimits() *cobra.Command {
	var want lehrv1.TeamLimits
	var none bool
	cmd := &cobra.Command{
		Use: "limits TEAM", Short: "Set what a team may hold at most", Args: exactArgs("TEAM"),
		Long: "Set what a team may hold at most; 0 is no limit, and what is not named stays as it is. A team that does not exist is made.\n" +
			"What is over a limit is refused, but builds beyond --running-builds wait. It needs an administrator key.",
		Example: "  lehr teams limits ci --sandboxes 20 --running-builds 2\n  lehr teams limits ci --none",
		RunE: func(cmd *cobra.Command, args []string) error {
			if none == limitsGiven(cmd.Flags()) {
				return usage("lehr teams limits wants at least one limit, or --none alone")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			limits, err := currentLimits(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			takeLimits(cmd.Flags(), limits, &want)
			if none {
				limits = &lehrv1.TeamLimits{}
			}
			res, err := c.Teams.SetLimits(cmd.Context(), connect.NewRequest(&lehrv1.SetTeamLimitsRequest{Name: args[0], Limits: limits}))
			if err != nil {
				return err
			}
			return a.printTeam(res.Msg)
		},
	}
	for _, f := range limitFields() {
		cmd.Flags().Int32Var(f.of(&want), f.flag, 0, f.help)
	}
	cmd.Flags().BoolVar(&none, "none", false, "take all limits away")
	return cmd
}

// limitField is a limit with its flag.
type limitField struct {
	flag, help string
	of         func(*lehrv1.TeamLimits) *int32
}

func limitFields() []limitField {
	return []limitField{
		{"sandboxes", "live sandboxes", func(l *lehrv1.TeamLimits) *int32 { return &l.Sandboxes }},
		{"vcpus", "virtual processors of live sandboxes together", func(l *lehrv1.TeamLimits) *int32 { return &l.Vcpus }},
		{"memory", "memory of live sandboxes together, in MiB", func(l *lehrv1.TeamLimits) *int32 { return &l.MemoryMb }},
		{"running-builds", "builds at the same time", func(l *lehrv1.TeamLimits) *int32 { return &l.RunningBuilds }},
		{"pending-builds", "builds that wait", func(l *lehrv1.TeamLimits) *int32 { return &l.PendingBuilds }},
		{"creates-per-minute", "new builds and sandboxes a minute", func(l *lehrv1.TeamLimits) *int32 { return &l.CreatesPerMinute }},
	}
}

func limitsGiven(fs *pflag.FlagSet) bool {
	for _, f := range limitFields() {
		if fs.Changed(f.flag) {
			return true
		}
	}
	return false
}

// takeLimits changes the limits that were named.
func takeLimits(fs *pflag.FlagSet, limits, want *lehrv1.TeamLimits) {
	for _, f := range limitFields() {
		if fs.Changed(f.flag) {
			*f.of(limits) = *f.of(want)
		}
	}
}

// currentLimits are a team's, none where it does not exist yet.
func currentLimits(ctx context.Context, c *sdk.Client, name string) (*lehrv1.TeamLimits, error) {
	res, err := c.Teams.Get(ctx, connect.NewRequest(&lehrv1.GetTeamRequest{Name: name}))
	if nothing(err) {
		return &lehrv1.TeamLimits{}, nil
	}
	if err != nil {
		return nil, err
	}
	if l := res.Msg.GetLimits(); l != nil {
		return l, nil
	}
	return &lehrv1.TeamLimits{}, nil
}
