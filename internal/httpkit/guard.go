package httpkit

import (
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/lehr-dev/lehr/internal/errs"
)

// GuardHost refuses requests whose Host is none of ours: an IP address,
// localhost or one of names. A page that rebinds its own DNS name to us keeps
// its name in Host and is stopped here.
func GuardHost(names []string, next http.Handler) http.Handler {
	hosts := NewHosts(names...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hosts.Own(r.Host) {
			WriteError(w, errs.New(errs.PermissionDenied, "the Host %q is not served here", clip(Hostname(r.Host))).
				WithCode("host_refused").
				WithRemedy("call the server by its address, or start it with --host-name"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// Recover turns a panic in a handler into an internal error and a log line
// with the stack; http.ErrAbortHandler passes.
func Recover(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it the same way
				panic(p)
			}
			log.Error("panic in a handler", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			WriteError(w, errs.New(errs.Internal, "an internal error happened"))
		}()
		next.ServeHTTP(w, r)
	})
}
