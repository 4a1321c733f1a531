package cli

import (
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
		Example: "  lehr keys create ci\n  export LEHR_API_KEY=$(lehr keys create ci -o json | jq -r .key)",
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
			return a.printOne(res.Msg, [][2]string{{"id", res.Msg.GetId()}, {"name", res.Msg.GetName()}, {"key", res.Msg.GetKey()}})
		},
	}
	cmd.Flags().BoolVar(&req.Admin, "admin", false, "may manage keys")
	cmd.Flags().StringVar(&req.Team, "team", "", "team the key acts for; made when new (default: your own)")
	return cmd
}

func (a *app) keysList() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List keys, newest first", Args: noArgs,
		Example: "  lehr keys ls",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := pages(0, func(limit int32, cursor string) ([]*lehrv1.Key, string, error) {
				res, err := c.Keys.List(cmd.Context(), connect.NewRequest(&lehrv1.ListKeysRequest{Limit: limit, Cursor: cursor}))
				if err != nil {
					return nil, "", err
				}
				return res.Msg.GetKeys(), res.Msg.GetNextCursor(), nil
			})
			if err != nil {
				return err
			}
			return printList(a, list, "ID NAME PREFIX CREATED REVOKED", func(k *lehrv1.Key) []string {
				return []string{k.GetId(), k.GetName(), k.GetPrefix() + "…", stamp(k.GetCreatedAt()), stamp(k.GetRevokedAt())}
			})
		},
	}
}

func (a *app) keysRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke KEY-ID…", Short: "Make keys useless at once", Args: atLeastOne("KEY-ID"),
		Example: "  lehr keys revoke key-…",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.each(args, func(id string) error {
				_, err := c.Keys.Revoke(cmd.Context(), connect.NewRequest(&lehrv1.RevokeKeyRequest{Id: id}))
				return err
			}, "revoked")
		},
	}
}
