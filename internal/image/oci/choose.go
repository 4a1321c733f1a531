package oci

import (
	"bytes"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/lehr-dev/lehr/internal/errs"
)

const (
	maxDepth     = 4 // of indexes within indexes
	maxManifests = 1000

	refName       = "org.opencontainers.image.ref.name"
	fullName      = "io.containerd.image.name"
	referenceType = "vnd.docker.reference.type" // set on attestations, which are no images
)

// platform is what the images of this machine are for.
func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// candidate is one image of a layout.
type candidate struct {
	digest   v1.Hash
	names    []string // from the annotations on the way to it
	platform v1.Platform
}

// source is where manifests and configurations come from: a layout or a
// registry. What it returns matches the digest.
type source interface {
	// name is what messages call it.
	name() string
	// manifest returns an index or manifest.
	manifest(h v1.Hash) ([]byte, error)
	// config returns the configuration of an image.
	config(d v1.Descriptor) ([]byte, error)
}

// choose returns the manifest digest of the image that is for this machine
// among those of the index raw and, when ref is given, has that name.
func choose(in source, raw []byte, ref string) (v1.Hash, error) {
	c := chooser{source: in}
	if err := c.index(raw, nil, 0); err != nil {
		return v1.Hash{}, err
	}
	var fit []candidate
	for _, one := range c.found {
		known := slices.ContainsFunc(fit, func(f candidate) bool { return f.digest == one.digest })
		if !known && (ref == "" || slices.Contains(one.names, ref)) && fits(one.platform) {
			fit = append(fit, one)
		}
	}
	if base := slices.IndexFunc(fit, func(f candidate) bool { return f.platform.Variant == "" }); len(fit) > 1 && sameNames(fit) && base >= 0 {
		fit = fit[base : base+1] // the variant that every processor can run
	}
	switch {
	case len(fit) == 0:
		return v1.Hash{}, errs.New(errs.Invalid, "%s has no image %sfor %s; it has %s", in.name(), spaced(ref), platform(), describe(c.found)).
			WithCode(CodePlatform)
	case len(fit) > 1:
		return v1.Hash{}, errs.New(errs.Invalid, "%s has %d images for %s: %s", in.name(), len(fit), platform(), describe(fit)).
			WithRemedy("Copy one of them into a layout of its own")
	}
	return fit[0].digest, nil
}

func fits(p v1.Platform) bool {
	return p.OS == platform().OS && p.Architecture == platform().Architecture
}

// sameNames reports whether the images are variants of one.
func sameNames(all []candidate) bool {
	for _, one := range all[1:] {
		if !slices.Equal(one.names, all[0].names) {
			return false
		}
	}
	return true
}

func describe(all []candidate) string {
	if len(all) == 0 {
		return "none"
	}
	var words []string
	for _, one := range all[:min(len(all), 10)] {
		words = append(words, clip(strings.TrimSpace(strings.Join(one.names, " ")+" "+one.platform.String())))
	}
	return strings.Join(words, ", ")
}

// spaced is the name as a word of a sentence.
func spaced(name string) string {
	if name == "" {
		return ""
	}
	return clip(name) + " "
}

// chooser collects the images of an index.
type chooser struct {
	source source
	found  []candidate
	seen   int
}

func (c *chooser) index(raw []byte, names []string, depth int) error {
	parsed, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return errs.New(errs.Invalid, "an index of %s cannot be read: %w", c.source.name(), err)
	}
	if depth > maxDepth {
		return errs.New(errs.Invalid, "%s has more than %d indexes within each other", c.source.name(), maxDepth)
	}
	for _, d := range parsed.Manifests {
		if c.seen++; c.seen > maxManifests {
			return errs.New(errs.Invalid, "%s has more than %d images", c.source.name(), maxManifests)
		}
		if err := c.descriptor(d, names, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *chooser) descriptor(d v1.Descriptor, names []string, depth int) error {
	if d.Annotations[referenceType] != "" {
		return nil
	}
	names = slices.Clone(names)
	for _, key := range []string{fullName, refName} {
		if name := d.Annotations[key]; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch {
	case d.MediaType.IsIndex():
		raw, err := c.source.manifest(d.Digest)
		if err != nil {
			return err
		}
		return c.index(raw, names, depth+1)
	case d.MediaType.IsImage() && d.MediaType != types.DockerManifestSchema1 && d.MediaType != types.DockerManifestSchema1Signed:
		return c.image(d, names)
	}
	return nil
}

// image adds one image. Where the index does not say what it is for, its
// configuration does.
func (c *chooser) image(d v1.Descriptor, names []string) error {
	one := candidate{digest: d.Digest, names: names}
	if d.Platform != nil {
		one.platform = *d.Platform
		c.found = append(c.found, one)
		return nil
	}
	p, err := pictureOf(c.source, d.Digest)
	if err != nil {
		return err
	}
	one.platform = v1.Platform{OS: p.config.OS, Architecture: p.config.Architecture, Variant: p.config.Variant}
	c.found = append(c.found, one)
	return nil
}
