package build

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// schedules is how many random schedules a run tries; LEHR_TEST_SCHEDULES sets
// another number, for nights.
const schedules = 100

// TestRandomSchedules lets several builds of two processes meet several random
// faults each: errors at points, silent or full hosts, a cut bus, a stop of a
// process, cancels. Whatever happens each build ends in one state, with at most one
// version, a whole log, and nothing left.
func TestRandomSchedules(t *testing.T) {
	t.Parallel()
	n := schedules
	if text := os.Getenv("LEHR_TEST_SCHEDULES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for seed := range n {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) { (&schedule{world: w, r: rand.New(rand.NewPCG(7, uint64(seed)))}).run() })
		})
	}
}

// schedule is one life of a world under random faults. One goroutine owns it.
type schedule struct {
	*world
	r *rand.Rand
}

func (s *schedule) run() {
	s.hosts = append(s.hosts, agenttest.NewHost())
	for _, h := range s.hosts {
		h.Run = serving(map[string]agenttest.Script{"prepare": runs(time.Duration(s.r.IntN(3000)) * time.Millisecond)})
	}
	points := failpoint.Builds()
	for range 1 + s.r.IntN(4) {
		s.fails.Arm(points[s.r.IntN(len(points))], failpoint.Error, 1+s.r.IntN(2))
	}
	s.work(s.svc, WorkerOptions{Workers: 1})
	stopSecond := s.work(s.service(), WorkerOptions{Workers: 2})
	var ids []lehr.BuildID
	cancelled := map[lehr.BuildID]bool{}
	for i := range 1 + s.r.IntN(3) {
		p := s.healthy()
		p.Name = fmt.Sprintf("web%d", i)
		ids = append(ids, s.create(p).ID)
	}
	for range s.r.IntN(4) {
		time.Sleep(time.Duration(s.r.IntN(2000)) * time.Millisecond)
		switch s.r.IntN(5) {
		case 0:
			s.bus.setCut(s.r.IntN(2) == 0)
		case 1:
			id := ids[s.r.IntN(len(ids))]
			if _, err := s.svc.Cancel(context.Background(), s.team, id); err == nil {
				cancelled[id] = true
			} else if !errs.IsKind(err, errs.Conflict) {
				s.t.Errorf("Cancel() = %v", err)
			}
		case 2:
			stopSecond()
		case 3:
			h := s.hosts[s.r.IntN(len(s.hosts))]
			for _, box := range h.Live() {
				h.End(box.ID, lehr.ReasonEngine)
			}
		case 4:
			s.setFull(errs.New(errs.Exhausted, "full"))
			time.Sleep(time.Duration(s.r.IntN(3000)) * time.Millisecond)
			s.setFull(nil)
		}
	}
	s.bus.setCut(false)
	for i, id := range ids {
		s.check(id, fmt.Sprintf("web%d", i), cancelled[id])
	}
	s.wantNothingLeft()
	s.wantNoClaims()
}

func (s *schedule) check(id lehr.BuildID, name string, cancelled bool) {
	s.t.Helper()
	b := s.wait(id)
	versions := 0
	if b.Status == lehr.BuildSuccess {
		versions = 1
	}
	if cancelled != (b.Status == lehr.BuildCancelled) || b.Status == lehr.BuildFailed && b.Error.Fault != lehr.FaultPlatform {
		s.t.Errorf("build %s is %s (%+v), cancelled %v", id, b.Status, b.Error, cancelled)
	}
	if got := s.versions(name); got != versions {
		s.t.Errorf("build %s is %s with %d versions, want %d", id, b.Status, got, versions)
	}
	s.wantGapless(id)
}

// wantNoClaims wants nothing claimed or condemned after all builds have ended.
func (w *world) wantNoClaims() {
	w.t.Helper()
	condemned, err := w.store.Templates().Condemned(w.ctx(), 0, 100)
	if err != nil || len(condemned) > 0 {
		w.t.Errorf("Condemned() = %v, %v, want none", condemned, err)
	}
	builds, err := w.store.Builds().List(w.ctx(), store.ListBuilds{TeamID: w.team, Limit: 100})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range builds {
		for attempt := int32(1); attempt <= b.Attempt; attempt++ {
			held, err := w.store.Templates().Claimed(w.ctx(), lehr.Fence{BuildID: b.ID, Attempt: attempt})
			if err != nil || len(held) > 0 {
				w.t.Errorf("Claimed(%s, %d) = %v, %v, want none", b.ID, attempt, held, err)
			}
		}
	}
}

// Logs are deleted 30 days after their build has ended, and with them the
// idempotency key.
func TestLogsAndKeysExpire(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		seldom := time.Hour // so that a month is not a million looks
		w.svc = New(Options{Store: w.store, Bus: w.bus, Scheduler: w, Pool: w, Bases: w, Timing: Timing{
			Poll: seldom, Reap: seldom, Sweep: seldom, ExpireLogs: seldom,
		}})
		w.work(w.svc, WorkerOptions{Workers: 1, Embedded: true})
		p := w.request("RUN work")
		p.IdempotencyKey = "once"
		b := w.build(p)
		time.Sleep(29 * 24 * time.Hour)
		if len(w.lines(b.ID)) == 0 {
			t.Fatal("the log is gone after 29 days")
		}
		if again, created, err := w.svc.Create(w.ctx(), p); err != nil || created || again.ID != b.ID {
			t.Errorf("the same key after 29 days = %s, %v, %v, want %s", again.ID, created, err, b.ID)
		}
		time.Sleep(2 * 24 * time.Hour)
		if lines := w.lines(b.ID); len(lines) > 0 {
			t.Errorf("%d lines are there after 31 days, want none", len(lines))
		}
		again, created, err := w.svc.Create(w.ctx(), p)
		if err != nil || !created || again.ID == b.ID {
			t.Errorf("the same key after 31 days = %s, %v, %v, want a new build", again.ID, created, err)
		}
		w.wait(again.ID)
	})
}
