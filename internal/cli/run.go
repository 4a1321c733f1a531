package cli

import (
	"context"
	"sync"
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
		Long: "Run one command in a new sandbox, then remove it. Without CMD the template's default start command runs. Should lehr\n" +
			"itself be killed or stopped, the sandbox ends by itself after about a minute.",
		Example: "  lehr run minimal -- cat /etc/os-release\n  echo 'print(6*7)' | lehr run -i python -- python3 -\n  lehr run web --timeout 10s -e MODE=test -- ./check",
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

// A run's sandbox lives this long without its command line, which renews that
// often enough for a few attempts to fail.
const (
	runTTL   = time.Minute
	runRenew = 15 * time.Second
	runRetry = 5 * time.Second
)

func (a *app) run(ctx context.Context, c *sdk.Client, create *lehrv1.CreateSandboxRequest, run *lehrv1.ExecRequest) (err error) {
	create.Timeout = runTTL.String()
	res, err := c.Sandboxes.Create(ctx, connect.NewRequest(create))
	if err != nil {
		return a.lehrFailed(a.meantTemplate(ctx, c, create.GetTemplate(), err))
	}
	run.Id = res.Msg.GetId()
	renewing, stop := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() { renew(renewing, c, run.GetId()) })
	defer func() {
		stop()
		renewal.Wait()
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

// renew keeps a sandbox alive until ctx ends. What goes wrong shows in the
// command's stream.
func renew(ctx context.Context, c *sdk.Client, id string) {
	pause := runRenew
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		call, done := context.WithTimeout(ctx, runRenew)
		_, err := c.Sandboxes.SetTimeout(call, connect.NewRequest(&lehrv1.SetSandboxTimeoutRequest{Id: id, Timeout: runTTL.String()}))
		done()
		pause = runRenew
		if err != nil {
			pause = runRetry
		}
	}
}
