package e2e

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/lehr-dev/lehr/test/world"
)

// checkVersionRows counts the versions that builds published, in the database
// itself: what no tag points to would not be listed.
func checkVersionRows(t *testing.T, w *world.World, want int) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.Data(), "lehr.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var rows, builds int
	err = db.QueryRowContext(t.Context(), `SELECT count(*), count(DISTINCT build_id) FROM template_versions WHERE build_id IS NOT NULL AND build_id <> ''`).Scan(&rows, &builds)
	if err != nil {
		t.Fatal(err)
	}
	if rows != want || builds != want {
		t.Errorf("versions = %d of %d builds, want %d of %d", rows, builds, want, want)
	}
}

// versionRows counts the versions of one build.
func versionRows(t *testing.T, w *world.World, build string) (rows int) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.Data(), "lehr.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM template_versions WHERE build_id = ?`, build).Scan(&rows); err != nil {
		t.Fatal(err)
	}
	return rows
}
