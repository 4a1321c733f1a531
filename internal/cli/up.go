package cli

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/role/solo"
)

func (a *app) upCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "up", Short: "Run Lehr on this machine: API, workers and sandboxes", Args: noArgs,
		Long: "Run Lehr on this machine until interrupted: API, build workers and the agent that holds the sandboxes.\n" +
			"Every flag can also be given as LEHR_<NAME>, for instance LEHR_DATA.",
		Example: "  lehr up\n  lehr up --data /srv/lehr --listen 127.0.0.1:6000 --workers 4\n" +
			"  lehr up --domain boxes.example.com --public-url https://boxes.example.com",
		RunE: func(cmd *cobra.Command, _ []string) error {
			up, err := config.LoadUp(a.settings(cmd.Flags()))
			if err != nil {
				return usageError{err}
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return solo.Run(cmd.Context(), solo.Options{
				Config: up, ServersDir: config.ServersDir(a.getenv), AgentArgs: []string{self, "agent"},
				Log: a.logger(up.LogLevel),
				Ready: func(url string) {
					fmt.Fprintf(a.env.Stderr, "lehr is up at %s\n  try: lehr run minimal -- uname -a\n", url)
				},
			})
		},
	}
	cmd.Flags().String("data", config.DefaultData, "folder for everything that must survive")
	cmd.Flags().String("listen", config.DefaultListen, "HOST:PORT of the API")
	cmd.Flags().Int("workers", config.DefaultWorkers, "builds at the same time")
	cmd.Flags().String("host-name", "", "further names that requests may carry in Host, comma-separated")
	cmd.Flags().String("domain", config.DefaultDomain, "sandboxes are served at <port>-<id>.DOMAIN")
	cmd.Flags().String("public-url", "", "URL by which callers reach this server through a proxy, such as https://lehr.example.com")
	cmd.Flags().String("registries", "", "file with logins, mirrors and aliases of registries")
	cmd.Flags().Int64("cache-mb", 0, "MB that bases from registries may take; 0: a fifth of the disk")
	cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	return cmd
}

// settings reads flags that were given, then the environment.
func (a *app) settings(flags *pflag.FlagSet) config.Source {
	given := func(name string) (string, bool) {
		f := flags.Lookup(name)
		if f == nil || !f.Changed {
			return "", false
		}
		return f.Value.String(), true
	}
	return config.Layered(given, config.Environment(a.env.LookupEnv))
}

func (a *app) logger(level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo // LoadUp has checked it
	}
	return slog.New(slog.NewTextHandler(a.env.Stderr, &slog.HandlerOptions{Level: l}))
}
