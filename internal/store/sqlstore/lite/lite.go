// Package lite is the store on SQLite, for one process: the database lives in
// a file (or, for tests, in memory) and this package is its only writer.
//
// Settings: WAL, so that readers never wait for the writer; synchronous FULL,
// so that what was acknowledged survives a power cut; one writer connection,
// which commits what callers asked for meanwhile in one go (see writer).
package lite

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"strings"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/store/sqlstore"
)

// Memory is the Path of a database that ends with its store.
const Memory = ":memory:"

// Options say where the database is.
type Options struct {
	// Path of the file, which is made with mode 0600 where it is missing, or
	// Memory.
	Path string
	// Clock is the database's clock; the machine's where nil.
	Clock clock.Clock
}

// readers is how many reads of a file run at the same time.
const readers = 4

// Open opens the store and brings its schema up to date. It fails with
// Unavailable, with Unsupported where a newer release wrote the file, or with
// Corrupt, code "database_corrupt", where the file is damaged; nothing is written
// to such a file.
func Open(ctx context.Context, o Options) (*sqlstore.Store, error) {
	const op = "store.Open"
	if o.Path == "" {
		return nil, errs.New(errs.Invalid, "the database needs a path").WithOp(op)
	}
	if o.Clock == nil {
		o.Clock = clock.Real()
	}
	if o.Path != Memory {
		if err := check(ctx, o.Path); err != nil {
			return nil, err
		}
	}
	db, err := openDB(o.Path)
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, op, "the database cannot be opened")
	}
	dialect := Dialect(o.Clock)
	if err := db.migrate(ctx, dialect); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s := sqlstore.New(db, dialect)
	if err := s.FillPairs(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Dialect returns SQLite's words; c is the database's clock.
func Dialect(c clock.Clock) sqlstore.Dialect {
	return sqlstore.Dialect{
		Name:      "sqlite",
		Goose:     goose.DialectSQLite3,
		Now:       ":now",
		NowArg:    func() int64 { return c.Now().UnixMicro() },
		SchemaNow: "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
		Text:      "TEXT",
		Classify:  classify,
	}
}

// Connect opens a pool of connections to the file at path with the store's
// settings, for tools and tests. It does not migrate.
func Connect(path string) (*sql.DB, error) { return sql.Open("sqlite", dsn(path, false)) }

func openDB(path string) (*database, error) {
	if path == Memory {
		pool, err := sql.Open("sqlite", dsn(path, false))
		if err != nil {
			return nil, err
		}
		return newDatabase(pool, nil), nil
	}
	// SQLite gives the files beside the database the same mode.
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	writePool, err := sql.Open("sqlite", dsn(path, false))
	if err != nil {
		return nil, err
	}
	readPool, err := sql.Open("sqlite", dsn(path, true))
	if err != nil {
		return nil, errors.Join(err, writePool.Close())
	}
	readPool.SetMaxOpenConns(readers)
	readPool.SetMaxIdleConns(readers)
	return newDatabase(writePool, readPool), nil
}

// dsn returns the driver's name of the database. Others (a backup, a curious
// administrator's shell) may hold the file's lock for a moment, hence the busy
// timeout, in milliseconds.
func dsn(path string, readOnly bool) string {
	pragmas := []string{"busy_timeout(10000)", "foreign_keys(1)", "temp_store(memory)"}
	if path == Memory {
		return path + "?" + url.Values{"_pragma": pragmas}.Encode()
	}
	pragmas = append(pragmas, "journal_mode(wal)", "synchronous(full)", "cache_size(-4096)")
	if readOnly {
		pragmas = append(pragmas, "query_only(1)")
	}
	return "file:" + escaped(path) + "?" + url.Values{"_pragma": pragmas}.Encode()
}

// escaped is a path as it stands in a URI.
func escaped(path string) string {
	return strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
}

// classify reads the driver's result codes, of which the low byte is the
// primary one.
func classify(err error) sqlstore.Trouble {
	if errors.Is(err, errClosed) || errors.Is(err, sql.ErrConnDone) {
		return sqlstore.TroubleUnavailable
	}
	var known *sqlite.Error
	if !errors.As(err, &known) {
		return sqlstore.TroubleUnknown
	}
	switch known.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return sqlstore.TroubleUnique
	case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return sqlstore.TroubleReference
	}
	switch known.Code() & 0xff {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG:
		return sqlstore.TroubleValue
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
		sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_INTERRUPT,
		sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return sqlstore.TroubleUnavailable
	}
	return sqlstore.TroubleUnknown
}
