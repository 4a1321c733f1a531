package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

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
	manifest *v1.Manifest
	config   *v1.ConfigFile
	source   string // for provenance
	layer    func(v1.Descriptor) (io.ReadCloser, error)
}

// ImportLayout makes an image from the tar of an OCI image layout (a plain tar
// with index.json and blobs/). Errors: Invalid for what is not one, for blobs
// that are missing or do not match their digest, with code platform_missing
// when there is no image for this machine, and when several would do; those of
// Tree.ReadOCILayer and Store.Commit.
func ImportLayout(ctx context.Context, s *image.Store, r io.Reader, o Options) (made image.Imported, err error) {
	dir, err := s.Scratch()
	if err != nil {
		return image.Imported{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o.Limits = o.Limits.WithDefaults()
	l, err := unpack(ctx, r, dir, o.Limits)
	if err != nil {
		return image.Imported{}, err
	}
	digest, err := l.choose(o.Ref)
	if err != nil {
		return image.Imported{}, err
	}
	p, err := l.picture(digest)
	if err != nil {
		return image.Imported{}, err
	}
	return p.build(ctx, s, o.Limits)
}

// picture reads the manifest and configuration of one image of the layout.
func (l layout) picture(digest v1.Hash) (picture, error) {
	raw, err := l.document(digest)
	if err != nil {
		return picture{}, err
	}
	p := picture{
		source: "oci layout " + digest.String(),
		layer:  func(d v1.Descriptor) (io.ReadCloser, error) { return l.open(d.Digest) },
	}
	if p.manifest, err = v1.ParseManifest(bytes.NewReader(raw)); err != nil {
		return picture{}, errs.New(errs.Invalid, "manifest %s cannot be read: %w", digest, err)
	}
	if raw, err = l.document(p.manifest.Config.Digest); err != nil {
		return picture{}, err
	}
	if p.config, err = v1.ParseConfigFile(bytes.NewReader(raw)); err != nil {
		return picture{}, errs.New(errs.Invalid, "the configuration of image %s cannot be read: %w", digest, err)
	}
	return p, nil
}

// check refuses what is not a container image for this machine.
func (p picture) check() error {
	if p.config.OS != platform().OS || p.config.Architecture != platform().Architecture {
		return errs.New(errs.Invalid, "the image is for %s/%s, not for %s", clip(p.config.OS), clip(p.config.Architecture), platform()).
			WithCode("platform_missing")
	}
	if len(p.manifest.Layers) != len(p.config.RootFS.DiffIDs) {
		return errs.New(errs.Invalid, "the manifest has %d layers, the configuration %d", len(p.manifest.Layers), len(p.config.RootFS.DiffIDs))
	}
	for _, d := range p.manifest.Layers {
		if !d.MediaType.IsLayer() || !d.MediaType.IsDistributable() {
			return errs.New(errs.Unsupported, "layer %s has the type %q", d.Digest, clip(string(d.MediaType)))
		}
	}
	return nil
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
	for i, d := range p.manifest.Layers {
		if err := p.apply(ctx, t, d); err != nil {
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
func (p picture) apply(ctx context.Context, t *image.Tree, d v1.Descriptor) error {
	in, err := p.layer(d)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if err := t.ReadOCILayer(ctx, in); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return errs.Wrap(err, errs.Unavailable, "oci.layer", "the layer broke off or does not match its digest")
	}
	return nil
}
