package build

import (
	"context"
	"errors"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/build/plan"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
	"github.com/lehr-dev/lehr/internal/store"
)

// made is what a version consists of.
type made struct {
	image    agent.Image
	snapshot *agent.Snapshot // nil: a base version
}

// finish turns what the steps before the boundary left into the version.
func (a *attempt) finish(ctx context.Context) error {
	alive := a.plan.Snapshot() || a.plan.Boundary < len(a.plan.Steps)
	if !alive {
		a.enter(spot{phase: lehr.PhasePublish})
		if err := a.hit(ctx, failpoint.PublishBeforeArtifact); err != nil {
			return err
		}
	}
	image, err := a.flatten(ctx)
	if err != nil {
		return err
	}
	m := made{image: image}
	if alive {
		m, err = a.live(ctx, image)
	} else {
		err = a.hit(ctx, failpoint.PublishAfterArtifact)
	}
	if err != nil {
		return err
	}
	return a.publish(ctx, m)
}

// flatten makes the image of the sandbox's files.
func (a *attempt) flatten(ctx context.Context) (agent.Image, error) {
	began := a.o.Clock.Now()
	var image agent.Image
	err := a.makeHeld(ctx, failpoint.FlattenAfterMake, func() (lehr.Digest, error) {
		var err error
		if image, err = a.host.FlattenRootfs(ctx, a.sandbox); err != nil {
			return "", a.callFault(ctx, a.where(), err)
		}
		return image.Digest, nil
	})
	if err != nil {
		return agent.Image{}, err
	}
	a.say(ctx, a.where(), "image %s: %s in %v", image.Digest, sizeText(image.Bytes), a.o.Clock.Now().Sub(began).Round(time.Millisecond))
	return image, nil
}

// publish makes the version visible: version row, tag and success become so in
// one transaction, which a cancel may win. The artifacts are durable before.
func (a *attempt) publish(ctx context.Context, m made) error {
	a.enter(spot{phase: lehr.PhasePublish})
	v, err := a.version(m)
	if err != nil {
		return platformFault(ctx, a.where(), CodePlatform, err)
	}
	if err := a.hit(ctx, failpoint.PublishBeforeCommit); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	row, cancel := a.rowContext(ctx)
	defer cancel()
	if err := a.commit(row, v); err != nil {
		return err
	}
	if err := failpoint.Hit(ctx, failpoint.PublishAfterCommit); err != nil {
		a.o.Log.Warn("after publishing", "error", err)
	}
	a.say(row, a.where(), "published %s:%s as %s version %s, %s",
		a.build.Spec.Name, a.build.Spec.Tag, v.Type, v.ID, sizeText(v.SizeBytes))
	return nil
}

// commit finishes the build. An answer that got lost is looked for: what was
// committed must not be taken for a failure.
func (a *attempt) commit(ctx context.Context, v lehr.Version) error {
	err := a.row(ctx, func(ctx context.Context) error {
		return a.o.Store.Queue().Finish(ctx, a.fence, store.Finish{Status: lehr.BuildSuccess, Version: &v})
	})
	if err == nil {
		return nil
	}
	look, cancel := a.rowContext(ctx)
	defer cancel()
	b, lookErr := a.o.Store.Builds().Get(look, "", a.build.ID)
	if lookErr == nil && b.Status == lehr.BuildSuccess && b.Artifact != nil && b.Artifact.Version == v.ID {
		return nil
	}
	if lookErr != nil && !errors.Is(err, errAttemptOver) {
		return errs.Wrap(errors.Join(err, lookErr), errs.Unavailable, "build.commit", "it is not known whether the version was recorded")
	}
	return err
}

// version is the row of what was made.
func (a *attempt) version(m made) (lehr.Version, error) {
	encoded, err := plan.Encode(a.plan)
	if err != nil {
		return lehr.Version{}, err
	}
	v := lehr.Version{
		ID: lehr.NewVersionID(), TemplateID: a.build.TemplateID, TeamID: a.build.TeamID, BuildID: a.build.ID,
		Type: lehr.TypeBase, Platform: a.info.Platform, ImageDigest: m.image.Digest, SizeBytes: m.image.Bytes,
		Resources: a.build.Spec.Resources, BaseTemplate: a.build.Spec.BaseTemplate,
		BaseDigest: a.base.Version.ImageDigest, Config: a.plan.Config, Plan: encoded,
	}
	if a.build.Spec.BaseImage != "" {
		v.BaseTemplate = a.build.Spec.BaseImage
	}
	if v.Platform == "" {
		v.Platform = recipe.DefaultPlatform
	}
	if m.snapshot != nil {
		v.Type, v.SnapshotDigest, v.EngineDigest = lehr.TypeSnapshot, m.snapshot.Digest, m.snapshot.EngineDigest
		v.SizeBytes += m.snapshot.Bytes
	}
	return v, nil
}
