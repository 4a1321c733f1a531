package cli

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/sdk"
)

// killTime bounds the clean-up after a run, in which the user waits.
const killTime = 30 * time.Second

func (a *app) runCommand() *cobra.Command {
	var create createFlags
	var exec execFlags
	cmd := &cobra.Command{
		Use: "run TEMPLATE [flags] [-- CMD…]", Short: "Run one command in a new sandbox, then remove it",
		Long:    "Run one command in a new sandbox, then remove it. Without CMD the template's default start command runs.",
		Example: "  lehr run minimal -- cat /etc/os-release\n  echo 'print(6*7)' | lehr run -i python -- python3 -",
		Args:    atLeastOne("TEMPLATE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := create.request(cmd.Flags(), args[0])
			if err != nil {
				return err
			}
			run, err := a.execRequest(cmd.Context(), &exec, "", args[1:])
			if err != nil {
				return a.lehrFailed(err)
			}
			c, err := a.client()
			if err != nil {
				return a.lehrFailed(err)
			}
			return a.run(cmd.Context(), c, req, run)
		},
	}
	create.register(cmd.Flags())
	exec.register(cmd.Flags())
	return cmd
}

func (a *app) run(ctx context.Context, c *sdk.Client, create *lehrv1.CreateSandboxRequest, run *lehrv1.ExecRequest) (err error) {
	res, err := c.Sandboxes.Create(ctx, connect.NewRequest(create))
	if err != nil {
		return a.lehrFailed(err)
	}
	run.Id = res.Msg.GetId()
	defer func() {
		// Detached: an interrupt must not leave the sandbox behind.
		kill, done := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer done()
		_, kerr := c.Sandboxes.Kill(kill, connect.NewRequest(&lehrv1.KillSandboxRequest{Id: run.GetId()}))
		if kerr != nil && err == nil {
			err = a.lehrFailed(kerr)
		}
	}()
	return a.exec(ctx, c, run)
}
