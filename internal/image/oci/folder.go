package oci

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Folder is an OCI image layout in a folder of the host's operator.
type Folder struct {
	Path string
	Name string // of the image in it; empty: it has only one for this machine
}

// Resolve returns the digest of the image's manifest and its configuration.
// Errors: NotFound with CodeNotFound where there is no such folder; Invalid as
// for ImportLayout.
func (f Folder) Resolve() (lehr.Digest, lehr.ImageConfig, error) {
	p, digest, err := f.image()
	if err != nil {
		return "", lehr.ImageConfig{}, err
	}
	return digest, imageConfig(p.config.Config), nil
}

func (f Folder) image() (picture, lehr.Digest, error) {
	if info, err := os.Stat(f.Path); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return picture{}, "", errs.New(errs.NotFound, "%s is not the folder of an OCI image layout", f.Path).WithCode(CodeNotFound)
	}
	p, digest, err := layout{dir: f.Path}.image(f.Name)
	if err == nil {
		err = p.check()
	}
	return p, lehr.Digest(digest.String()), err
}

// Import makes an image of the one with the digest. Errors: NotFound with
// CodeNotFound where the folder holds another by now; those of ImportLayout.
func (f Folder) Import(ctx context.Context, s *image.Store, want lehr.Digest, limits image.Limits) (image.Imported, error) {
	p, digest, err := f.image()
	if err != nil {
		return image.Imported{}, err
	}
	if want != "" && digest != want {
		return image.Imported{}, errs.New(errs.NotFound, "the layout in %s holds %s now, not %s", f.Path, digest, want).WithCode(CodeNotFound)
	}
	return p.build(ctx, s, limits)
}
