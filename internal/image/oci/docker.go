package oci

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
)

// dockerManifest lists the images of a docker archive, as docker save wrote it
// before version 25 and other tools still do. Newer ones are OCI layouts too.
const dockerManifest = "manifest.json"

// dockerImage is one image of a docker archive; paths are names of entries.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// docker returns the image of a docker archive that has the name ref, or the
// only one.
func (l layout) docker(ref string) (picture, error) {
	raw, err := l.read(dockerManifest)
	if err != nil {
		return picture{}, err
	}
	var all []dockerImage
	if err := json.Unmarshal(raw, &all); err != nil {
		return picture{}, errs.New(errs.Invalid, "the manifest.json of the docker archive cannot be read: %w", err)
	}
	fit := all
	if ref != "" {
		fit = slices.DeleteFunc(slices.Clone(all), func(i dockerImage) bool { return !slices.Contains(i.RepoTags, ref) })
	}
	switch {
	case len(fit) == 0:
		return picture{}, errs.New(errs.Invalid, "the docker archive has no image %s", clip(ref))
	case len(fit) > 1:
		return picture{}, errs.New(errs.Invalid, "the docker archive has %d images: %s", len(fit), dockerNames(fit)).
			WithRemedy("Save one of them into an archive of its own")
	}
	return l.dockerPicture(fit[0])
}

func dockerNames(all []dockerImage) string {
	var names []string
	for _, i := range all[:min(len(all), 10)] {
		names = append(names, clip(strings.Join(i.RepoTags, " ")))
	}
	return strings.Join(names, ", ")
}

// dockerPicture reads the configuration, by whose diff ids the layers are
// checked.
func (l layout) dockerPicture(i dockerImage) (picture, error) {
	raw, err := l.read(i.Config)
	if err != nil {
		return picture{}, err
	}
	p := picture{source: "docker archive " + hashOf(raw)}
	if p.config, err = v1.ParseConfigFile(strings.NewReader(string(raw))); err != nil {
		return picture{}, errs.New(errs.Invalid, "the configuration %s of the docker archive cannot be read: %w", clip(i.Config), err)
	}
	if len(i.Layers) != len(p.config.RootFS.DiffIDs) {
		return picture{}, errs.New(errs.Invalid, "the docker archive has %d layers, the configuration %d", len(i.Layers), len(p.config.RootFS.DiffIDs))
	}
	for n, name := range i.Layers {
		diff := p.config.RootFS.DiffIDs[n]
		p.layers = append(p.layers, func(ctx context.Context) (io.ReadCloser, error) { return l.dockerLayer(ctx, name, diff) })
	}
	return p, nil
}

func hashOf(b []byte) string {
	h, _, err := v1.SHA256(strings.NewReader(string(b)))
	if err != nil {
		return ""
	}
	return h.String()
}

// dockerLayer opens a layer, unpacked and checked against its diff id.
func (l layout) dockerLayer(ctx context.Context, name string, diff v1.Hash) (io.ReadCloser, error) {
	file, err := l.file(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, image.DiskError(err, "oci.docker")
	}
	a, err := image.OpenArchive(ctx, f, image.Limits{})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &checked{in: explained{a}, sum: sha256.New(), want: diff.Hex, Closer: closers{a, f}}, nil
}

// explained reads an archive whose errors say what they are.
type explained struct{ *image.Archive }

// Read implements io.Reader.
func (e explained) Read(p []byte) (int, error) {
	n, err := e.Archive.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = e.Failure(err)
	}
	return n, err
}

type closers []io.Closer

// Close closes all.
func (c closers) Close() error {
	var all []error
	for _, one := range c {
		all = append(all, one.Close())
	}
	return errors.Join(all...)
}

// read returns a small entry of the archive.
func (l layout) read(name string) ([]byte, error) {
	file, err := l.file(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, image.DiskError(err, "oci.docker")
	}
	defer func() { _ = f.Close() }()
	return readDocument(f, name)
}

// maxLinks bounds the symbolic links from one entry to another.
const maxLinks = 10

// file returns where an entry of the archive lies. Old archives link layers
// that images share, newer ones name blobs.
func (l layout) file(name string) (string, error) {
	at := path.Clean(name)
	for range maxLinks {
		if blob := blobName(at); blob != "" {
			return l.dir + "/" + blob, l.has(blob, name)
		}
		if file := l.files[at]; file != "" {
			return file, nil
		}
		next, ok := l.links[at]
		if !ok {
			break
		}
		at = next
	}
	return "", errs.New(errs.Invalid, "the docker archive lacks %s", clip(name))
}

func (l layout) has(blob, name string) error {
	if _, err := os.Lstat(l.dir + "/" + blob); err != nil {
		return errs.New(errs.Invalid, "the docker archive lacks %s", clip(name))
	}
	return nil
}
