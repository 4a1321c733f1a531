package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// sqlLogReserve allots $3 seqs for $4 bytes. It holds the build's row until
// the lines are committed, so that readers see seqs in order and without gaps.
const sqlLogReserve = `
UPDATE template_builds SET next_seq = next_seq + $3, log_bytes = log_bytes + $4
WHERE id = $1 AND attempt = $2 AND cleaned_attempt < $2 AND log_capped = 0 AND log_bytes + $4 <= $5
RETURNING team_id, next_seq - $3`

const sqlLogRoom = `
UPDATE template_builds SET next_seq = next_seq
WHERE id = $1 AND attempt = $2 AND cleaned_attempt < $2
RETURNING log_capped, log_bytes`

const sqlLogCap = `
UPDATE template_builds SET log_capped = 1 WHERE id = $1`

const sqlLogRead = `
SELECT seq, attempt, at, phase, step, stream, line
FROM build_logs WHERE build_id = $1 AND seq > $2 ORDER BY seq LIMIT $3`

const sqlLogOld = `
SELECT id FROM template_builds WHERE log_expired = 0 AND completed_at < $1 ORDER BY completed_at LIMIT $2`

const sqlLogDelete = `
DELETE FROM build_logs WHERE build_id = $1`

const sqlLogExpired = `
UPDATE template_builds SET log_expired = 1, idempotency_key = NULL WHERE id = $1`

const sqlLogInsertHead = `
INSERT INTO build_logs (build_id, attempt, team_id, seq, at, phase, step, stream, line) VALUES`

// expireBatch is how many builds Expire takes in one transaction, so that it
// does not hold others up.
const expireBatch = 50

// capSlack is what the line about the cap may add to MaxLogBytes.
const capSlack = 1 << 10

// logChunks are the numbers of rows one insert may have, largest first.
func logChunks() []int { return []int{64, 16, 4, 1} }

// logInserts returns the inserts for logChunks.
func logInserts() []string {
	var texts []string
	for _, n := range logChunks() {
		texts = append(texts, logInsert(n))
	}
	return texts
}

// logInsert is the insert of n rows. $1 to $3 are shared by all of them.
func logInsert(n int) string {
	rows := make([]string, n)
	for i := range rows {
		p := 3 + 6*i
		rows[i] = fmt.Sprintf("\n($1, $2, $3, $%d, COALESCE($%d, {now}), $%d, $%d, $%d, $%d)", p+1, p+2, p+3, p+4, p+5, p+6)
	}
	return sqlLogInsertHead + strings.Join(rows, ",")
}

type logs struct{ s *Store }

// Append implements store.Logs. A line counts with its end.
func (l logs) Append(ctx context.Context, f lehr.Fence, lines []lehr.LogLine) ([]lehr.LogLine, error) {
	if len(lines) == 0 {
		return []lehr.LogLine{}, nil
	}
	return write(ctx, l.s, "store.Logs.Append", func(ctx context.Context, t tx) ([]lehr.LogLine, error) {
		kept, ok, err := t.logAppend(ctx, f, lines, store.MaxLogBytes)
		if err != nil || ok {
			return kept, err
		}
		return t.logAppendCapped(ctx, f, lines)
	})
}

// logAppend stores all lines under the fence and below limit, or, with ok
// false, none.
func (t tx) logAppend(ctx context.Context, f lehr.Fence, lines []lehr.LogLine, limit int64) (kept []lehr.LogLine, ok bool, err error) {
	type reserved struct {
		team  string
		first int64
	}
	scan := func(row scanner) (r reserved, err error) { return r, row.Scan(&r.team, &r.first) }
	var size int64
	kept = make([]lehr.LogLine, len(lines))
	for i, line := range lines {
		line.Text = plain(line.Text)
		size += lineSize(line)
		kept[i] = line
	}
	r, ok, err := one(ctx, t, scan, sqlLogReserve, string(f.BuildID), f.Attempt, len(lines), size, limit)
	if err != nil || !ok {
		return nil, false, err
	}
	for i := range kept {
		kept[i].Seq, kept[i].Attempt = r.first+int64(i), f.Attempt
	}
	return kept, true, t.logInsertAll(ctx, f, r.team, kept)
}

func lineSize(line lehr.LogLine) int64 { return int64(len(line.Text)) + 1 }

func (t tx) logInsertAll(ctx context.Context, f lehr.Fence, team string, lines []lehr.LogLine) error {
	for _, n := range logChunks() {
		for len(lines) >= n {
			args := append(make([]any, 0, 3+6*n), string(f.BuildID), f.Attempt, team)
			for _, line := range lines[:n] {
				args = append(args, line.Seq, micros(line.Time), string(line.Phase), line.Step, string(line.Stream), line.Text)
			}
			if _, err := t.exec(ctx, logInsert(n), args...); err != nil {
				return err
			}
			lines = lines[n:]
		}
	}
	return nil
}

// logAppendCapped is for lines that do not all fit, or not at all. It stores
// those that do, then one line that says what happened, and from then on
// nothing.
func (t tx) logAppendCapped(ctx context.Context, f lehr.Fence, lines []lehr.LogLine) ([]lehr.LogLine, error) {
	type room struct{ capped, size int64 }
	scan := func(row scanner) (r room, err error) { return r, row.Scan(&r.capped, &r.size) }
	r, ok, err := one(ctx, t, scan, sqlLogRoom, string(f.BuildID), f.Attempt)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, t.fenceError(ctx, f)
	}
	if r.capped == 1 {
		return []lehr.LogLine{}, nil
	}
	fitting := lines[:fit(lines, store.MaxLogBytes-r.size)]
	mark := lines[len(fitting)]
	mark.Stream = lehr.StreamSystem
	mark.Text = fmt.Sprintf("log truncated: it reached %d MiB; further output is not kept", store.MaxLogBytes>>20)
	kept, ok, err := t.logAppend(ctx, f, append(fitting[:len(fitting):len(fitting)], mark), store.MaxLogBytes+capSlack)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errs.New(errs.Internal, "the log's cap was not applied")
	}
	_, err = t.exec(ctx, sqlLogCap, string(f.BuildID))
	return kept, err
}

// fit returns how many of lines fit into size bytes, less than all of them.
func fit(lines []lehr.LogLine, size int64) int {
	for i, line := range lines {
		line.Text = plain(line.Text)
		if size -= lineSize(line); size < 0 {
			return i
		}
	}
	return len(lines) - 1
}

// Read implements store.Logs. An unknown build has no lines.
func (l logs) Read(ctx context.Context, id lehr.BuildID, after int64, limit int) ([]lehr.LogLine, error) {
	return read(ctx, l.s, "store.Logs.Read", func(ctx context.Context, t tx) ([]lehr.LogLine, error) {
		limit, err := sweepLimit(limit)
		if err != nil {
			return nil, err
		}
		return all(ctx, t, scanLine, sqlLogRead, string(id), after, limit)
	})
}

// Expire implements store.Logs.
func (l logs) Expire(ctx context.Context, before time.Time) (int64, error) {
	var total int64
	for {
		b, err := write(ctx, l.s, "store.Logs.Expire", func(ctx context.Context, t tx) (batch, error) {
			return t.logExpire(ctx, before)
		})
		total += b.rows
		if err != nil || b.builds < expireBatch {
			return total, err
		}
	}
}

// batch is what one transaction of Expire did.
type batch struct {
	builds int
	rows   int64
}

func (t tx) logExpire(ctx context.Context, before time.Time) (batch, error) {
	ids, err := all(ctx, t, scanValue[string], sqlLogOld, before.UnixMicro(), expireBatch)
	if err != nil {
		return batch{}, err
	}
	done := batch{builds: len(ids)}
	for _, id := range ids {
		if _, err := t.exec(ctx, sqlLogExpired, id); err != nil {
			return batch{}, err
		}
		n, err := t.exec(ctx, sqlLogDelete, id)
		if err != nil {
			return batch{}, err
		}
		done.rows += n
	}
	return done, nil
}

func scanLine(row scanner) (line lehr.LogLine, err error) {
	var at sql.Null[int64]
	err = row.Scan(&line.Seq, &line.Attempt, &at, &line.Phase, &line.Step, &line.Stream, &line.Text)
	line.Time = instant(at)
	return line, err
}
