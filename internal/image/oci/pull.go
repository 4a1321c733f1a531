package oci

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
)

// PullOptions say how to pull.
type PullOptions struct {
	// Answer is how long the registry may take until manifest and configuration
	// are here; the layers then take what they take. Default 5 s.
	Answer time.Duration
	Limits image.Limits
}

const defaultAnswer = 5 * time.Second

var errNoAnswer = errors.New("the registry did not answer in time")

// Pull makes an image from the image ref of a registry, without credentials.
// Errors: Invalid for a malformed reference; NotFound; PermissionDenied;
// Unavailable when the registry does not answer within o.Answer or breaks off;
// those of ImportLayout.
func Pull(ctx context.Context, s *image.Store, ref string, o PullOptions) (image.Imported, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return image.Imported{}, errs.New(errs.Invalid, "%q is not a reference of an image: %w", clip(ref), err)
	}
	if o.Answer <= 0 {
		o.Answer = defaultAnswer
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(o.Answer, func() { cancel(errNoAnswer) })
	defer late.Stop()
	p, err := remotePicture(ctx, parsed)
	if err != nil {
		return image.Imported{}, pullError(ctx, err, ref)
	}
	if !late.Stop() {
		return image.Imported{}, pullError(ctx, errNoAnswer, ref)
	}
	return p.build(ctx, s, o.Limits)
}

// remotePicture asks the registry for manifest and configuration, which the
// client checks against their digests, as it does each layer.
func remotePicture(ctx context.Context, ref name.Reference) (picture, error) {
	img, err := remote.Image(
		ref, remote.WithContext(ctx), remote.WithPlatform(platform()), remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
	)
	if err != nil {
		return picture{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return picture{}, err
	}
	p := picture{source: "oci " + ref.Name() + "@" + digest.String()}
	if p.manifest, err = img.Manifest(); err != nil {
		return picture{}, err
	}
	if p.config, err = img.ConfigFile(); err != nil {
		return picture{}, err
	}
	p.layer = func(d v1.Descriptor) (io.ReadCloser, error) {
		l, err := img.LayerByDigest(d.Digest)
		if err != nil {
			return nil, pullError(ctx, err, ref.Name())
		}
		in, err := l.Compressed()
		if err != nil {
			return nil, pullError(ctx, err, ref.Name())
		}
		return in, nil
	}
	return p, nil
}

// pullError says what a failure of the registry means.
func pullError(ctx context.Context, err error, ref string) error {
	var answer *transport.Error
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errNoAnswer):
		return errs.Wrap(errNoAnswer, errs.Unavailable, "oci.Pull", "the registry of "+clip(ref)+" did not answer in time")
	case cause != nil:
		return cause
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return errs.Wrap(err, errs.NotFound, "oci.Pull", "the registry has no image "+clip(ref))
	case errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return errs.Wrap(err, errs.PermissionDenied, "oci.Pull", "the registry does not give "+clip(ref)+" to everybody")
	}
	return errs.Wrap(err, errs.Unavailable, "oci.Pull", "the registry of "+clip(ref)+" cannot be reached")
}
