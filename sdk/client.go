// Package sdk is the Go client of Lehr's native API: the generated Connect
// clients with the address, the key and errors in one place, and help where
// bare calls are clumsy.
//
//	c, err := sdk.New(sdk.Options{URL: "http://127.0.0.1:5347", Key: key})
//	b, err := c.Builds.Get(ctx, connect.NewRequest(&lehrv1.GetBuildRequest{Id: id}))
//
// Builds, Templates, Sandboxes, Keys and Teams are the services of the API; every
// method is documented at its message. Besides there are
//
//   - FollowBuild, which shows a build's log to its end, whatever breaks;
//   - AllBuilds, AllSandboxes and so on, which walk through the pages of a list;
//   - Guest, which works inside a sandbox: terminals, processes, files;
//   - Port and PortURL, which reach a server in a sandbox;
//   - ErrorDetail, which reads the code and the remedy of an error.
//
// Calls have no time limit of their own: their context ends them. A create with
// an idempotency key may be made again after its answer was lost; Broken says
// after which errors that makes sense.
package sdk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/api/gen/lehr/v1/lehrv1connect"
)

// Options says which server to call and how.
type Options struct {
	URL  string       // "http://127.0.0.1:5347"
	Key  string       // "lehr_" and 40 hex digits
	HTTP *http.Client // nil: one without a time limit and redirects; contexts end calls
}

// Client calls one server. It is safe for concurrent use.
type Client struct {
	Builds    lehrv1connect.BuildServiceClient
	Templates lehrv1connect.TemplateServiceClient
	Sandboxes lehrv1connect.SandboxServiceClient
	Keys      lehrv1connect.KeyServiceClient
	Teams     lehrv1connect.TeamServiceClient

	base string
	http *http.Client
}

// New returns a client. It does not call the server; the error is about the
// options.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("server URL %q: want http://HOST:PORT", o.URL)
	}
	h := o.HTTP
	if h == nil {
		h = &http.Client{CheckRedirect: stay, Transport: transport()}
	}
	base := strings.TrimSuffix(o.URL, "/")
	opts := connect.WithInterceptors(auth{key: o.Key})
	return &Client{
		Builds:    lehrv1connect.NewBuildServiceClient(h, base, opts),
		Templates: lehrv1connect.NewTemplateServiceClient(h, base, opts),
		Sandboxes: lehrv1connect.NewSandboxServiceClient(h, base, opts),
		Keys:      lehrv1connect.NewKeyServiceClient(h, base, opts),
		Teams:     lehrv1connect.NewTeamServiceClient(h, base, opts),
		base:      base, http: h,
	}, nil
}

// transport is Go's own with more kept connections, for callers that work in
// parallel.
func transport() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	t = t.Clone()
	t.MaxIdleConnsPerHost = 32
	return t
}

// ErrorDetail returns the code, message and remedy that the server or a
// sandbox's guest daemon sent with err, or nil where err came from neither.
func ErrorDetail(err error) *lehrv1.Error {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return nil
	}
	for _, d := range ce.Details() {
		v, err := d.Value()
		if e, ok := v.(*lehrv1.Error); err == nil && ok {
			return e
		}
	}
	if code := ce.Meta().Get(headerErrorCode); code != "" {
		return &lehrv1.Error{Code: code, Message: ce.Message()}
	}
	return nil
}

// stay follows no redirect: the key is for the server that was named, and Go
// would take its header along to another one.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// auth sends the key with every call.
type auth struct{ key string }

func (a auth) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		a.set(req.Header())
		return next(ctx, req)
	}
}

func (a auth) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		a.set(conn.RequestHeader())
		return conn
	}
}

func (a auth) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (a auth) set(h http.Header) {
	if a.key != "" {
		h.Set("X-API-Key", a.key)
	}
}
