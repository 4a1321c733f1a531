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
