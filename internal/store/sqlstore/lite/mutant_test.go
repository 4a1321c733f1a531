package lite

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore"
	"github.com/lehr-dev/lehr/internal/store/storetest"
)

// mutants are stores with one protection taken out. The suite must notice
// each; run is where it is expected to.
var mutants = []struct{ name, statement, old, new, run string }{
	{"finish without the attempt", "SET status = $3, error = $4", "AND attempt = $2", "AND $2 > 0", "Fence/TakenOver"},
	{"finish without the status", "SET status = $3, error = $4", "AND status = 'running'", "", "Races/CancelAgainstFinish"},
	{"cancel without the status", "SET status = 'cancelled'", "AND status IN ('pending', 'running')", "", "Builds/Cancel"},
	{"claim of what runs", "SET status = 'running'", "WHERE p.status = 'pending'", "WHERE p.status IN ('pending', 'running')", "Queue"},
	{"renewal after the end", "SET lease_ends_at", "AND ended_at IS NULL", "", "Fence"},
	{"placement after the end", "SET host_id = $3", "AND ended_at IS NULL", "", "Fence"},
	{"give-back without the attempt", "SET lost_attempts = lost_attempts + $3", "AND attempt = $2", "AND $2 > 0", "Fence/TakenOver"},
	{"give-back that does not count", "SET lost_attempts = lost_attempts + $3", "lost_attempts + $3", "lost_attempts + 0 * $3", "Queue/FifthLossFails"},
	{"log without the attempt", "SET next_seq = next_seq + $3", "AND attempt = $2 AND cleaned_attempt < $2", "AND $2 > 0", "Fence"},
	{"log after clean-up", "SET next_seq = next_seq + $3", "AND cleaned_attempt < $2", "", "Fence/LastLines"},
	{"log without a cap", "SET next_seq = next_seq + $3", "AND log_bytes + $4 <= $5", "AND $5 > 0", "Logs/Cap"},
	{"steps without the attempt", "SET current_step = CASE", "AND attempt = $2 AND cleaned_attempt < $2", "AND $2 > 0", "Fence"},
	{"version not protected", "INSERT INTO sandboxes", "v.id, v.id, $5", "v.id, NULL, $5", "Versions"},
	{"version never let go", "SET state = $2", "THEN NULL ELSE uses_version", "THEN uses_version ELSE uses_version", "Versions"},
	{"any move", "SET state = $2", "AND state IN ($4, $5, $6, $7, $8)", "AND '' IN ('', $4, $5, $6, $7, $8)", "Sandboxes/EveryMove"},
	{"another team's templates", "FROM template_tags g", "AND t.team_id IN ($1, $2)", "AND '' IN ('', $1, $2)", "Templates/Resolve"},
	{"claim after the end", "SET next_seq = next_seq WHERE id = $1 AND attempt = $2 AND status", "AND status = 'running'", "", "Claims/OfAnEndedAttempt"},
	{"claim of the condemned", "INTO artifact_marks", "CASE WHEN condemned_at IS NULL THEN 0 ELSE 1 END", "0", "Claims/Condemned"},
	{"removal of the claimed", "SELECT 1 FROM artifact_claims", "WHERE digest = $1", "WHERE digest = $1 AND 1 = 0", "Claims/Protects"},
	{"removal of the named", "WHERE v.image_digest = $1 OR v.snapshot_digest = $1", "v.snapshot_digest = $1", "1 = 0", "Claims/Version"},
	{"claims for ever", "DELETE FROM artifact_claims WHERE build_id", "AND attempt = $2", "AND attempt = $2 AND 1 = 0", "Claims/EndsWithCleanUp"},
	{"limit of sandboxes passed by", "INSERT INTO sandboxes", "m.max_sandboxes = 0 AND", "", "Limits/Sandboxes"},
	{"limit of builds passed by", "INSERT INTO template_builds", "m.max_pending_builds = 0 AND", "", "Limits/PendingBuilds"},
	{"limit of creates forgotten", "SET paid_until = $2", "SET paid_until = $2", "SET paid_until = $2 * 0", "Limits/CreatesPerMinute"},
	{"ended sandboxes count", "COALESCE(SUM(vcpus), 0)", "AND ended_at IS NULL", "", "Limits/Sandboxes"},
	{"builds' sandboxes count", "COALESCE(SUM(vcpus), 0)", "AND build_id IS NULL", "", "Limits/Sandboxes"},
	{"filter by one pair only", "FROM sandbox_pairs p", "(SELECT COUNT(*) FROM sandbox_pairs e", "$8 + 0 * (SELECT COUNT(*) FROM sandbox_pairs e", "Filters/SandboxMetadata"},
	{"filter across teams", "FROM sandbox_pairs p", "p.team_id = $1", "$1 <> ''", "Filters/SandboxMetadata"},
	{"end of what was put off", "reason = 'ttl'", "expires_at <= :now", "expires_at > 0", "Sandboxes/Expiry"},
	{"deferred builds are claimed", "SET status = 'running'", "not_before <= :now", "not_before >= 0", "Once/Defer"},
	{"starts count as losses", "SET taken_back   = taken_back + 1", "SET taken_back   = taken_back + 1,", "SET taken_back = taken_back + 1, lost_attempts = lost_attempts + 1,", "Once/TakenBack"},
	{"revoked keys", "FROM api_keys WHERE secret_hash", "AND revoked_at IS NULL", "", "Accounts/Keys"},
}

// mutantVar names the mutant that TestMutant exercises in a child process.
const mutantVar = "LEHR_LITE_TEST_MUTANT"

// TestSuiteKillsMutants shows that the suite is not blind.
func TestSuiteKillsMutants(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			child := exec.Command(os.Args[0], "-test.run=^TestMutant$/"+m.run)
			child.Env = append(os.Environ(), mutantVar+"="+m.name)
			output, err := child.CombinedOutput()
			text := string(output)
			if err == nil || !strings.Contains(text, "--- FAIL: TestMutant/") || !strings.Contains(text, applied) {
				t.Errorf("the suite did not notice: %v\n%s", err, text)
			}
		})
	}
}

// applied is what a child prints where its mutation met a statement.
const applied = "the mutation was applied"

// TestMutant is run by TestSuiteKillsMutants.
func TestMutant(t *testing.T) {
	name := os.Getenv(mutantVar)
	for _, m := range mutants {
		if m.name != name {
			continue
		}
		var met atomic.Bool
		t.Cleanup(func() {
			if met.Load() {
				fmt.Println(applied)
			}
		})
		mutate := func(text string) string {
			if !strings.Contains(text, m.statement) || !strings.Contains(text, m.old) {
				return text
			}
			met.Store(true)
			return strings.ReplaceAll(text, m.old, m.new)
		}
		storetest.Exercise(t, func(t *testing.T) store.Store { return openMutant(t, mutate) })
	}
}

func openMutant(t *testing.T, mutate func(string) string) store.Store {
	t.Helper()
	db, err := openDB(Memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	dialect := Dialect(clock.Real())
	if err := db.migrate(t.Context(), dialect); err != nil {
		t.Fatal(err)
	}
	return sqlstore.New(mutantDB{database: db, mutate: mutate}, dialect)
}

// mutantDB changes statements on their way.
type mutantDB struct {
	*database
	mutate func(string) string
}

func (d mutantDB) Read(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	return d.database.Read(ctx, d.through(fn))
}

func (d mutantDB) Write(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	return d.database.Write(ctx, d.through(fn))
}

func (d mutantDB) WriteOne(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	return d.database.WriteOne(ctx, d.through(fn))
}

func (d mutantDB) through(fn func(context.Context, sqlstore.Querier) error) func(context.Context, sqlstore.Querier) error {
	return func(ctx context.Context, q sqlstore.Querier) error {
		return fn(ctx, mutantQuerier{Querier: q, mutate: d.mutate})
	}
}

type mutantQuerier struct {
	sqlstore.Querier
	mutate func(string) string
}

func (q mutantQuerier) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	return q.Querier.Exec(ctx, q.mutate(query), args...)
}

func (q mutantQuerier) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return q.Querier.Query(ctx, q.mutate(query), args...)
}
