package cli

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/lehr-dev/lehr/internal/program"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		Example: "  lehr version -o json",
		RunE: func(*cobra.Command, []string) error {
			if !a.json() {
				_, err := fmt.Fprintf(a.env.Stdout, "lehr %s (%s, %s)\n", program.Version(), program.Platform(), runtime.Version())
				return err
			}
			enc := json.NewEncoder(a.env.Stdout)
			enc.SetIndent("", "  ")
			return enc.Encode(map[string]string{"version": program.Version(), "platform": program.Platform(), "go": runtime.Version()})
		},
	}
}
