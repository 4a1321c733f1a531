// Package api is the native API: the lehr.v1 Connect services and, over the
// same methods, the REST door under /v1. It authenticates, translates and
// decides nothing.
package api

import (
	"log/slog"
	"net/http"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/lehr/v1/lehrv1connect"
	"github.com/lehr-dev/lehr/api/openapi"
	"github.com/lehr-dev/lehr/internal/build"
	"github.com/lehr-dev/lehr/internal/httpkit"
	"github.com/lehr-dev/lehr/internal/sandbox"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/template"
)

// Options are the parts behind the API; all but HostNames, Gateway and Metrics
// are required.
type Options struct {
	Builds    *build.BuildService
	Templates *template.Service
	Sandboxes *sandbox.Service
	Accounts  store.Accounts
	Ready     func() error // nil once requests are taken
	Metrics   http.Handler // nil: no /metrics
	HostNames []string     // names besides addresses and localhost that Host may carry
	Gateway   Gateway      // zero: sandboxes have no addresses
	Log       *slog.Logger
}

// maxRequest bounds one message of the API, in bytes.
const maxRequest = 4 << 20

// New returns the handler of every route. It is safe for concurrent use.
func New(o Options) http.Handler {
	d := &door{
		builds:    &builds{service: o.Builds, log: o.Log},
		templates: &templates{service: o.Templates},
		sandboxes: &sandboxes{service: o.Sandboxes, gateway: o.Gateway},
		keys:      &keys{accounts: o.Accounts},
		teams:     &teams{accounts: o.Accounts},
		log:       o.Log,
	}
	guarded := http.NewServeMux()
	d.connect(guarded)
	d.rest(guarded)

	mux := http.NewServeMux()
	mux.Handle("/", authenticate(o.Accounts, o.Log, guarded))
	mux.HandleFunc("GET /v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openapi.JSON()) // a client that is gone gets nothing
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", readyz(o.Ready))
	if o.Metrics != nil {
		mux.Handle("GET /metrics", o.Metrics)
	}
	return httpkit.Recover(o.Log, httpkit.GuardHost(o.HostNames, mux))
}

func readyz(ready func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			httpkit.WriteError(w, err)
			return
		}
		w.WriteHeader(http.StatusOK)
	}
}

// door holds the service handlers that Connect and REST share.
type door struct {
	builds    *builds
	templates *templates
	sandboxes *sandboxes
	keys      *keys
	teams     *teams
	log       *slog.Logger
}

func (d *door) connect(mux *http.ServeMux) {
	opts := connect.WithHandlerOptions(
		connect.WithInterceptors(translate{log: d.log}),
		connect.WithReadMaxBytes(maxRequest),
	)
	mux.Handle(lehrv1connect.NewBuildServiceHandler(d.builds, opts))
	mux.Handle(lehrv1connect.NewTemplateServiceHandler(d.templates, opts))
	mux.Handle(lehrv1connect.NewSandboxServiceHandler(d.sandboxes, opts))
	mux.Handle(lehrv1connect.NewKeyServiceHandler(d.keys, opts))
	mux.Handle(lehrv1connect.NewTeamServiceHandler(d.teams, opts))
}
