package sdk

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem/filesystemconnect"
	"github.com/lehr-dev/lehr/api/gen/envd/process/processconnect"
	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// Words of the guest daemon's protocol and of the gateway.
const (
	guestPort          = 49983
	headerSandboxID    = "Lehr-Sandbox-Id"
	headerSandboxPort  = "Lehr-Sandbox-Port"
	headerToken        = "X-Access-Token"
	headerErrorCode    = "X-Lehr-Error-Code"
	headerOnDisconnect = "X-Lehr-On-Disconnect"
	headerKeepalive    = "Keepalive-Ping-Interval"
	trailerSignal      = "X-Lehr-Signal"
)

// Limits of what a sandbox may answer.
const (
	maxGuestMessage = 16 << 20 // one message; a full listing is the largest
	maxGuestError   = 64 << 10 // the body of a refusal
)

// Guest works inside one sandbox, through the server's gateway and the guest
// daemon: terminals, processes with input, and files. What comes back is the
// sandbox's word: sizes are bounded, names and texts are not to be trusted. A
// Guest is safe for concurrent use.
type Guest struct {
	Processes *Processes
	Files     *Files

	base      string
	id, token string
	next      http.RoundTripper
}

// Guest returns a client for the inside of a sandbox, as Sandboxes.Create or
// Get returned it: lists leave out the access token that it needs. It works as
// the sandbox's default user.
func (c *Client) Guest(s *lehrv1.Sandbox) *Guest {
	next := c.http.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	return newGuest(&Guest{base: c.base, id: s.GetId(), token: s.GetAccessToken(), next: next}, "")
}

// As returns the same for another user of the sandbox, by name or number.
func (g *Guest) As(user string) *Guest {
	return newGuest(&Guest{base: g.base, id: g.id, token: g.token, next: g.next}, user)
}

func newGuest(g *Guest, user string) *Guest {
	t := guestTransport{id: g.id, token: g.token, user: user, next: g.next}
	h := &http.Client{Transport: t, CheckRedirect: stay}
	limit := connect.WithReadMaxBytes(maxGuestMessage)
	g.Processes = &Processes{rpc: processconnect.NewProcessClient(h, g.base, limit)}
	g.Files = &Files{rpc: filesystemconnect.NewFilesystemClient(h, g.base, limit), http: h, base: g.base}
	return g
}

// guestTransport leads requests into the sandbox. The API key is not sent: it
// is the server's and no sandbox's business.
type guestTransport struct {
	id, token, user string
	next            http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t guestTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.token == "" {
		return nil, connect.NewWireError(connect.CodeUnimplemented, errors.New("the server gave no access token for sandbox "+t.id+": it has no gateway, or the sandbox comes from a list"))
	}
	r = r.Clone(r.Context())
	r.Header.Set(headerSandboxID, t.id)
	r.Header.Set(headerSandboxPort, strconv.Itoa(guestPort))
	r.Header.Set(headerToken, t.token)
	if t.user != "" {
		r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(t.user+":")))
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err := refusal(resp); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// refusal reads an answer in the plain form {"code": STATUS, "message"}, which
// the gateway and the file routes give; nil where it is another one.
func refusal(resp *http.Response) error {
	if resp.StatusCode < 300 || resp.Header.Get("Content-Type") != "application/json" {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxGuestError))
	var body struct {
		Code    json.RawMessage `json:"code"`
		Message string          `json:"message"`
	}
	if err != nil || json.Unmarshal(b, &body) != nil || body.Message == "" || body.Code == nil || body.Code[0] == '"' {
		resp.Body = rest{io.MultiReader(bytes.NewReader(b), resp.Body), resp.Body} // Connect's own form
		return nil
	}
	return guestError(resp.StatusCode, resp.Header.Get(headerErrorCode), body.Message)
}

// rest is a body of which the beginning was read already.
type rest struct {
	io.Reader
	io.Closer
}

// guestError makes the error of a plain answer.
func guestError(status int, code, message string) error {
	err := connect.NewWireError(codeOfStatus(status), errors.New(message))
	if code != "" {
		err.Meta().Set(headerErrorCode, code)
	}
	return err
}

func codeOfStatus(status int) connect.Code {
	switch status {
	case http.StatusBadRequest:
		return connect.CodeInvalidArgument
	case http.StatusUnauthorized:
		return connect.CodeUnauthenticated
	case http.StatusForbidden:
		return connect.CodePermissionDenied
	case http.StatusNotFound:
		return connect.CodeNotFound
	case http.StatusConflict:
		return connect.CodeFailedPrecondition
	case http.StatusTooManyRequests, http.StatusInsufficientStorage:
		return connect.CodeResourceExhausted
	case http.StatusNotImplemented:
		return connect.CodeUnimplemented
	}
	return connect.CodeUnavailable
}
