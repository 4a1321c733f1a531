package lite_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// crashVar makes the test binary a writer that waits to be killed.
const crashVar = "LEHR_LITE_TEST_CRASH"

func TestMain(m *testing.M) {
	path := os.Getenv(crashVar)
	if path == "" {
		os.Exit(m.Run())
	}
	if err := writeForever(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// writeForever creates builds and prints the id of each that was acknowledged.
func writeForever(path string) error {
	ctx := context.Background()
	s, err := lite.Open(ctx, lite.Options{Path: path})
	if err != nil {
		return err
	}
	team, err := s.Accounts().EnsureTeam(ctx, "default")
	if err != nil {
		return err
	}
	failed := make(chan error)
	for range 4 {
		go func() {
			for {
				build, _, err := s.Builds().Create(ctx, newBuild(team.ID))
				if err != nil {
					failed <- err
					return
				}
				fmt.Println(build.ID)
			}
		}()
	}
	return <-failed
}

func newBuild(team lehr.TeamID) store.NewBuild {
	return store.NewBuild{
		ID: lehr.NewBuildID(), TeamID: team, RecipeSchema: 1, TotalSteps: 3,
		Spec: lehr.BuildSpec{Name: "app", Tag: lehr.DefaultTag, BaseTemplate: lehr.MinimalTemplate, Recipe: []string{"RUN true"}},
	}
}

// TestAcknowledgedSurvivesKill kills a writing process and looks for every
// build it had announced.
func TestAcknowledgedSurvivesKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lehr.db")
	writer := exec.Command(os.Args[0])
	writer.Env = append(os.Environ(), crashVar+"="+path)
	writer.Stderr = os.Stderr
	output, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	var ids []lehr.BuildID
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		ids = append(ids, lehr.BuildID(lines.Text()))
		if len(ids) == 200 {
			if err := writer.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = writer.Wait() // killed
	if len(ids) < 200 {
		t.Fatalf("the writer announced %d builds, want 200 and more", len(ids))
	}
	s := open(t, lite.Options{Path: path})
	for _, id := range ids {
		if _, err := lehr.ParseBuildID(string(id)); err != nil {
			continue // a line that the kill cut off
		}
		if _, err := s.Builds().Get(t.Context(), "", id); err != nil {
			t.Errorf("Get(%s) after the kill = %v", id, err)
		}
	}
}

// TestLeasesFollowTheClock moves the database's clock.
func TestLeasesFollowTheClock(t *testing.T) {
	t.Parallel()
	fake := clock.NewFake(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	s := open(t, lite.Options{Path: lite.Memory, Clock: fake})
	team, err := s.Accounts().EnsureTeam(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	made, _, err := s.Builds().Create(t.Context(), newBuild(team.ID))
	if err != nil || !made.CreatedAt.Equal(fake.Now()) {
		t.Fatalf("Create() = %v, %v; want a build of %v", made.CreatedAt, err, fake.Now())
	}
	claimed, _, err := s.Queue().Claim(t.Context(), "w", 15*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	reaped := func() int {
		t.Helper()
		touched, err := s.Queue().Reap(t.Context(), false, 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(touched)
	}
	fake.Advance(10 * time.Second)
	if err := s.Queue().Renew(t.Context(), lehr.Fence{BuildID: claimed.ID, Attempt: 1}, 15*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		advance time.Duration
		want    int
	}{{15*time.Second - time.Microsecond, 0}, {time.Microsecond, 1}} {
		fake.Advance(test.advance)
		if got := reaped(); got != test.want {
			t.Errorf("at %v: Reap() touched %d builds, want %d", fake.Now(), got, test.want)
		}
	}
}

// TestReopen closes and opens a file.
func TestReopen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lehr.db")
	var team lehr.TeamID
	for round := range 3 {
		s := open(t, lite.Options{Path: path})
		found, err := s.Accounts().EnsureTeam(t.Context(), "mine")
		if err != nil {
			t.Fatal(err)
		}
		if round > 0 && found.ID != team {
			t.Errorf("round %d: team = %s, want %s", round, found.ID, team)
		}
		team = found.ID
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v; want 0600", info.Mode(), err)
	}
}

// BenchmarkAccept is builds accepted, durably, by 16 clients.
func BenchmarkAccept(b *testing.B) {
	s := open(b, lite.Options{Path: filepath.Join(b.TempDir(), "lehr.db")})
	benchmarkAccept(b, s)
}

func benchmarkAccept(b *testing.B, s store.Store) {
	team, err := s.Accounts().EnsureTeam(b.Context(), "default")
	if err != nil {
		b.Fatal(err)
	}
	const clients = 16
	work := make(chan struct{})
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for range work {
				if _, _, err := s.Builds().Create(b.Context(), newBuild(team.ID)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.ResetTimer()
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "builds/s")
}

// BenchmarkAppend is batches of 50 lines appended by one writer.
func BenchmarkAppend(b *testing.B) {
	s := open(b, lite.Options{Path: filepath.Join(b.TempDir(), "lehr.db")})
	team, err := s.Accounts().EnsureTeam(b.Context(), "default")
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := s.Builds().Create(b.Context(), newBuild(team.ID)); err != nil {
		b.Fatal(err)
	}
	build, _, err := s.Queue().Claim(b.Context(), "w", time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	lines := make([]lehr.LogLine, 50)
	for i := range lines {
		lines[i] = lehr.LogLine{Phase: lehr.PhaseRecipe, Step: 1, Stream: lehr.StreamStdout, Text: "x"}
	}
	for b.Loop() {
		if _, err := s.Logs().Append(b.Context(), lehr.Fence{BuildID: build.ID, Attempt: 1}, lines); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkClaim is claims from a queue of 10,000 builds of 20 teams.
func BenchmarkClaim(b *testing.B) {
	s := open(b, lite.Options{Path: filepath.Join(b.TempDir(), "lehr.db")})
	for i := range 20 {
		team, err := s.Accounts().EnsureTeam(b.Context(), fmt.Sprint("team-", i))
		if err != nil {
			b.Fatal(err)
		}
		for range 500 {
			if _, _, err := s.Builds().Create(b.Context(), newBuild(team.ID)); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		build, ok, err := s.Queue().Claim(b.Context(), "w", time.Hour)
		if err != nil || !ok {
			b.Fatalf("Claim() = %v, %v", ok, err)
		}
		if _, err := s.Queue().GiveBack(b.Context(), lehr.Fence{BuildID: build.ID, Attempt: build.Attempt}, lehr.AttemptGivenBack, nil); err != nil {
			b.Fatal(err)
		}
	}
}
