package template

import (
	"context"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const (
	codeCondemned = "artifact_condemned" // of a version whose artifact is being removed
	codeRemoved   = "artifact_removed"   // of one that was removed before the version was recorded

	makeTries      = 3 // of an image that was removed as garbage before it was recorded
	condemnedLimit = 30 * time.Second
	condemnedAgain = 20 * time.Millisecond
)

// record stores a version under name:default unless it is there already. Its
// image was made a moment ago, but the same content may have been garbage before
// that: once the version is recorded nobody removes it, and until then somebody
// may have. Unavailable with codeRemoved says so.
func (s *Service) record(ctx context.Context, host agent.Agent, name string, v lehr.Version) (lehr.Tagged, error) {
	known, err := s.o.Templates.Resolve(ctx, v.TeamID, lehr.Ref{Name: name, Tag: lehr.DefaultTag})
	if err == nil && known.Template.TeamID == v.TeamID && known.Version.ImageDigest == v.ImageDigest {
		return known, nil
	}
	if err != nil && !errs.IsKind(err, errs.NotFound) {
		return lehr.Tagged{}, err
	}
	made, err := s.put(ctx, name, v)
	if err != nil {
		return lehr.Tagged{}, err
	}
	there, err := host.HasArtifact(ctx, v.ImageDigest)
	if err != nil || there {
		return made, err
	}
	if err := s.o.Templates.Remove(ctx, v.TeamID, name, lehr.DefaultTag); err != nil {
		s.o.Log.Warn("a version without its image could not be taken back", "version", v.ID, "error", err)
	}
	return lehr.Tagged{}, errs.New(errs.Unavailable, "the image was removed while it was recorded").
		WithCode(codeRemoved).WithRemedy("try again")
}

// put waits while the image is being removed.
func (s *Service) put(ctx context.Context, name string, v lehr.Version) (lehr.Tagged, error) {
	began := s.o.Clock.Now()
	for {
		made, err := s.o.Templates.PutVersion(ctx, name, lehr.DefaultTag, v)
		if errs.CodeOf(err) != codeCondemned || s.o.Clock.Now().Sub(began) > condemnedLimit {
			return made, err
		}
		if err := s.o.Clock.Sleep(ctx, condemnedAgain); err != nil {
			return lehr.Tagged{}, err
		}
	}
}
