package guestd

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/lehr-dev/lehr/internal/guest/account"
	"github.com/lehr-dev/lehr/internal/guest/initd"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// defaultPath is the PATH of a sandbox whose image names none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// state is what the last /init said. The operator's digest of that moment is
// kept with it: a restore changes the digest, and with it everything said
// before is void until the new operator has spoken.
type state struct {
	mu     sync.Mutex
	init   wire.Init
	digest initd.Digest
	set    bool
}

// replace installs init and reports whether another sandbox was meant before.
func (st *state) replace(init wire.Init, digest initd.Digest) (changed bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	changed = st.set && (st.init.SandboxID != init.SandboxID || st.digest != digest)
	st.init, st.digest, st.set = init, digest, true
	return changed
}

// current returns what holds now: the zero Init after a restore.
func (s *Server) current() wire.Init {
	digest, ok := s.opt.Secret.Current()
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	if !ok || !s.state.set || s.state.digest != digest {
		return wire.Init{}
	}
	return s.state.init
}

// userOf resolves the user a request works as.
func (s *Server) userOf(h http.Header, query string, init wire.Init) (account.User, error) {
	basic, _, _ := (&http.Request{Header: h}).BasicAuth()
	return s.opt.Users.Resolve(cmp.Or(h.Get(wire.HeaderUser), basic, query, init.DefaultUser, "0"))
}

// environment returns the variables a process of u starts with, sorted: what
// its account implies, the sandbox's defaults over it, and extra over these.
// A default HOME that is another user's home was meant for that user and does
// not count.
func (s *Server) environment(u account.User, init wire.Init, extra map[string]string) map[string]string {
	env := map[string]string{
		"PATH": defaultPath, "HOME": u.Home, "USER": u.Name, "LOGNAME": u.Name, "SHELL": u.Shell,
	}
	maps.Copy(env, init.EnvVars)
	if s.opt.Users.IsHomeOfOther(env["HOME"], u) {
		env["HOME"] = u.Home
	}
	maps.Copy(env, extra)
	return env
}

// pairs turns variables into what exec takes, leaving out names it cannot.
func pairs(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if k != "" && !strings.ContainsAny(k, "=\x00") && !strings.Contains(env[k], "\x00") {
			list = append(list, k+"="+env[k])
		}
	}
	return list
}
