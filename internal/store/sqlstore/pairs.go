package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// The pair tables hold what filters by metadata and labels look up, a hash for
// each name and value. A filter walks the index of its first pair and probes
// the others by primary key.

const sqlSandboxPairInsert = `
INSERT INTO sandbox_pairs (object_id, team_id, pair) VALUES ($1, $2, $3)`

const sqlBuildPairInsert = `
INSERT INTO build_pairs (object_id, team_id, pair) VALUES ($1, $2, $3)`

const sqlVersionPairInsert = `
INSERT INTO version_pairs (object_id, team_id, pair) VALUES ($1, $2, $3)
ON CONFLICT (object_id, pair) DO NOTHING`

const sqlVersionUnpaired = `
SELECT id, team_id, config FROM template_versions WHERE paired = 0 ORDER BY id LIMIT $1`

const sqlVersionPaired = `
UPDATE template_versions SET paired = 1 WHERE id = $1`

// otherPairs is the condition that an object has all other pairs of a filter:
// MaxPairs - 1 of them, padded with empty ones, and their number.
func otherPairs(table string) string {
	marks := strings.TrimSuffix(strings.Repeat("?, ", store.MaxPairs-1), ", ")
	return "(SELECT COUNT(*) FROM " + table + " e WHERE e.object_id = p.object_id AND e.pair IN (" + marks + ")) = ?"
}

// pairOf hashes a name and a value, each with its length, so that no two pairs
// are alike.
func pairOf(name, value string) string {
	h := sha256.New()
	var size [8]byte
	for _, s := range []string{name, value} {
		binary.BigEndian.PutUint64(size[:], uint64(len(s)))
		h.Write(size[:])
		h.Write([]byte(s))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// pairsOf returns the pairs of a map, in order of its names.
func pairsOf(m map[string]string) []string {
	pairs := make([]string, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, pairOf(name, m[name]))
	}
	return pairs
}

// labelPairs returns the pairs of a version's labels; of a name that is given
// twice the last value counts.
func labelPairs(labels []lehr.EnvVar) []string {
	values := map[string]string{}
	for _, l := range labels {
		values[l.Name] = l.Value
	}
	pairs := pairsOf(values)
	return pairs[:min(len(pairs), store.MaxLabels)]
}

// putPairs records an object's pairs.
func (t tx) putPairs(ctx context.Context, insert, id string, team lehr.TeamID, pairs []string) error {
	for _, pair := range pairs {
		if _, err := t.exec(ctx, insert, id, string(team), pair); err != nil {
			return err
		}
	}
	return nil
}

// checkPairs refuses filters that no index serves.
func checkPairs(field string, team lehr.TeamID, m map[string]string) error {
	switch {
	case len(m) > store.MaxPairs:
		return errs.New(errs.Invalid, "%d names, want at most %d", len(m), store.MaxPairs).WithField(field).
			WithRemedy("filter by fewer")
	case len(m) > 0 && team == "":
		return errs.New(errs.Invalid, "only the objects of one team can be filtered so").WithField(field)
	}
	return nil
}

// others is the filter for all pairs but the first.
func others(pairs []string) filter {
	if len(pairs) < 2 {
		return filter{}
	}
	args := make([]any, store.MaxPairs)
	for i := range store.MaxPairs - 1 {
		args[i] = ""
		if i+1 < len(pairs) {
			args[i] = pairs[i+1]
		}
	}
	args[store.MaxPairs-1] = len(pairs) - 1
	return filter{on: true, args: args}
}

// metadataColumn is the column of metadata.
func metadataColumn(m map[string]string) any {
	if len(m) == 0 {
		return nil
	}
	return toJSON(m)
}

// pairBatch is how many versions of earlier releases get their pairs at once.
const pairBatch = 200

// unpaired is a version without pairs.
type unpaired struct {
	id     lehr.VersionID
	team   lehr.TeamID
	config string
}

func scanUnpaired(row scanner) (u unpaired, err error) {
	return u, row.Scan(&u.id, &u.team, &u.config)
}

// FillPairs makes the versions that earlier releases wrote findable by label.
// It is called once after Migrate; doing it twice, or in two processes, does no
// harm.
func (s *Store) FillPairs(ctx context.Context) error {
	for {
		n, err := write(ctx, s, "store.FillPairs", func(ctx context.Context, t tx) (int, error) {
			found, err := all(ctx, t, scanUnpaired, sqlVersionUnpaired, pairBatch)
			if err != nil {
				return 0, err
			}
			for _, u := range found {
				if err := t.fillPairs(ctx, u); err != nil {
					return 0, err
				}
			}
			return len(found), nil
		})
		if err != nil || n < pairBatch {
			return err
		}
	}
}

func (t tx) fillPairs(ctx context.Context, u unpaired) error {
	var config lehr.ImageConfig
	// A config that cannot be read has no labels; whoever needs it says so.
	if json.Unmarshal([]byte(u.config), &config) == nil {
		if err := t.putPairs(ctx, sqlVersionPairInsert, string(u.id), u.team, labelPairs(config.Labels)); err != nil {
			return err
		}
	}
	_, err := t.exec(ctx, sqlVersionPaired, string(u.id))
	return err
}

// scanMetadata reads the column of metadata.
func scanMetadata(column sql.Null[string]) (map[string]string, error) {
	m, err := fromJSON[map[string]string](column)
	if m == nil || err != nil {
		return nil, err
	}
	return *m, nil
}
