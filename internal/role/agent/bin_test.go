package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lehr-dev/lehr/internal/lehr"
)

type runs struct {
	digests []lehr.Digest
	known   bool
}

func (r runs) Sentries() ([]lehr.Digest, bool) { return r.digests, r.known }

// A sentry file stays while a sandbox runs on it, and while that is not known.
func TestOldSentriesGo(t *testing.T) {
	t.Parallel()
	own, old, older := lehr.DigestOf([]byte("own")), lehr.DigestOf([]byte("old")), lehr.DigestOf([]byte("older"))
	for name, test := range map[string]struct {
		runs runs
		want []string
	}{
		"one is in use":   {runs{[]lehr.Digest{old}, true}, []string{own.Hex(), old.Hex(), "notes"}},
		"none is in use":  {runs{nil, true}, []string{own.Hex(), "notes"}},
		"nobody can tell": {runs{nil, false}, []string{own.Hex(), old.Hex(), older.Hex(), "notes"}},
	} {
		dir := t.TempDir()
		for _, folder := range []string{own.Hex(), old.Hex(), older.Hex(), "notes"} {
			if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := sweepBinOnce(filepath.Join(dir, own.Hex()), test.runs, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("%s: sweepBinOnce() = %v", name, err)
		}
		var got []string
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			got = append(got, e.Name())
		}
		slices.Sort(got)
		slices.Sort(test.want)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: left %q, want %q", name, got, test.want)
		}
	}
}
