package template

import (
	"context"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// forgetBatch is how many versions one collection forgets at a time.
const forgetBatch = 100

// Run frees what nothing refers to, again and again, until ctx ends; then it
// returns ctx's cause.
func (s *Service) Run(ctx context.Context) error {
	tick := s.o.Clock.NewTicker(s.o.Collect)
	defer tick.Stop()
	for {
		select {
		case <-tick.C():
		case <-s.removed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := s.collect(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("collecting garbage", "error", err)
		}
	}
}

// collect forgets versions without tags and sandboxes, then removes from every
// host the artifacts that no version names. An artifact whose version is not
// recorded yet, or whose build was cancelled or crashed, looks the same: the
// former are young, so only those of some age are removed.
func (s *Service) collect(ctx context.Context) error {
	if err := s.forget(ctx); err != nil {
		return err
	}
	hosts, err := s.o.Hosts.List(ctx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if h.State != lehr.HostReady && h.State != lehr.HostDraining {
			continue
		}
		host, err := s.o.Pool.GetForHost(h.ID)
		if err != nil {
			continue // a later collection finds it again
		}
		if err := s.sweepHost(ctx, host); err != nil {
			s.o.Log.Warn("collecting a host's garbage", "host", h.ID, "error", err)
		}
	}
	return nil
}

func (s *Service) forget(ctx context.Context) error {
	for {
		versions, err := s.o.Templates.Unreferenced(ctx, forgetBatch)
		if err != nil {
			return err
		}
		forgotten := 0
		for _, v := range versions {
			if _, _, err := s.o.Templates.Forget(ctx, v.ID); err != nil {
				if errs.IsKind(err, errs.Conflict) || errs.IsKind(err, errs.NotFound) {
					continue // somebody came to need it, or was first
				}
				return err
			}
			forgotten++
			s.o.Log.Info("version forgotten", "version", v.ID, "image", v.ImageDigest)
		}
		if len(versions) < forgetBatch || forgotten == 0 {
			return nil
		}
	}
}

func (s *Service) sweepHost(ctx context.Context, host agent.Agent) error {
	held, err := host.ListArtifacts(ctx)
	if err != nil {
		return err
	}
	for _, a := range held {
		if a.Age < s.o.Young {
			continue
		}
		used, err := s.o.Templates.Referenced(ctx, a.Digest)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		err = host.RemoveArtifact(ctx, a.Digest)
		if err != nil && !errs.IsKind(err, errs.Conflict) {
			return err
		}
		if err == nil {
			s.o.Log.Info("artifact removed", "digest", a.Digest, "bytes", a.Bytes)
		}
	}
	return nil
}
