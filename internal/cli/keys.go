package cli

import (
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

func (a *app) keysCommand() *cobra.Command {
	return group("keys", "Create, list and revoke API keys", a.keysCreate(), a.keysList(), a.keysRevoke())
}

func (a *app) keysCreate() *cobra.Command {
	var req lehrv1.CreateKeyRequest
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a key; it is shown this once", Args: exactArgs("NAME"),
		Example: "  lehr keys create ci --team ci\n  export LEHR_API_KEY=$(lehr keys create laptop -q)   # -q prints the key alone",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			req.Name = args[0]
			res, err := c.Keys.Create(cmd.Context(), connect.NewRequest(&req))
			if err != nil {
				return err
			}
			if a.quiet && !a.json() {
				_, err := fmt.Fprintln(a.env.Stdout, res.Msg.GetKey()) // the id alone would lose it
				return err
			}
			return a.printOne(res.Msg, [][2]string{{"id", res.Msg.GetId()}, {"name", res.Msg.GetName()}, {"key", res.Msg.GetKey()}})
		},
	}
	cmd.Flags().BoolVar(&req.Admin, "admin", false, "may manage keys")
	cmd.Flags().StringVar(&req.Team, "team", "", "team the key acts for; made when new (default: your own)")
	return cmd
}

func (a *app) keysList() *cobra.Command {
	var limit int
	var team string
	cmd := &cobra.Command{
		Use: "ls", Short: "List keys, newest first", Args: noArgs,
		Example: "  lehr keys ls\n  lehr keys ls --team ci --limit 0",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return printAll(a, limit, listing[*lehrv1.Key]{
				head: "ID NAME PREFIX ADMIN CREATED REVOKED", ids: one((*lehrv1.Key).GetId),
				row: func(k *lehrv1.Key) []string {
					admin := "-"
					if k.GetAdmin() {
						admin = "yes"
					}
					return []string{k.GetId(), k.GetName(), k.GetPrefix() + "…", admin, stamp(k.GetCreatedAt()), stamp(k.GetRevokedAt())}
				},
			}, keyPages(cmd.Context(), c, team))
		},
	}
	cmd.Flags().StringVar(&team, "team", "", "team whose keys (default: your own)")
	limitFlag(cmd.Flags(), &limit)
	return cmd
}

func (a *app) keysRevoke() *cobra.Command {
	var team string
	var yes bool
	cmd := &cobra.Command{
		Use: "revoke KEY…", Short: "Make keys useless at once", Args: atLeastOne("KEY"),
		Long:    "Make keys useless at once. KEY is an id, the beginning of one, or the key's name. On a terminal more than one is asked\nabout first.",
		Example: "  lehr keys revoke ci\n  lehr keys revoke key-… --team ci",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if len(args) > 1 {
				if err := a.confirm(cmd.Context(), yes, "Revoke %d keys?", len(args)); err != nil {
					return err
				}
			}
			return a.each(args, func(text string) (string, error) {
				id, err := a.keyID(cmd.Context(), c, team, text)
				if err != nil {
					return "", err
				}
				_, err = c.Keys.Revoke(cmd.Context(), connect.NewRequest(&lehrv1.RevokeKeyRequest{Id: id, Team: team}))
				return id, err
			}, "revoked")
		},
	}
	cmd.Flags().StringVar(&team, "team", "", "team whose keys (default: your own)")
	yesFlag(cmd.Flags(), &yes)
	return cmd
}
