package lite_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/store/sqlstore"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
	"github.com/lehr-dev/lehr/internal/store/storetest"
)

// connect opens the file of a store beside the store.
func connect(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := lite.Connect(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestStatementsPrepare(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lehr.db")
	open(t, lite.Options{Path: path})
	db := connect(t, path)
	for _, text := range sqlstore.Statements(lite.Dialect(clock.Real())) {
		st, err := db.PrepareContext(t.Context(), text)
		if err != nil {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		_ = st.Close()
	}
}

// bounded are the scans of what is short by nature: a constant, the rows of an
// insert, a page (v) that a subquery has read, the fleet, the teams (m).
var bounded = regexp.MustCompile(`CONSTANT ROW|VALUES CLAUSE|^SCAN v$|^SCAN m$|^SCAN hosts`)

// TestStatementsUseIndexes asks SQLite how it would run each statement: no
// table that grows is read from end to end.
func TestStatementsUseIndexes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lehr.db")
	open(t, lite.Options{Path: path})
	db := connect(t, path)
	for _, text := range sqlstore.Statements(lite.Dialect(clock.Real())) {
		for _, detail := range plan(t, db, text) {
			scan := strings.HasPrefix(detail, "SCAN ") && !strings.Contains(detail, " USING ")
			if scan && !bounded.MatchString(detail) {
				t.Errorf("%s\nreads a table from end to end: %s", text, detail)
			}
		}
	}
}

func plan(t *testing.T, db *sql.DB, text string) []string {
	t.Helper()
	// Parameters have values where a plan may depend on them.
	rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, arguments(text)...)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	defer rows.Close()
	var details []string
	for rows.Next() {
		var id, parent, unused int64
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		details = append(details, detail)
	}
	return details
}

func arguments(text string) []any {
	args := []any{sql.Named("now", 1)}
	for range strings.Count(text, "$") {
		args = append([]any{1}, args...)
	}
	return args
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lehr.db")
	s := open(t, lite.Options{Path: path})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, path).Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1)"); err != nil {
		t.Fatal(err)
	}
	_, err := lite.Open(t.Context(), lite.Options{Path: path})
	if want := (&errs.Error{Kind: errs.Unsupported, Code: sqlstore.CodeSchemaNewer}); !errors.Is(err, want) {
		t.Errorf("Open(newer schema) = %v, want %s", err, want.Code)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lehr.db")
	open(t, lite.Options{Path: path})
	db := connect(t, path)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
		var got string
		if err := db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %s, %v; want %s", pragma, got, err, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	_, err := lite.Open(t.Context(), lite.Options{})
	if !errs.IsKind(err, errs.Invalid) {
		t.Errorf("Open(no path) = %v, want invalid", err)
	}
	_, err = lite.Open(t.Context(), lite.Options{Path: filepath.Join(t.TempDir(), "missing", "lehr.db")})
	if !errs.IsKind(err, errs.Unavailable) {
		t.Errorf("Open(no folder) = %v, want unavailable", err)
	}
}

// TestPairsOfEarlierVersions makes versions as an earlier release wrote them,
// without pairs: after the next start their labels are found.
func TestPairsOfEarlierVersions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lehr.db")
	s := open(t, lite.Options{Path: path})
	storetest.PutLabelled(t, s, 250)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db := connect(t, path)
	for _, statement := range []string{"DELETE FROM version_pairs", "UPDATE template_versions SET paired = 0"} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	storetest.WantLabelled(t, open(t, lite.Options{Path: path}), 250)
}
