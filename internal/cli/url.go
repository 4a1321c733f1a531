package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
)

func (a *app) sandboxURL() *cobra.Command {
	return &cobra.Command{
		Use: "url SANDBOX [PORT]", Short: "Print the address of a server in a sandbox", Args: urlArgs,
		Long: "Print the URL under which a port of a sandbox is reached from outside. Without PORT it is the lowest port that\n" +
			"the template exposes.",
		Example: "  lehr sandbox url sb…\n  curl $(lehr sandbox url sb… 8080)",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := a.sandbox(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			url, err := portURL(s, args[1:])
			if err != nil {
				return err
			}
			if a.json() {
				err = json.NewEncoder(a.env.Stdout).Encode(struct {
					URL string `json:"url"`
				}{url})
			} else {
				_, err = fmt.Fprintln(a.env.Stdout, url)
			}
			return err
		},
	}
}

// urlArgs wants a sandbox and perhaps a port.
func urlArgs(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return usage("lehr sandbox url wants SANDBOX [PORT]")
	case len(args) > 2:
		return usage("lehr sandbox url wants SANDBOX [PORT], not %q too", args[2])
	case len(args) == 1:
		return nil
	}
	if n, err := strconv.ParseUint(args[1], 10, 16); err != nil || n == 0 {
		return usage("%q is not a port: want a number from 1 to 65535", args[1])
	}
	return nil
}

// portURL is the address of a port of a sandbox, of the exposed one where none
// is given.
func portURL(s *lehrv1.Sandbox, port []string) (string, error) {
	switch {
	case s.GetPortUrl() == "" && s.GetDomain() == "":
		return "", errs.New(errs.Unsupported, "the server serves no ports of sandboxes").WithRemedy("start it with --domain")
	case s.GetPortUrl() == "":
		return "", errs.New(errs.Conflict, "sandbox %s is %s", s.GetId(), s.GetState()).WithCode("sandbox_ended").WithRemedy("create another one")
	case len(port) == 1:
		n, _ := strconv.ParseUint(port[0], 10, 16) // urlArgs has looked
		return strings.ReplaceAll(s.GetPortUrl(), "{port}", strconv.FormatUint(n, 10)), nil
	case s.GetUrl() == "":
		return "", errs.New(errs.NotFound, "template %s exposes no port", s.GetTemplate()).WithCode("port_unknown").
			WithRemedy("name the port: lehr sandbox url %s PORT; or write EXPOSE PORT into the recipe", s.GetId())
	}
	return s.GetUrl(), nil
}
