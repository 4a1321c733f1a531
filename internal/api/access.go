package api

import (
	"context"
	"strconv"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Gateway says how sandboxes are reached from outside. The zero value is that
// they are not.
type Gateway struct {
	Scheme string // of URLs: "http" or "https"
	Domain string // sandboxes are its subdomains; with the port where URLs need it
	// AccessToken returns the token of a sandbox's users.
	AccessToken func(lehr.SandboxID) string
}

// url is the address of a port of a sandbox.
func (g Gateway) url(id lehr.SandboxID, port string) string {
	return g.Scheme + "://" + port + "-" + string(id) + "." + g.Domain
}

// addresser adds to sandboxes how they are reached. It remembers what templates
// expose, so that a list asks once for each; it serves one request.
type addresser struct {
	s     *sandboxes
	ports map[lehr.VersionID]uint16
}

func (s *sandboxes) addresser() *addresser {
	return &addresser{s: s, ports: map[lehr.VersionID]uint16{}}
}

// message is a sandbox with domain and, while it lives, URL.
func (a *addresser) message(ctx context.Context, box lehr.Sandbox) *lehrv1.Sandbox {
	m := sandboxMessage(box)
	if a.s.gateway.Domain == "" {
		return m
	}
	m.Domain = orNull(a.s.gateway.Domain)
	if !box.State.Live() {
		return m
	}
	m.PortUrl = orNull(a.s.gateway.url(box.ID, "{port}"))
	port, known := a.ports[box.VersionID]
	if !known {
		// A version that cannot be read costs the URL, not the sandbox.
		port, _ = a.s.service.ExposedPort(ctx, box)
		a.ports[box.VersionID] = port
	}
	if port != 0 {
		m.Url = orNull(a.s.gateway.url(box.ID, strconv.Itoa(int(port))))
	}
	return m
}

// message is one sandbox as its address is known.
func (s *sandboxes) message(ctx context.Context, box lehr.Sandbox) *lehrv1.Sandbox {
	return s.addresser().message(ctx, box)
}

// whole is one sandbox with the token of its users too, for who created it or
// asks for it alone.
func (s *sandboxes) whole(ctx context.Context, box lehr.Sandbox) *lehrv1.Sandbox {
	m := s.message(ctx, box)
	if box.State.Live() && s.gateway.AccessToken != nil {
		m.AccessToken = orNull(s.gateway.AccessToken(box.ID))
	}
	return m
}
