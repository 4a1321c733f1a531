package template

import (
	"context"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

const (
	forgetBatch   = 100         // versions that one collection forgets at a time
	unfinishedAge = time.Minute // after which somebody else's removal is ended for them
	removeLimit   = 20 * time.Second
	firstLook     = time.Second // between tries to do the first collection
)

// Run frees what nothing refers to, again and again, until ctx ends; then it
// returns ctx's cause. A host near its disk's end is collected at once.
func (s *Service) Run(ctx context.Context) error {
	tick := s.o.Clock.NewTicker(s.o.Collect)
	defer tick.Stop()
	press := s.o.Clock.NewTicker(s.o.Pressure)
	defer press.Stop()
	s.collectFirst(ctx)
	for {
		var err error
		select {
		case <-tick.C():
			_, err = s.collect(ctx, false)
		case <-s.removed:
			_, err = s.collect(ctx, false)
		case <-press.C():
			_, err = s.collect(ctx, true)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.o.Log.Warn("collecting garbage", "error", err)
		}
	}
}

// collectFirst collects as soon as a host is there: what a crash left behind
// goes at the next start.
func (s *Service) collectFirst(ctx context.Context) {
	for ctx.Err() == nil {
		hosts, err := s.collect(ctx, false)
		if err == nil && hosts > 0 {
			return
		}
		select {
		case <-s.o.Clock.After(firstLook):
		case <-s.removed:
		case <-ctx.Done():
		}
	}
}

// collect forgets versions without tags and sandboxes, then removes from every
// host what it need not hold; with pressed, only from hosts near their disk's
// end, and more of it. It returns how many hosts it looked at.
func (s *Service) collect(ctx context.Context, pressed bool) (looked int, err error) {
	var freed map[lehr.Digest]bool
	if !pressed {
		if freed, err = s.forget(ctx); err != nil {
			return 0, err
		}
		if err := s.finishRemovals(ctx); err != nil {
			return 0, err
		}
	}
	hosts, err := s.o.Hosts.List(ctx)
	if err != nil {
		return 0, err
	}
	for _, h := range hosts {
		if h.State != lehr.HostReady && h.State != lehr.HostDraining {
			continue
		}
		host, err := s.o.Pool.GetForHost(h.ID)
		if err != nil {
			continue // a later collection finds it again
		}
		if err := s.sweepHost(ctx, sweep{id: h.ID, host: host, pressed: pressed, freed: freed}); err != nil {
			s.o.Log.Warn("collecting a host's garbage", "host", h.ID, "error", err)
			continue
		}
		looked++
	}
	return looked, nil
}

// forget deletes versions that nobody can reach and returns what they named.
func (s *Service) forget(ctx context.Context) (freed map[lehr.Digest]bool, err error) {
	freed = map[lehr.Digest]bool{}
	for {
		versions, err := s.o.Templates.Unreferenced(ctx, forgetBatch)
		if err != nil {
			return nil, err
		}
		forgotten := 0
		for _, v := range versions {
			if _, _, err := s.o.Templates.Forget(ctx, v.ID); err != nil {
				if errs.IsKind(err, errs.Conflict) || errs.IsKind(err, errs.NotFound) {
					continue // somebody came to need it, or was first
				}
				return nil, err
			}
			forgotten++
			freed[v.ImageDigest], freed[v.SnapshotDigest] = true, true
			s.o.Log.Info("version forgotten", "version", v.ID, "image", v.ImageDigest)
			if err := failpoint.Hit(ctx, failpoint.GCAfterForget); err != nil {
				return nil, err
			}
		}
		if len(versions) < forgetBatch || forgotten == 0 {
			return freed, nil
		}
	}
}

// finishRemovals ends removals whose beginner died. One that may still be under
// way is not touched: it could remove what was made again meanwhile.
func (s *Service) finishRemovals(ctx context.Context) error {
	unfinished, err := s.o.Templates.Condemned(ctx, s.othersAge(unfinishedAge), forgetBatch)
	if err != nil {
		return err
	}
	for _, h := range unfinished {
		host, err := s.o.Pool.GetForHost(h.Host)
		if err != nil {
			if known, err := s.knowsHost(ctx, h.Host); err != nil || known {
				continue // a later collection finds it again
			}
			if err := s.o.Templates.Absolve(ctx, h); err != nil {
				return err
			}
			continue
		}
		if _, err := s.removeCondemned(ctx, host, h); err != nil {
			s.o.Log.Warn("ending a removal", "host", h.Host, "digest", h.Digest, "error", err)
		}
	}
	return nil
}

func (s *Service) knowsHost(ctx context.Context, id lehr.HostID) (bool, error) {
	hosts, err := s.o.Hosts.List(ctx)
	for _, h := range hosts {
		if h.ID == id && h.State != lehr.HostRemoved {
			return true, err
		}
	}
	return false, err
}

// othersAge is the age from which things are not in work any more. Where nobody
// else works on the store, what is older than this service is nobody's.
func (s *Service) othersAge(age time.Duration) time.Duration {
	if s.o.Embedded {
		return min(age, s.o.Clock.Now().Sub(s.began))
	}
	return age
}

// sweep is the collection of one host.
type sweep struct {
	id      lehr.HostID
	host    agent.Agent
	pressed bool                 // look at its disk first
	freed   map[lehr.Digest]bool // named by versions that were just forgotten, however young
}

func (s *Service) sweepHost(ctx context.Context, w sweep) error {
	info, err := w.host.Info(ctx)
	if err != nil {
		return err
	}
	if w.pressed && !info.Disk.Low() {
		return nil
	}
	held, err := w.host.ListArtifacts(ctx)
	if err != nil {
		return err
	}
	s.o.Held(w.id, info, held)
	p := s.policy(info.Disk)
	p.freed = w.freed
	for _, a := range p.garbage(held) {
		gone, err := s.free(ctx, w.host, store.Held{Host: w.id, Digest: a.Digest})
		if err != nil {
			return err
		}
		if gone {
			s.o.Log.Info("artifact removed", "host", w.id, "digest", a.Digest, "bytes", a.Bytes, "cached", a.Cached)
			s.o.Freed(w.id, a)
		}
	}
	return nil
}

// free removes an artifact from its host unless a version names it, a build
// works with it or a sandbox uses it.
func (s *Service) free(ctx context.Context, host agent.Agent, h store.Held) (gone bool, err error) {
	used, err := s.o.Templates.Referenced(ctx, h.Digest)
	if err != nil || used {
		return false, err
	}
	if err := s.o.Templates.Condemn(ctx, h, lehr.Fence{}); err != nil {
		if errs.IsKind(err, errs.Conflict) {
			return false, nil
		}
		return false, err
	}
	if err := failpoint.Hit(ctx, failpoint.GCAfterCondemn); err != nil {
		return false, err
	}
	return s.removeCondemned(ctx, host, h)
}

// removeCondemned does what was begun by Condemn. Where it is not known whether
// the host did it, the artifact stays condemned for a later collection.
func (s *Service) removeCondemned(ctx context.Context, host agent.Agent, h store.Held) (gone bool, err error) {
	call, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	err = host.RemoveArtifact(call, h.Digest)
	if err != nil && !errs.IsKind(err, errs.Conflict) {
		return false, err
	}
	gone = err == nil
	if err := failpoint.Hit(ctx, failpoint.GCAfterRemove); err != nil {
		return gone, err
	}
	return gone, s.o.Templates.Absolve(ctx, h)
}
