package sqlstore_test

import (
	"path/filepath"
	"testing"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// firstRelease is what the first release wrote: a team with a template that has
// a label, a build of it that runs, and a sandbox.
const firstRelease = `
INSERT INTO templates VALUES ('tpl-1', 'team-00000000000000000000000001', 'app', 1);
INSERT INTO template_versions VALUES ('ver-1', 'tpl-1', 'team-00000000000000000000000001', NULL, 'base', 'linux/amd64',
  'sha256:1', '', '', 7, 1, 512, 5120, 'minimal', 'sha256:0', '{"env":null,"labels":[{"name":"lang","value":"go"}]}', NULL, 1);
INSERT INTO template_tags VALUES ('tpl-1', 'default', 'team-00000000000000000000000001', 'ver-1', 1);
INSERT INTO template_builds (id, team_id, template_id, name, tag, spec, recipe_schema, spec_digest, priority, status, attempt,
  base_digest, total_steps, created_at, queued_at, started_at)
VALUES ('bld-1', 'team-00000000000000000000000001', 'tpl-1', 'app', 'default', '{"name":"app","tag":"default","recipe":["RUN true"]}', 1, '', 0,
  'running', 1, '', 1, 1, 1, 1);
INSERT INTO build_attempts (build_id, number, team_id, worker, lease_ends_at, started_at)
VALUES ('bld-1', 1, 'team-00000000000000000000000001', 'w', 1, 1);
INSERT INTO sandboxes VALUES ('sb1', 'team-00000000000000000000000001', 'app:default', 'ver-1', 'ver-1', 'host-1', 'running', '',
  1, 512, 5120, NULL, 1, NULL, NULL);`

// TestUpgradeFromTheFirstRelease opens a database of the first release: all of
// it means what it meant, and can be found by what was added.
func TestUpgradeFromTheFirstRelease(t *testing.T) {
	t.Parallel()
	const team = lehr.TeamID("team-00000000000000000000000001")
	path := filepath.Join(t.TempDir(), "lehr.db")
	db, err := lite.Connect(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlstore.MigrateTo(t.Context(), db, lite.Dialect(clock.Real()), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(firstRelease); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := lite.Open(t.Context(), lite.Options{Path: path})
	if err != nil {
		t.Fatalf("Open(a database of the first release) = %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	found, err := s.Templates().List(t.Context(), store.ListTemplates{TeamID: team, Labels: map[string]string{"lang": "go"}, Limit: 10})
	if err != nil || len(found) != 1 || found[0].Version.ID != "ver-1" {
		t.Errorf("List(lang=go) = %+v, %v, want ver-1", found, err)
	}
	box, err := s.Sandboxes().Get(t.Context(), team, "sb1")
	if err != nil || box.State != lehr.SandboxRunning || box.Metadata != nil || box.Error != nil {
		t.Errorf("Get(sb1) = %+v, %v, want it running, without metadata", box, err)
	}
	use, err := s.Accounts().Usage(t.Context(), team)
	if want := (lehr.TeamUsage{Sandboxes: 1, VCPUs: 1, MemoryMB: 512, RunningBuilds: 1}); err != nil || use != want {
		t.Errorf("Usage() = %+v, %v, want %+v", use, err, want)
	}
	owner, err := s.Accounts().Team(t.Context(), team)
	if err != nil || owner.Limits != (lehr.TeamLimits{}) {
		t.Errorf("Team() = %+v, %v, want no limits", owner, err)
	}
	touched, err := s.Queue().Reap(t.Context(), true, 0)
	if err != nil || len(touched) != 1 || touched[0].Status != lehr.BuildPending || touched[0].LostAttempts != 0 {
		t.Errorf("Reap(all) = %+v, %v, want bld-1 pending", touched, err)
	}
	if b, ok, err := s.Queue().Claim(t.Context(), "w", 1e9); err != nil || !ok || b.ID != "bld-1" || b.Attempt != 2 {
		t.Errorf("Claim() = %+v, %v, %v, want bld-1, attempt 2", b, ok, err)
	}
}
