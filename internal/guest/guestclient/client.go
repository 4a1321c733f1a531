// Package guestclient calls the guest daemon of one sandbox as its operator.
//
// What answers is inside the sandbox and may be anything: answers are bounded
// in size, their texts are data, and no path they name is ever used. Every call
// is bound to its context and nothing else.
package guestclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/api/gen/envd/filesystem/filesystemconnect"
	"github.com/lehr-dev/lehr/api/gen/envd/process/processconnect"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// Limits of what a daemon may answer.
const (
	maxMessage = 16 << 20 // one RPC message; a full listing is the largest
	maxHeader  = 64 << 10 // all headers of an answer
	maxBody    = 4 << 20  // a plain answer that is not a file
)

// host stands for the sandbox in URLs; the dial function decides where it is.
const host = "sandbox"

// Dial connects to the sandbox. network is "tcp"; addr is "sandbox:49983", of
// which only the port means anything.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Client is a client of one sandbox with a pool of kept connections. It is safe
// for concurrent use.
type Client struct {
	base       string
	http       *http.Client
	transport  *http.Transport
	processes  processconnect.ProcessClient
	filesystem filesystemconnect.FilesystemClient
}

// New returns a client that reaches its sandbox by dial and shows it the
// operator's secret.
func New(dial Dial, operatorSecret string) *Client {
	transport := &http.Transport{
		DialContext:            dial,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
	c := &Client{
		base:      "http://" + net.JoinHostPort(host, strconv.Itoa(wire.Port)),
		transport: transport,
		http: &http.Client{
			Transport:     operatorTransport{secret: operatorSecret, next: transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	// The way is short: packing would cost the sandbox more than it saves.
	options := connect.WithClientOptions(connect.WithReadMaxBytes(maxMessage), connect.WithAcceptCompression("gzip", nil, nil))
	c.processes = processconnect.NewProcessClient(c.http, c.base, options)
	c.filesystem = filesystemconnect.NewFilesystemClient(c.http, c.base, options)
	return c
}

// Close closes the kept connections. Calls on their way go on; later ones work
// but make connections again.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// operatorTransport adds the operator's secret to every request.
type operatorTransport struct {
	secret string
	next   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t operatorTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(wire.HeaderOperator, t.secret)
	return t.next.RoundTrip(r)
}

// Health is what a daemon says of itself.
type Health struct {
	Version  string
	Protocol int
}

// Health returns once the daemon answers, asking again and again until ctx
// ends. Errors: Unavailable with the last reason when ctx has ended; Conflict
// when the daemon speaks another protocol.
func (c *Client) Health(ctx context.Context) (Health, error) {
	pause := time.Millisecond
	for {
		h, err := c.health(ctx)
		if err == nil || errs.IsKind(err, errs.Conflict) {
			return h, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Health{}, errs.Wrap(err, errs.Unavailable, "guest.Health", "the guest daemon does not answer")
		}
		pause = min(pause*3/2, 50*time.Millisecond)
	}
}

// patience is how long one question may take before it is asked anew: a
// connection made while the sandbox starts may lead nowhere.
const patience = 2 * time.Second

func (c *Client) health(ctx context.Context) (Health, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := c.do(ctx, request{method: http.MethodGet, path: "/health"})
	if err != nil {
		return Health{}, err
	}
	defer resp.Body.Close()
	protocol, err := strconv.Atoi(resp.Header.Get(wire.HeaderProtocol))
	if err != nil || protocol != wire.Protocol {
		return Health{}, errs.New(errs.Conflict, "the guest daemon speaks protocol %.20q, not %d",
			resp.Header.Get(wire.HeaderProtocol), wire.Protocol)
	}
	return Health{Version: resp.Header.Get(wire.HeaderGuest), Protocol: protocol}, nil
}

// InitRequest says whom the daemon serves; see wire.Init.
type InitRequest = wire.Init

// Init tells the daemon whom it serves. The last call wins as a whole; it must
// be made after every start and every restore. It may be repeated.
func (c *Client) Init(ctx context.Context, init InitRequest) error {
	body, err := json.Marshal(init)
	if err != nil {
		return errs.Wrap(err, errs.Internal, "guest.Init", "the request could not be encoded")
	}
	return c.post(ctx, "/init", body)
}

// Sync writes out the sandbox's file systems.
func (c *Client) Sync(ctx context.Context) error { return c.post(ctx, "/sync", nil) }

// EndProcesses kills every process of the sandbox but the daemon and returns
// when they are gone.
func (c *Client) EndProcesses(ctx context.Context) error { return c.post(ctx, "/end-processes", nil) }

// Env returns the sandbox's default environment, completed by PATH and HOME.
func (c *Client) Env(ctx context.Context) (map[string]string, error) {
	resp, err := c.do(ctx, request{method: http.MethodGet, path: "/envs"})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var env map[string]string
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&env); err != nil {
		return nil, badAnswer("guest.Env", err)
	}
	return env, nil
}

func (c *Client) post(ctx context.Context, path string, body []byte) error {
	r := request{method: http.MethodPost, path: path, header: http.Header{"Content-Type": {"application/json"}}}
	if body != nil {
		r.body = bytes.NewReader(body)
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// request is a plain HTTP call.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         io.Reader
}

// do makes a call and returns a successful answer, whose body is the caller's
// to close.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, r.body)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "guest", "the call could not be made")
	}
	if r.header != nil {
		req.Header = r.header
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, statusError(resp)
}

// transportError tells a call that was ended from a daemon out of reach.
func transportError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("guest: %w", cause)
	}
	var known *errs.Error
	if errors.As(err, &known) {
		return err
	}
	return errs.Wrap(err, errs.Unavailable, "guest", "the guest daemon does not answer")
}

func badAnswer(op string, err error) error {
	return errs.Wrap(err, errs.Unavailable, op, "the guest daemon's answer makes no sense")
}
