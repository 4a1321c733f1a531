// Package sqlstore implements the store law in SQL, once for SQLite and
// PostgreSQL. Statements are constants grouped by noun; Statements lists them
// all, so that a test prepares each on both engines. What differs between the
// two is in Dialect and in the way transactions are run (DB).
//
// The row of a build is the lock of everything below it: whoever writes
// attempts, steps or log rows first moves or touches the row in
// template_builds, and conditions that must hold are columns of that row.
// The one exception, Renew and Place, is a single statement on the attempt.
package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/store"
)

// Querier runs statements in one transaction, or each in its own.
type Querier interface {
	Exec(ctx context.Context, query string, args ...any) (rows int64, err error)
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// DB runs transactions. Its methods are safe for concurrent use; fn may be
// called again when the database asks for it, and must not keep its Querier.
type DB interface {
	// Read runs fn on committed state; each of its statements sees its own.
	Read(ctx context.Context, fn func(context.Context, Querier) error) error
	// Write runs fn in one transaction, which is durable when Write returns nil
	// and left no trace when it returns an error of fn's.
	Write(ctx context.Context, fn func(context.Context, Querier) error) error
	// WriteOne is Write for an fn that runs exactly one statement.
	WriteOne(ctx context.Context, fn func(context.Context, Querier) error) error
	// Close ends all connections. It may be called twice.
	Close() error
}

// Store implements store.Store. It is safe for concurrent use.
type Store struct {
	db         DB
	dialect    Dialect
	statements map[string]statement // by text; never changed after New
}

var _ store.Store = (*Store)(nil)

// New returns the store of a database whose schema Migrate brought up to date.
func New(db DB, d Dialect) *Store {
	s := &Store{db: db, dialect: d, statements: map[string]statement{}}
	for _, text := range texts() {
		s.statements[text] = d.render(text)
	}
	return s
}

// Statements returns every statement as the dialect's engine gets it.
func Statements(d Dialect) []string {
	var all []string
	for _, text := range texts() {
		all = append(all, d.render(text).text)
	}
	return all
}

// Builds returns the builds as callers see them.
func (s *Store) Builds() store.Builds { return builds{s} }

// Queue returns the builds as workers see them.
func (s *Store) Queue() store.Queue { return queue{s} }

// Logs returns the logs of builds.
func (s *Store) Logs() store.Logs { return logs{s} }

// Templates returns names, tags and versions.
func (s *Store) Templates() store.Templates { return templates{s} }

// Sandboxes returns the record of sandboxes.
func (s *Store) Sandboxes() store.Sandboxes { return sandboxes{s} }

// Accounts returns teams and keys.
func (s *Store) Accounts() store.Accounts { return accounts{s} }

// Hosts returns the fleet.
func (s *Store) Hosts() store.Hosts { return hosts{s} }

// Close ends all connections. It may be called twice.
func (s *Store) Close() error { return s.db.Close() }

// tx runs the statements of one operation.
type tx struct {
	s *Store
	q Querier
}

// scanner is a row to read.
type scanner interface {
	Scan(dest ...any) error
}

// runner is one of DB's three ways.
type runner func(context.Context, func(context.Context, Querier) error) error

func read[T any](ctx context.Context, s *Store, op string, fn func(context.Context, tx) (T, error)) (T, error) {
	return run(ctx, s, s.db.Read, op, fn)
}

func write[T any](ctx context.Context, s *Store, op string, fn func(context.Context, tx) (T, error)) (T, error) {
	return run(ctx, s, s.db.Write, op, fn)
}

func writeOne[T any](ctx context.Context, s *Store, op string, fn func(context.Context, tx) (T, error)) (T, error) {
	return run(ctx, s, s.db.WriteOne, op, fn)
}

func run[T any](ctx context.Context, s *Store, by runner, op string, fn func(context.Context, tx) (T, error)) (T, error) {
	var result T
	err := by(ctx, func(ctx context.Context, q Querier) error {
		var err error
		result, err = fn(ctx, tx{s: s, q: q})
		return err
	})
	if err != nil {
		var none T
		return none, s.explain(ctx, op, err)
	}
	return result, nil
}

func (t tx) prepare(query string, args []any) (string, []any, error) {
	st, ok := t.s.statements[query]
	if !ok {
		return "", nil, errs.New(errs.Internal, "statement is not listed: %.60s", query)
	}
	if st.now {
		args = append(args[:len(args):len(args)], sql.Named("now", t.s.dialect.NowArg()))
	}
	return st.text, args, nil
}

func (t tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	text, args, err := t.prepare(query, args)
	if err != nil {
		return 0, err
	}
	return t.q.Exec(ctx, text, args...)
}

// all reads every row. The result is never nil, so that it prints as a list.
func all[T any](ctx context.Context, t tx, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	text, args, err := t.prepare(query, args)
	if err != nil {
		return nil, err
	}
	rows, err := t.q.Query(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("read a row: %w", err)
		}
		found = append(found, v)
	}
	return found, rows.Err()
}

// one reads the first row; ok is false where there is none.
func one[T any](ctx context.Context, t tx, scan func(scanner) (T, error), query string, args ...any) (v T, ok bool, err error) {
	found, err := all(ctx, t, scan, query, args...)
	if err != nil || len(found) == 0 {
		return v, false, err
	}
	return found[0], true, nil
}

// scanValue reads a row of one column.
func scanValue[T any](row scanner) (v T, err error) {
	err = row.Scan(&v)
	return v, err
}
