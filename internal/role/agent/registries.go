package agent

import (
	"log/slog"
	"sync"

	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/image/oci"
)

// registries is the registries file. It is read at each use, so a change counts
// from then on; a file that cannot be read leaves what it said before, and at
// first nothing but a refusal of every registry.
type registries struct {
	path string // empty: there is no file
	log  *slog.Logger

	mu   sync.Mutex
	last config.Registries
	good bool   // last was read
	told string // the last error that was logged
}

// now returns what the file says.
func (r *registries) now() config.Registries {
	if r.path == "" {
		return config.Registries{}
	}
	read, err := config.ReadRegistries(r.path)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.last, r.good, r.told = read, true, ""
		return read
	}
	if err.Error() != r.told {
		r.told = err.Error()
		r.log.Warn("the registries file counts as it was before", "error", err)
	}
	if !r.good {
		return config.Registries{OnlyListed: true}
	}
	return r.last
}

// known is now as the client of registries takes it.
func (r *registries) known() oci.Registries {
	file := r.now()
	out := oci.Registries{Hosts: map[string]oci.Registry{}, OnlyListed: file.OnlyListed}
	for host, h := range file.Hosts {
		out.Hosts[host] = oci.Registry{PlainHTTP: h.PlainHTTP, Private: h.Private, Mirror: h.Mirror}
	}
	out.Login = func(host string) (oci.Login, error) {
		login, err := file.Login(host)
		return oci.Login(login), err
	}
	return out
}
