package sdk

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// PortURL is the address under which others reach a port of a sandbox, through
// the gateway; empty where the sandbox has ended or the server has no gateway.
func PortURL(s *lehrv1.Sandbox, port uint16) string {
	return strings.ReplaceAll(s.GetPortUrl(), "{port}", strconv.Itoa(int(port)))
}

// Port returns a client for the server on a port of a sandbox: whatever host a
// URL names, the request goes there, through the address of the Client. It needs
// no name of the sandbox to be resolved. An answer of the gateway's own, such as
// 502 where nothing listens yet, has the header X-Lehr-Error-Code. Redirects are
// not followed; the API key is not sent.
func (c *Client) Port(s *lehrv1.Sandbox, port uint16) *http.Client {
	next := c.http.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	return &http.Client{Transport: portTransport{base: c.base, id: s.GetId(), port: port, next: next}, CheckRedirect: stay}
}

// portTransport leads requests to one port.
type portTransport struct {
	base, id string
	port     uint16
	next     http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t portTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	base, err := url.Parse(t.base)
	if err != nil || t.id == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.Join(errors.New("a request to no sandbox"), err))
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = base.Scheme, base.Host, base.Host
	r.Header.Set(headerSandboxID, t.id)
	r.Header.Set(headerSandboxPort, strconv.Itoa(int(t.port)))
	return t.next.RoundTrip(r)
}
