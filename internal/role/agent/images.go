package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/host"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/image/debian"
	"github.com/lehr-dev/lehr/internal/image/oci"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// minimalFile remembers which image is the minimal base.
const minimalFile = "minimal.json"

// images is the image store as a host needs it.
type images struct {
	store   *image.Store
	minimal string // path of minimalFile
	log     *slog.Logger

	registries *registries
	client     *oci.Client
}

func newImages(store *image.Store, minimal string, r *registries) images {
	return images{
		store: store, minimal: minimal, log: r.log, registries: r,
		client: oci.NewClient(oci.ClientOptions{Registries: r.known}),
	}
}

var _ host.Images = images{}

// Has reports whether the image is there.
func (i images) Has(d lehr.Digest) bool { return i.store.Has(d) }

// Path returns the image's file.
func (i images) Path(ctx context.Context, d lehr.Digest) (string, error) { return i.store.Path(ctx, d) }

// Remove deletes an image.
func (i images) Remove(d lehr.Digest) error { return i.store.Remove(d) }

// List returns every image.
func (i images) List() ([]agent.Artifact, error) {
	stored, err := i.store.List()
	if err != nil {
		return nil, err
	}
	pulled, err := i.store.Pulled()
	if err != nil {
		return nil, err
	}
	all := make([]agent.Artifact, 0, len(stored))
	for _, s := range stored {
		all = append(all, agent.Artifact{
			Digest: s.Digest, Bytes: s.Size, Age: time.Since(s.Made), Idle: time.Since(s.Used), Cached: pulled[s.Digest],
		})
	}
	return all, nil
}

// Import makes an image from a stream.
func (i images) Import(ctx context.Context, kind agent.ImportKind, r io.Reader) (agent.Image, error) {
	if kind == agent.ImportOCI {
		return imported(oci.ImportLayout(ctx, i.store, r, oci.Options{}))
	}
	return imported(i.store.ImportTar(ctx, r, image.Limits{}))
}

// Flatten merges an image and a layer.
func (i images) Flatten(ctx context.Context, base lehr.Digest, layer io.Reader) (agent.Image, error) {
	info, err := i.store.Flatten(ctx, base, layer, image.Limits{})
	return agent.Image{Digest: info.Digest, Bytes: info.Size}, err
}

func imported(m image.Imported, err error) (agent.Image, error) {
	return agent.Image{Digest: m.Digest, Bytes: m.Size, Config: m.Config, Source: m.Source}, err
}

// Minimal returns the minimal base of this installation, which is made once.
func (i images) Minimal(ctx context.Context) (agent.Image, error) {
	if made, ok := i.remembered(); ok {
		return made, nil
	}
	made, err := imported(debian.Make(ctx, i.store, debian.Options{
		Pull: func(ctx context.Context, ref lehr.ImageRef) (image.Imported, error) {
			return i.pull(ctx, ref, oci.Login{}, nil)
		},
		Progress: func(line string) { i.log.Debug("making the minimal base", "output", line) },
	}))
	if err != nil {
		return agent.Image{}, err
	}
	b, err := json.Marshal(made)
	if err == nil {
		err = replaceFile(i.minimal, b)
	}
	if err != nil {
		return agent.Image{}, errs.Wrap(err, errs.Unavailable, "agent.Minimal", "the minimal base cannot be remembered")
	}
	i.log.Info("the minimal base was made", "digest", made.Digest, "bytes", made.Bytes, "source", made.Source)
	return made, nil
}

// remembered returns the base that was made before, if its image is still there.
func (i images) remembered() (agent.Image, bool) {
	b, err := os.ReadFile(i.minimal)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			i.log.Warn("the minimal base is made again: its record cannot be read", "error", err)
		}
		return agent.Image{}, false
	}
	var made agent.Image
	if err := json.Unmarshal(b, &made); err != nil {
		i.log.Warn("the minimal base is made again: its record is damaged", "error", err)
		return agent.Image{}, false
	}
	return made, i.store.Has(made.Digest)
}

// replaceFile writes a file that is whole or as it was.
func replaceFile(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
