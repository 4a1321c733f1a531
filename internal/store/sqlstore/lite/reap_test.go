package lite

import (
	"context"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore"
)

// betweenDB calls between after each Read, when what was read is old.
type betweenDB struct {
	*database
	between func()
}

func (d *betweenDB) Read(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	err := d.database.Read(ctx, fn)
	if d.between != nil {
		between := d.between
		d.between = nil
		between()
	}
	return err
}

// TestReapIsOvertaken lets something happen to an expired attempt after Reap
// has seen it: whoever came first has won.
func TestReapIsOvertaken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		overtake func(store.Store, lehr.Fence) error
		want     lehr.BuildStatus
	}{
		"by a renewal": {func(s store.Store, f lehr.Fence) error {
			return s.Queue().Renew(context.Background(), f, time.Hour)
		}, lehr.BuildRunning},
		"by an end": {func(s store.Store, f lehr.Fence) error {
			return s.Queue().Finish(context.Background(), f, store.Finish{Status: lehr.BuildFailed, Error: &lehr.BuildError{}})
		}, lehr.BuildFailed},
		"by a cancel": {func(s store.Store, f lehr.Fence) error {
			_, err := s.Builds().Cancel(context.Background(), "", f.BuildID)
			return err
		}, lehr.BuildCancelled},
		"by another reaper": {func(s store.Store, f lehr.Fence) error {
			_, err := s.Queue().Reap(context.Background(), false, 0)
			return err
		}, lehr.BuildPending},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, db, f := expiredAttempt(t)
			db.between = func() {
				if err := test.overtake(s, f); err != nil {
					t.Errorf("overtaking: %v", err)
				}
			}
			touched, err := s.Queue().Reap(t.Context(), false, 0)
			if err != nil || len(touched) != 0 {
				t.Errorf("Reap() = %v, %v; want nothing", touched, err)
			}
			build, err := s.Builds().Get(t.Context(), "", f.BuildID)
			if err != nil || build.Status != test.want || build.LostAttempts > 1 {
				t.Errorf("build is %s with %d lost attempts, %v; want %s", build.Status, build.LostAttempts, err, test.want)
			}
		})
	}
}

// expiredAttempt returns a store with one running build whose lease has ended.
func expiredAttempt(t *testing.T) (store.Store, *betweenDB, lehr.Fence) {
	t.Helper()
	fake := clock.NewFake(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	inner, err := openDB(Memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inner.Close() })
	if err := inner.migrate(t.Context(), Dialect(fake)); err != nil {
		t.Fatal(err)
	}
	db := &betweenDB{database: inner}
	s := sqlstore.New(db, Dialect(fake))
	n := store.NewBuild{ID: lehr.NewBuildID(), TeamID: lehr.PlatformTeam, Spec: lehr.BuildSpec{Name: "app", Tag: "default"}}
	if _, _, err := s.Builds().Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Queue().Claim(t.Context(), "w", time.Second); err != nil || !ok {
		t.Fatalf("Claim() = %v, %v", ok, err)
	}
	fake.Advance(time.Second)
	return s, db, lehr.Fence{BuildID: n.ID, Attempt: 1}
}
