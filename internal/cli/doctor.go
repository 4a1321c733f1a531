package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var o doctor.Options
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can run sandboxes, and say what to do if not", Args: noArgs,
		Example: "  lehr doctor\n  lehr doctor --data /srv/lehr --listen 127.0.0.1:6000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := doctor.Run(cmd.Context(), o)
			if err := a.printChecks(checks); err != nil {
				return err
			}
			if !doctor.Ready(checks) {
				return exitCode(ExitRefused)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.DataDir, "data", config.DefaultData, "data folder that lehr up would use")
	cmd.Flags().StringVar(&o.Listen, "listen", "", "address that lehr up would listen on (default: not looked at)")
	return cmd
}

func (a *app) printChecks(checks []doctor.Check) error {
	if a.json() {
		enc := json.NewEncoder(a.env.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(checks)
	}
	for _, c := range checks {
		mark := "ok  "
		switch {
		case !c.OK && c.Optional:
			mark = "warn"
		case !c.OK:
			mark = "FAIL"
		}
		if _, err := fmt.Fprintf(a.env.Stdout, "%s  %-20s %s\n", mark, c.Name, clean(c.Detail)); err != nil {
			return err
		}
		if !c.OK {
			fmt.Fprintf(a.env.Stdout, "      try: %s\n", c.Remedy)
		}
	}
	return nil
}
