package oci

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Codes of errors about images of registries.
const (
	CodeNotFound    = "base_not_found"       // the registry has no such image
	CodeDenied      = "registry_denied"      // it does not give it to this login
	CodeUnreachable = "registry_unreachable" // it does not answer, or not in time
	CodePlatform    = "platform_missing"     // the image is for other machines
	CodeDigest      = "digest_mismatch"      // what came is not what the digest names
)

const (
	maxRedirects = 5
	maxDocuments = 40 // read from a registry to choose one image
)

// session is one repository of one registry, logged in. It is used by one
// operation and closed with it.
type session struct {
	ref     lehr.ImageRef
	at      string // registry that is asked: the reference's or its mirror
	guard   *guard
	client  *http.Client
	base    string // URL of the repository
	secrets []string
	read    int // documents so far
}

// open logs in at the host for the repository.
func open(ctx context.Context, to target) (*session, error) {
	s := &session{ref: to.ref, at: to.host, secrets: to.login.secrets()}
	plain := to.known.Hosts[to.host].PlainHTTP
	var options []name.Option
	scheme := "https"
	if plain {
		scheme, options = "http", []name.Option{name.Insecure}
	}
	registry, err := name.NewRegistry(to.host, options...)
	if err != nil {
		return nil, errs.New(errs.Invalid, "%q is not a registry", clip(to.host))
	}
	s.guard = newGuard(registry.RegistryStr(), to.known)
	s.base = fmt.Sprintf("%s://%s/v2/%s/", scheme, registry.RegistryStr(), to.ref.Repository)
	scope := "repository:" + to.ref.Repository + ":pull"
	t, err := transport.NewWithContext(ctx, registry, to.login.authenticator(), s.guard, []string{scope})
	if err != nil {
		s.close()
		return nil, s.explain(ctx, err)
	}
	s.client = &http.Client{Transport: t, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return nil
	}}
	return s, nil
}

func (s *session) close() { s.guard.close() }

func (l Login) authenticator() authn.Authenticator {
	if l == (Login{}) {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{Username: l.Username, Password: l.Password, RegistryToken: l.Token})
}

// secrets are the forms in which the login may come back in a text.
func (l Login) secrets() []string {
	var all []string
	for _, s := range []string{l.Password, l.Token} {
		if s != "" {
			all = append(all, s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s)))
		}
	}
	if l.Password != "" {
		all = append(all, base64.StdEncoding.EncodeToString([]byte(l.Username+":"+l.Password)))
	}
	return all
}

// answerError is an answer that is no success.
type answerError struct {
	status int
	after  time.Duration // that the registry asks to wait
}

func (e *answerError) Error() string {
	return fmt.Sprintf("the registry answers %d %s", e.status, http.StatusText(e.status))
}

// get asks for a path of the repository, from a byte on. The caller closes the
// answer's body.
func (s *session) get(ctx context.Context, path string, from int64, accept ...types.MediaType) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+path, nil)
	if err != nil {
		return nil, err
	}
	for _, t := range accept {
		req.Header.Add("Accept", string(t))
	}
	if from > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK || from > 0 && res.StatusCode == http.StatusPartialContent {
		return res, nil
	}
	e := &answerError{status: res.StatusCode}
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.after = time.Duration(min(seconds, 3600)) * time.Second
	}
	return nil, errors.Join(e, res.Body.Close())
}

// small returns a small answer, which must have the digest where one is given.
func (s *session) small(ctx context.Context, path string, want lehr.Digest, accept ...types.MediaType) ([]byte, error) {
	if s.read++; s.read > maxDocuments {
		return nil, errs.New(errs.Invalid, "%s has more than %d parts to choose from", s.ref, maxDocuments)
	}
	res, err := s.get(ctx, path, 0, accept...)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	switch {
	case errors.Is(err, errLongBody), err == nil && len(b) > maxDocument:
		return nil, errs.New(errs.Invalid, "%s of %s has more than %d bytes", clip(path), s.ref, maxDocument)
	case err != nil:
		return nil, s.explain(ctx, err)
	case want != "" && lehr.DigestOf(b) != want:
		return nil, errs.New(errs.Invalid, "registry %s sends something else than %s for %s", s.at, want, s.ref).WithCode(CodeDigest)
	}
	return b, nil
}

// manifest returns the manifest or index with the identifier, a tag or digest.
func (s *session) manifest(ctx context.Context, id string) ([]byte, error) {
	want, err := lehr.ParseDigest(id)
	if err != nil {
		want = ""
	}
	b, err := s.small(
		ctx, "manifests/"+id, want, types.OCIImageIndex, types.DockerManifestList, types.OCIManifestSchema1, types.DockerManifestSchema2,
	)
	if errs.CodeOf(err) == CodeNotFound {
		return nil, errs.New(errs.NotFound, "registry %s has no image %s", s.at, s.ref).WithCode(CodeNotFound)
	}
	return b, err
}

// remoteSource is a session as the choice among images sees it.
type remoteSource struct {
	*session
	ctx  context.Context //nolint:containedctx // of one choice
	have map[v1.Hash][]byte
}

// having is the source that has one manifest already.
func (r remoteSource) having(h v1.Hash, raw []byte) remoteSource {
	if lehr.DigestOf(raw) == lehr.Digest(h.String()) {
		r.have = map[v1.Hash][]byte{h: raw}
	}
	return r
}

func (r remoteSource) name() string { return r.ref.String() }

func (r remoteSource) manifest(h v1.Hash) ([]byte, error) {
	if raw, ok := r.have[h]; ok {
		return raw, nil
	}
	if _, err := lehr.ParseDigest(h.String()); err != nil { // what came could not be checked
		return nil, errs.New(errs.Unsupported, "%s names a manifest by %s; only sha256 is read", r.ref, clip(h.String()))
	}
	return r.session.manifest(r.ctx, h.String())
}

func (r remoteSource) config(d v1.Descriptor) ([]byte, error) {
	if len(d.Data) > 0 && lehr.DigestOf(d.Data) == lehr.Digest(d.Digest.String()) {
		return bytes.Clone(d.Data), nil
	}
	return r.small(r.ctx, "blobs/"+d.Digest.String(), lehr.Digest(d.Digest.String()))
}

// explain says what a failure of the registry means, without what it or a proxy
// may have repeated of the login.
func (s *session) explain(ctx context.Context, err error) error {
	var known *errs.Error
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, errNoAnswer) {
			e := errs.Wrap(errNoAnswer, errs.Unavailable, "oci.registry", "registry "+s.at+" did not answer in time").WithCode(CodeUnreachable)
			return &temporary{err: e}
		}
		return cause
	}
	if errors.As(err, &known) {
		return known
	}
	if strings.Contains(err.Error(), "invalid realm") { // the library's own look at it
		return forbidden("registry %s sends for a token to where it must not", s.at)
	}
	status := 0
	var answer *answerError
	var refused *transport.Error
	switch {
	case errors.As(err, &answer):
		status = answer.status
	case errors.As(err, &refused):
		status = refused.StatusCode
	}
	hidden := s.scrub(err)
	switch status {
	case http.StatusNotFound:
		return errs.Wrap(hidden, errs.NotFound, "oci.registry", "registry "+s.at+" has no "+s.ref.String()).WithCode(CodeNotFound)
	case http.StatusUnauthorized, http.StatusForbidden:
		return errs.Wrap(hidden, errs.PermissionDenied, "oci.registry", "registry "+s.at+" does not give "+s.ref.Tagged()+" to "+s.whom()).
			WithCode(CodeDenied).WithRemedy("is the name right? a private image needs a login that may pull it")
	case 0:
		return &temporary{err: errs.Wrap(hidden, errs.Unavailable, "oci.registry", "registry "+s.at+" cannot be reached").WithCode(CodeUnreachable)}
	}
	e := errs.Wrap(hidden, errs.Unavailable, "oci.registry", fmt.Sprintf("registry %s answers %d %s", s.at, status, http.StatusText(status))).
		WithCode(CodeUnreachable)
	if status < 500 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout {
		return e
	}
	t := &temporary{err: e}
	if answer != nil {
		t.after = answer.after
	}
	return t
}

func (s *session) whom() string {
	if len(s.secrets) == 0 {
		return "everybody"
	}
	return "this login"
}

// scrub returns err's text without secrets, cut off from err itself.
func (s *session) scrub(err error) error {
	text := err.Error()
	for _, secret := range s.secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	const most = 1 << 10
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return errors.New(text)
}

// temporary is a failure that may not happen again.
type temporary struct {
	err   *errs.Error
	after time.Duration // that the registry asks to wait, 0 where it does not say
}

// Error implements error.
func (t *temporary) Error() string { return t.err.Error() }

// Unwrap returns the error itself.
func (t *temporary) Unwrap() error { return t.err }
