package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/lehr-dev/lehr/internal/role/agent"
)

// agentCommand is how `lehr up` starts its agent; it is not for people yet.
func (a *app) agentCommand() *cobra.Command {
	var o agent.Options
	var level string
	cmd := &cobra.Command{
		Use: "agent", Short: "Hold the sandboxes of this machine for a control plane", Args: noArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Data == "" || o.Socket == "" {
				return usage("lehr agent is started by lehr up; running one on its own is not supported yet")
			}
			o.Log = a.logger(level).With("role", "agent")
			err := agent.Run(cmd.Context(), o)
			if errors.Is(err, context.Cause(cmd.Context())) {
				return nil // told to stop while it was still starting
			}
			return err
		},
	}
	cmd.Flags().StringVar(&o.Data, "data", "", "data folder")
	cmd.Flags().StringVar(&o.Socket, "socket", "", "unix socket to serve on")
	cmd.Flags().StringVar(&o.Registries, "registries", "", "registries file")
	cmd.Flags().IntVar(&o.LifeFD, "life-fd", 0, "descriptor of a pipe whose end ends the agent")
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}
