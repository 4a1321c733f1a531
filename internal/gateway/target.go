package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/lehr-dev/lehr/internal/httpkit"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// The headers that name a sandbox and a port, in both forms that are read.
var routing = [...]struct{ id, port string }{
	{"Lehr-Sandbox-Id", "Lehr-Sandbox-Port"},
	{"E2b-Sandbox-Id", "E2b-Sandbox-Port"},
}

// target is whom a request is for.
type target struct {
	id       lehr.SandboxID // as the request says it; may be no id at all
	port     uint16
	byHeader bool // and not by the host's name
}

// addr is the target in URLs of the pool; each has connections of its own.
func (t target) addr() string { return string(t.id) + ":" + strconv.Itoa(int(t.port)) }

// find says whether a request is for a sandbox, and for which. A request that
// wants to be but is malformed is refused.
func (g *Gateway) find(r *http.Request) (t target, ours bool, refused *refusal) {
	name := httpkit.Hostname(r.Host)
	if label, ok := strings.CutSuffix(name, "."+g.o.Domain); ok && !g.own[name] {
		port, id, ok := strings.Cut(label, "-")
		if !ok || !digits(port) || strings.Contains(id, ".") {
			return target{}, false, nil // another name under the domain
		}
		t, refused = parse(id, port)
		return t, true, refused
	}
	if !g.own.Own(r.Host) {
		return target{}, false, nil // the API refuses it
	}
	for _, names := range routing {
		ids, ports := r.Header.Values(names.id), r.Header.Values(names.port)
		switch {
		case len(ids) == 0 && len(ports) == 0:
			continue
		case len(ids) != 1 || len(ports) != 1:
			return target{}, true, &refusal{
				status: http.StatusBadRequest, code: "routing_invalid",
				message: "want one " + names.id + " and one " + names.port + " header",
			}
		}
		t, refused = parse(ids[0], ports[0])
		t.byHeader = true
		return t, true, refused
	}
	return target{}, false, nil
}

// parse reads an id and a port. An id that can be nobody's is that of a sandbox
// that was not found.
func parse(id, port string) (target, *refusal) {
	t := target{id: lehr.SandboxID(id)}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || !digits(port) {
		return t, &refusal{status: http.StatusBadRequest, id: t.id, code: "port_invalid", message: "The port is not a number from 1 to 65535"}
	}
	t.port = uint16(n)
	if _, err := lehr.ParseSandboxID(id); err != nil {
		return t, notFound(t)
	}
	return t, nil
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
