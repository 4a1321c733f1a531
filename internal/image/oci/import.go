package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
)

// Options say what to import.
type Options struct {
	Ref    string // name of the image in a layout that has several; empty: there is only one
	Limits image.Limits
}

// picture is a container image: what it consists of and how to read it.
type picture struct {
	manifest *v1.Manifest // nil for those of docker archives
	config   *v1.ConfigFile
	source   string // for provenance
	layers   []func(context.Context) (io.ReadCloser, error)
}

// pictureOf reads the manifest and configuration of one image.
func pictureOf(in source, digest v1.Hash) (picture, error) {
	raw, err := in.manifest(digest)
	if err != nil {
		return picture{}, err
	}
	p := picture{}
	if p.manifest, err = readManifest(raw, digest.String()); err != nil {
		return picture{}, err
	}
	if raw, err = in.config(p.manifest.Config); err != nil {
		return picture{}, err
	}
	if p.config, err = v1.ParseConfigFile(bytes.NewReader(raw)); err != nil {
		return picture{}, errs.New(errs.Invalid, "the configuration of image %s cannot be read: %w", digest, err)
	}
	return p, nil
}

// document is what an index and a manifest have in common.
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	Manifests     json.RawMessage `json:"manifests"`
	Layers        json.RawMessage `json:"layers"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// isIndex reports whether raw is an index rather than a manifest. What could be
// taken for both is refused, and so is the form of before 2016, by name.
func isIndex(raw []byte, name string) (bool, error) {
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return false, errs.New(errs.Invalid, "the manifest of %s cannot be read: %w", clip(name), err)
	}
	switch {
	case d.SchemaVersion == 1 || d.FSLayers != nil || d.MediaType == types.DockerManifestSchema1 || d.MediaType == types.DockerManifestSchema1Signed:
		return false, errs.New(errs.Unsupported, "%s has a manifest of schema 1, which has not been written since 2016", clip(name)).
			WithCode("manifest_schema1").WithRemedy("pull and push the image once with a current tool")
	case (d.Manifests != nil) == (d.Layers != nil):
		return false, errs.New(errs.Invalid, "the manifest of %s is neither an image's nor an index", clip(name))
	}
	return d.Manifests != nil, nil
}

// readManifest reads the manifest of an image.
func readManifest(raw []byte, name string) (*v1.Manifest, error) {
	index, err := isIndex(raw, name)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	switch {
	case index:
		return nil, errs.New(errs.Invalid, "%s is an index where an image was expected", clip(name))
	case err != nil:
		return nil, errs.New(errs.Invalid, "the manifest of %s cannot be read: %w", clip(name), err)
	}
	return m, nil
}

// check refuses what is not a container image for this machine.
func (p picture) check() error {
	if p.config.OS != platform().OS || p.config.Architecture != platform().Architecture {
		return errs.New(errs.Invalid, "the image is for %s/%s, not for %s", clip(p.config.OS), clip(p.config.Architecture), platform()).
			WithCode(CodePlatform)
	}
	if p.manifest == nil {
		return checkConfig(p.config.Config)
	}
	if len(p.manifest.Layers) != len(p.config.RootFS.DiffIDs) {
		return errs.New(errs.Invalid, "the manifest has %d layers, the configuration %d", len(p.manifest.Layers), len(p.config.RootFS.DiffIDs))
	}
	for _, d := range p.manifest.Layers {
		if !d.MediaType.IsLayer() || !d.MediaType.IsDistributable() {
			return errs.New(errs.Unsupported, "layer %s has the type %q", d.Digest, clip(string(d.MediaType)))
		}
	}
	return checkConfig(p.config.Config)
}

// build makes the image.
func (p picture) build(ctx context.Context, s *image.Store, limits image.Limits) (image.Imported, error) {
	if err := p.check(); err != nil {
		return image.Imported{}, err
	}
	t, err := s.NewTree(limits)
	if err != nil {
		return image.Imported{}, err
	}
	defer func() { _ = t.Close() }()
	for i, open := range p.layers {
		if err := apply(ctx, t, open); err != nil {
			return image.Imported{}, inLayer(i+1, err)
		}
	}
	config := imageConfig(p.config.Config)
	config.Debian = t.Debian()
	info, err := s.Commit(ctx, t)
	return image.Imported{Info: info, Config: config, Source: p.source}, err
}

// inLayer adds the number of the layer to what is shown of err.
func inLayer(n int, err error) error {
	var known *errs.Error
	if !errors.As(err, &known) {
		return err
	}
	named := *known
	named.Message = fmt.Sprintf("layer %d: %s", n, known.Message)
	return &named
}

// apply reads one layer to its end, so that whoever checks its digest sees it
// whole.
func apply(ctx context.Context, t *image.Tree, open func(context.Context) (io.ReadCloser, error)) error {
	in, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if err := t.ReadOCILayer(ctx, in); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		if errs.KindOf(err) != errs.Internal {
			return err
		}
		return errs.Wrap(err, errs.Unavailable, "oci.layer", "the layer broke off or does not match its digest")
	}
	return nil
}
