package hosttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/engine/fake"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Images is an image store of plain tar files, the fake engine's format.
type Images struct {
	dir   string
	clock clock.Clock
	made  atomic.Int32

	mu     sync.Mutex
	offers map[string]offer // by reference
}

var _ host.Images = (*Images)(nil)

func openImages(dir string, c clock.Clock) (*Images, error) {
	if c == nil {
		c = clock.Real()
	}
	return &Images{dir: dir, clock: c}, os.MkdirAll(dir, 0o755)
}

// MinimalsMade counts how often the minimal base was made.
func (s *Images) MinimalsMade() int { return int(s.made.Load()) }

func (s *Images) file(d lehr.Digest) string { return filepath.Join(s.dir, d.Hex()+".tar") }

// add stores an image.
func (s *Images) add(b []byte) (agent.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := lehr.DigestOf(b)
	if err := writeFile(s.file(d), b); err != nil {
		return agent.Image{}, errs.Wrap(err, errs.Internal, "hosttest.Images", "the image cannot be stored")
	}
	return agent.Image{Digest: d, Bytes: int64(len(b))}, nil
}

// Has reports whether the image is there.
func (s *Images) Has(d lehr.Digest) bool {
	_, err := os.Stat(s.file(d))
	return err == nil
}

// List returns every image.
func (s *Images) List() ([]agent.Artifact, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var all []agent.Artifact
	for _, e := range entries {
		d, err := lehr.ParseDigest("sha256:" + strings.TrimSuffix(e.Name(), ".tar"))
		info, serr := e.Info()
		if err == nil && serr == nil {
			all = append(all, agent.Artifact{Digest: d, Bytes: info.Size(), Age: time.Since(info.ModTime())})
		}
	}
	return all, nil
}

// Path returns the image's file, read and compared each time.
func (s *Images) Path(_ context.Context, d lehr.Digest) (string, error) {
	b, err := os.ReadFile(s.file(d))
	if errors.Is(err, fs.ErrNotExist) {
		return "", errs.New(errs.NotFound, "there is no image %s", d)
	}
	if err != nil || lehr.DigestOf(b) != d {
		return "", errs.New(errs.Corrupt, "image %s is damaged", d)
	}
	return s.file(d), nil
}

// Import stores a tar; OCI layouts are not understood.
func (s *Images) Import(_ context.Context, kind agent.ImportKind, r io.Reader) (agent.Image, error) {
	if kind != agent.ImportTar {
		return agent.Image{}, errs.New(errs.Unsupported, "the test's image store reads no %s", kind)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return agent.Image{}, err
	}
	// Merging with nothing checks the tar and gives it its one form.
	var merged bytes.Buffer
	if err := fake.Merge(&merged, bytes.NewReader(b), strings.NewReader("")); err != nil {
		return agent.Image{}, errs.New(errs.Invalid, "%w", err)
	}
	img, err := s.add(merged.Bytes())
	img.Source = "tar"
	return img, err
}

// Minimal makes the minimal base.
func (s *Images) Minimal(context.Context) (agent.Image, error) {
	s.made.Add(1)
	img, err := s.add(minimalTar())
	img.Source, img.Config.Debian = "hosttest", true
	img.Config.Env = []lehr.EnvVar{{Name: "PATH", Value: defaultPath}}
	return img, err
}

// Resolve knows the references that the test gave to Offer.
func (s *Images) Resolve(_ context.Context, r agent.RegistryImage) (agent.ResolvedImage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.offers[r.Reference]
	if !ok {
		return agent.ResolvedImage{}, errs.New(errs.NotFound, "no registry has %s", r.Reference).WithCode("base_not_found")
	}
	return agent.ResolvedImage{Reference: r.Reference, Config: o.config}, nil
}

// Pull makes the image of a reference that the test gave to Offer.
func (s *Images) Pull(ctx context.Context, r agent.RegistryImage, tell func(agent.PullProgress)) (agent.Image, error) {
	tell(agent.PullProgress{Layers: 1})
	s.mu.Lock()
	o, ok := s.offers[r.Reference]
	s.mu.Unlock()
	if !ok {
		return agent.Image{}, errs.New(errs.NotFound, "no registry has %s", r.Reference).WithCode("base_not_found")
	}
	if o.pull != nil {
		if err := o.pull(ctx); err != nil {
			return agent.Image{}, err
		}
	}
	img, err := s.add(minimalTar())
	img.Source, img.Config = r.Reference, o.config
	return img, err
}

// Offer makes a reference known, whose image is like minimal. pull is called by
// each Pull and may block or fail; nil does nothing.
func (s *Images) Offer(reference string, config lehr.ImageConfig, pull func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.offers == nil {
		s.offers = map[string]offer{}
	}
	s.offers[reference] = offer{config, pull}
}

// offer is one image of a registry.
type offer struct {
	config lehr.ImageConfig
	pull   func(context.Context) error
}

// Flatten merges an image and a layer.
func (s *Images) Flatten(ctx context.Context, base lehr.Digest, over io.Reader) (agent.Image, error) {
	path, err := s.Path(ctx, base)
	if err != nil {
		return agent.Image{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return agent.Image{}, err
	}
	defer f.Close()
	var merged bytes.Buffer
	if err := fake.Merge(&merged, f, over); err != nil {
		return agent.Image{}, err
	}
	return s.add(merged.Bytes())
}

// Remove deletes an image.
func (s *Images) Remove(d lehr.Digest) error {
	if err := os.Remove(s.file(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
