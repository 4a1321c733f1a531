package pg_test

import (
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/pg"
	"github.com/lehr-dev/lehr/internal/store/storetest"
)

// connect opens a pool beside the store.
func connect(t testing.TB, url string) *sql.DB {
	t.Helper()
	db, err := pg.Connect(pg.Options{URL: url, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestStatementsPrepare(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	open(t, url)
	db := connect(t, url)
	for _, text := range sqlstore.Statements(pg.Dialect()) {
		st, err := db.PrepareContext(t.Context(), text)
		if err != nil {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		_ = st.Close()
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	open(t, url)
	if _, err := connect(t, url).Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)"); err != nil {
		t.Fatal(err)
	}
	_, err := pg.Open(t.Context(), pg.Options{URL: url})
	if want := (&errs.Error{Kind: errs.Unsupported, Code: sqlstore.CodeSchemaNewer}); !errors.Is(err, want) {
		t.Errorf("Open(newer schema) = %v, want %s", err, want.Code)
	}
}

// TestOpenAtOnce starts several control planes on an empty database.
func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			s, err := pg.Open(t.Context(), pg.Options{URL: url, MaxConns: 2})
			if err != nil {
				t.Errorf("Open() = %v", err)
				return
			}
			if _, err := s.Accounts().Team(t.Context(), lehr.PlatformTeam); err != nil {
				t.Errorf("Team(platform) = %v", err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close() = %v", err)
			}
		})
	}
	group.Wait()
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	_, err := pg.Open(t.Context(), pg.Options{URL: "postgres://user:secret@host:port/db"})
	if !errs.IsKind(err, errs.Invalid) || strings.Contains(err.Error(), "secret") {
		t.Errorf("Open(bad URL) = %v, want invalid and no password", err)
	}
	_, err = pg.Open(t.Context(), pg.Options{URL: "host=" + t.TempDir() + " user=lehr"})
	if !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Open(no server) = %v, want unavailable", err)
	}
}

// TestLostConnections ends every session of the store: what follows fails as
// Unavailable at most once for each connection, then works.
func TestLostConnections(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	s := open(t, url)
	if _, err := s.Hosts().List(t.Context()); err != nil {
		t.Fatal(err)
	}
	kill := "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
	if _, err := connect(t, url).Exec(kill); err != nil {
		t.Fatal(err)
	}
	for range pg.DefaultMaxConns {
		_, err := s.Hosts().List(t.Context())
		if err == nil {
			return
		}
		if !errs.IsKind(err, errs.Unavailable) {
			t.Fatalf("List() on a lost connection = %v, want unavailable", err)
		}
	}
	t.Error("the store does not come back")
}

// BenchmarkAccept is builds accepted, durably, by 16 clients.
func BenchmarkAccept(b *testing.B) {
	s := open(b, durable.Database(b))
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

func newBuild(team lehr.TeamID) store.NewBuild {
	return store.NewBuild{
		ID: lehr.NewBuildID(), TeamID: team, RecipeSchema: 1, TotalSteps: 3,
		Spec: lehr.BuildSpec{Name: "app", Tag: lehr.DefaultTag, BaseTemplate: lehr.MinimalTemplate, Recipe: []string{"RUN true"}},
	}
}

// TestPairsOfEarlierVersions makes versions as an earlier release wrote them,
// without pairs: after the next start their labels are found.
func TestPairsOfEarlierVersions(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	storetest.PutLabelled(t, open(t, url), 250)
	db := connect(t, url)
	for _, statement := range []string{"DELETE FROM version_pairs", "UPDATE template_versions SET paired = 0"} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	storetest.WantLabelled(t, open(t, url), 250)
}

// readers are the tables that lists and filters read; each grows.
var readers = regexp.MustCompile(`Seq Scan on (sandboxes|template_builds|template_versions|template_tags|\w+_pairs)`)

// TestListsUseIndexes asks PostgreSQL how it would run each list and filter,
// sequential scans being dear: no table that grows is read from end to end.
func TestListsUseIndexes(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	open(t, url)
	db := connect(t, url)
	db.SetMaxOpenConns(1)
	for _, setting := range []string{"enable_seqscan = off", "plan_cache_mode = force_generic_plan"} {
		if _, err := db.Exec("SET " + setting); err != nil {
			t.Fatal(err)
		}
	}
	looked := 0
	for _, text := range sqlstore.Statements(pg.Dialect()) {
		if !strings.Contains(text, "ORDER BY") || !strings.Contains(text, "LIMIT") || !strings.HasPrefix(strings.TrimSpace(text), "SELECT") {
			continue
		}
		looked++
		if plan := explain(t, db, text); readers.MatchString(plan) {
			t.Errorf("%s\nreads a table from end to end:\n%s", text, plan)
		}
	}
	if looked < 100 {
		t.Errorf("%d lists were looked at, want all of them", looked)
	}
}

// explain returns the plan of a statement whatever its arguments.
func explain(t *testing.T, db *sql.DB, text string) string {
	t.Helper()
	nulls := []string{}
	for strings.Contains(text, fmt.Sprintf("$%d", len(nulls)+1)) {
		nulls = append(nulls, "NULL")
	}
	execute := "EXPLAIN EXECUTE looked"
	if len(nulls) > 0 {
		execute += "(" + strings.Join(nulls, ", ") + ")"
	}
	if _, err := db.Exec("PREPARE looked AS " + text); err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	defer func() { _, _ = db.Exec("DEALLOCATE looked") }()
	rows, err := db.QueryContext(t.Context(), execute, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatalf("%s\n%v", execute, err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(line + "\n")
	}
	return plan.String()
}
