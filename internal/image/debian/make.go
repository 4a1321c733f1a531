package debian

import (
	"context"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/image/oci"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Options say how to make minimal. The zero value is right on a Debian.
type Options struct {
	Reference string // container image to try first; default "debian:bookworm-slim"
	// SkipRegistry leaves the container image out.
	SkipRegistry bool
	Mirror       string            // Debian mirror; default: the machine's own, from its apt configuration
	AptDir       string            // default "/etc/apt"
	OSRelease    string            // default "/etc/os-release"
	Progress     func(line string) // is told every line of output; may be nil; one call at a time
	Limits       image.Limits
	// Pull makes an image of a container image; default: one without logins.
	Pull func(ctx context.Context, ref lehr.ImageRef) (image.Imported, error)
}

const defaultReference = "debian:bookworm-slim"

func (o Options) withDefaults() Options {
	for field, value := range map[*string]string{
		&o.Reference: defaultReference, &o.AptDir: "/etc/apt", &o.OSRelease: "/etc/os-release",
	} {
		if *field == "" {
			*field = value
		}
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o
}

// Make makes a small Debian bookworm with apt and records what it was made from.
// It needs root and takes some 15 s where no registry answers. The programs it
// runs end with ctx and with this process, and leave nothing behind. Errors:
// Unavailable when mmdebstrap is missing, no mirror is known, or the mirror
// fails, with the last lines of what was said; those of Store.Commit.
func Make(ctx context.Context, s *image.Store, o Options) (image.Imported, error) {
	o = o.withDefaults()
	if !o.SkipRegistry {
		made, err := pull(ctx, s, o)
		if err == nil && made.Config.Debian {
			return made, nil
		}
		if ctx.Err() != nil {
			return image.Imported{}, context.Cause(ctx)
		}
		o.Progress("no container image " + o.Reference + ": " + reason(err) + "; using mmdebstrap")
	}
	if err := Check(); err != nil {
		return image.Imported{}, err
	}
	sources := mirrorSources(o.Mirror)
	if o.Mirror == "" {
		var err error
		if sources, err = machineSources(o.AptDir, o.OSRelease); err != nil {
			return image.Imported{}, err
		}
	}
	return bootstrap(ctx, s, sources, o)
}

func pull(ctx context.Context, s *image.Store, o Options) (image.Imported, error) {
	ref, err := lehr.ParseImageRef(o.Reference)
	if err != nil {
		return image.Imported{}, errs.New(errs.Invalid, "%w", err)
	}
	if o.Pull != nil {
		return o.Pull(ctx, ref)
	}
	return oci.NewClient(oci.ClientOptions{Limits: o.Limits, Tries: 1}).Pull(ctx, s, ref, oci.Login{}, nil)
}

func reason(err error) string {
	if err == nil {
		return "it has no apt"
	}
	return err.Error()
}

// bootstrap runs mmdebstrap and makes an image of what it writes.
func bootstrap(ctx context.Context, s *image.Store, sources []source, o Options) (image.Imported, error) {
	t, err := s.NewTree(o.Limits)
	if err != nil {
		return image.Imported{}, err
	}
	defer func() { _ = t.Close() }()
	scratch, err := s.Scratch()
	if err != nil {
		return image.Imported{}, err
	}
	defer removeAll(scratch)
	proxies, err := proxyOptions(ctx)
	if err != nil {
		return image.Imported{}, err
	}
	b := &bootstrapper{dir: scratch, progress: o.Progress}
	if err := b.run(ctx, arguments(sources, proxies), t.ReadArchive); err != nil {
		return image.Imported{}, err
	}
	if !t.Debian() {
		return image.Imported{}, errs.New(errs.Internal, "what mmdebstrap wrote has no apt")
	}
	if err := t.Overlay(ours...); err != nil {
		return image.Imported{}, err
	}
	info, err := s.Commit(ctx, t)
	return image.Imported{Info: info, Config: lehr.ImageConfig{Debian: true}, Source: provenance(sources)}, err
}

// ours is what the image has beside Debian's packages: packages must not start
// services while they are installed, and the name of the machine that made the
// image, which mmdebstrap copies, is nobody's business.
var ours = []image.File{
	{Path: "usr/sbin/policy-rc.d", Mode: 0o755, Data: []byte("#!/bin/sh\nexit 101\n")},
	{Path: "etc/hostname", Mode: 0o644, Data: []byte("localhost\n")},
}

// provenance says what the image was made from.
func provenance(sources []source) string {
	lines := make([]string, 0, len(sources))
	for _, s := range sources {
		lines = append(lines, s.line())
	}
	return "mmdebstrap --variant=minbase; " + strings.Join(lines, "; ")
}
