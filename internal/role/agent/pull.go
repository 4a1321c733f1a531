package agent

import (
	"context"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/image/oci"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Resolve says what a reference means: an alias of the registries file, or what
// the registry answers.
func (i images) Resolve(ctx context.Context, r agent.RegistryImage) (agent.ResolvedImage, error) {
	ref, err := parseImage(r.Reference)
	if err != nil {
		return agent.ResolvedImage{}, err
	}
	alias, found := i.registries.now().Alias(ref)
	switch {
	case found && alias.Template != "":
		return agent.ResolvedImage{Template: alias.Template}, nil
	case found:
		digest, config, err := folder(alias).Resolve()
		if err == nil && ref.Digest != "" && digest != ref.Digest {
			err = errs.New(errs.NotFound, "what stands in for %s has the digest %s", ref, digest).WithCode(oci.CodeNotFound)
		}
		return agent.ResolvedImage{Reference: ref.Pinned(digest).String(), Config: config}, err
	}
	resolved, err := i.client.Resolve(ctx, ref, oci.Login(r.Auth))
	if err != nil {
		return agent.ResolvedImage{}, err
	}
	return agent.ResolvedImage{Reference: resolved.Ref.String(), Config: resolved.Config}, nil
}

func folder(a config.Alias) oci.Folder { return oci.Folder{Path: a.Layout, Name: a.Name} }

func parseImage(reference string) (lehr.ImageRef, error) {
	ref, err := lehr.ParseImageRef(reference)
	if err != nil {
		return ref, errs.New(errs.Invalid, "%w", err).WithField("reference").WithCode("reference_invalid")
	}
	return ref, nil
}

// Pull makes the image of a pinned reference, or finds it made. What was made
// is remembered under the repository's name with the digest: the same digest at
// another registry is fetched there, so that nobody gets layers by knowing a
// digest alone.
func (i images) Pull(ctx context.Context, r agent.RegistryImage, tell func(agent.PullProgress)) (agent.Image, error) {
	ref, err := parseImage(r.Reference)
	if err != nil {
		return agent.Image{}, err
	}
	if ref.Digest == "" {
		return agent.Image{}, errs.New(errs.Invalid, "%s has no digest", ref).WithField("reference").WithCode("reference_invalid")
	}
	return imported(i.pull(ctx, ref, oci.Login(r.Auth), func(p oci.Progress) { tell(agent.PullProgress(p)) }))
}

func (i images) pull(ctx context.Context, ref lehr.ImageRef, login oci.Login, tell func(oci.Progress)) (image.Imported, error) {
	key := ref.Name() + "@" + string(ref.Digest)
	if made, ok := i.store.Recorded(key); ok && ref.Digest != "" {
		return made, nil
	}
	var made image.Imported
	var err error
	if alias, found := i.registries.now().Alias(ref); found && alias.Layout != "" {
		made, err = folder(alias).Import(ctx, i.store, ref.Digest, image.Limits{})
	} else {
		made, err = i.client.Pull(ctx, i.store, ref, login, tell)
	}
	if err != nil || ref.Digest == "" {
		return made, err
	}
	i.log.Info("an image was pulled", "reference", ref.String(), "digest", made.Digest, "bytes", made.Size)
	return made, i.store.Record(key, made)
}
