package oci

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// station is a registry in this process. Requests go to before first, which
// returns true when it has answered; its own pushes pass by.
type station struct {
	t      *testing.T
	server *httptest.Server
	host   string
	images http.Handler

	mu     sync.Mutex
	before func(w http.ResponseWriter, r *http.Request) bool
	seen   []*http.Request
}

func newStation(t *testing.T) *station {
	t.Helper()
	s := &station{t: t, images: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	s.host = strings.TrimPrefix(s.server.URL, "http://")
	return s
}

func (s *station) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	before := s.before
	s.seen = append(s.seen, r.Clone(context.Background()))
	s.mu.Unlock()
	if before == nil || !before(w, r) {
		s.images.ServeHTTP(w, r)
	}
}

// answer sets what is asked first, and forgets what was seen.
func (s *station) answer(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.seen = f, nil
}

// requests returns those seen whose path has a part.
func (s *station) requests(part string) (all []*http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if strings.Contains(r.URL.Path, part) {
			all = append(all, r)
		}
	}
	return all
}

// pushIndex pushes an index under a name and returns the reference.
func (s *station) pushIndex(path string, index v1.ImageIndex) lehr.ImageRef {
	s.t.Helper()
	ref, err := name.ParseReference(s.host + "/" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		s.t.Fatal(err)
	}
	return s.ref(path)
}

func (s *station) push(path string, img v1.Image) lehr.ImageRef {
	s.t.Helper()
	ref, err := name.ParseReference(s.host + "/" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		s.t.Fatal(err)
	}
	return s.ref(path)
}

func (s *station) ref(path string) lehr.ImageRef {
	s.t.Helper()
	r, err := lehr.ParseImageRef(s.host + "/" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// listed is a registries file that names hosts of this machine.
func listed(hosts ...string) Registries {
	r := Registries{Hosts: map[string]Registry{}}
	for _, h := range hosts {
		r.Hosts[h] = Registry{PlainHTTP: true, Private: true}
	}
	return r
}

// client returns one that waits for nothing long.
func client(r Registries) *Client {
	return NewClient(ClientOptions{Registries: func() Registries { return r }, Answer: time.Minute, Pause: time.Millisecond})
}

func (s *station) client() *Client { return client(listed(s.host)) }

func linux(arch string) *v1.Platform { return &v1.Platform{OS: "linux", Architecture: arch} }

func digestOf(t *testing.T, img interface{ Digest() (v1.Hash, error) }) lehr.Digest {
	t.Helper()
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return lehr.Digest(h.String())
}

// wanted is an error by kind and code, with a part of its text.
type wanted struct {
	kind       errs.Kind
	code, part string
}

func wantError(t *testing.T, what string, err error, w wanted) {
	t.Helper()
	if !errs.IsKind(err, w.kind) || errs.CodeOf(err) != w.code || !strings.Contains(err.Error(), w.part) {
		t.Errorf("%s = %v (%s, %s), want %s, %s with %q", what, err, errs.KindOf(err), errs.CodeOf(err), w.kind, w.code, w.part)
	}
}

// wantEmpty checks that a failed pull left no image and no file.
func wantEmpty(t *testing.T, dir string, s *image.Store) {
	t.Helper()
	if all, err := s.List(); err != nil || len(all) > 0 {
		t.Errorf("List() = %v, %v, want no image", all, err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
}

func openStoreIn(t *testing.T) (string, *image.Store) {
	t.Helper()
	dir := t.TempDir()
	s, err := image.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return dir, s
}

func port(t *testing.T, host string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(host)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
