// Package pg is the store on PostgreSQL, for any number of control planes.
// Transactions run at READ COMMITTED; what must not be overtaken is decided on
// one locked row, see package sqlstore.
package pg

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/store/sqlstore"
)

// Options say where the database is.
type Options struct {
	// URL is a PostgreSQL URL or keyword string. PGHOST and its like fill in
	// what it leaves out.
	URL string
	// MaxConns bounds the connections of this process; DefaultMaxConns where 0.
	MaxConns int
}

// DefaultMaxConns leaves room for several control planes under PostgreSQL's
// own default of 100 connections.
const DefaultMaxConns = 20

// Open connects and brings the schema up to date. It fails with Invalid for a
// URL that cannot be read, Unavailable, or Unsupported where a newer release
// wrote the database.
func Open(ctx context.Context, o Options) (*sqlstore.Store, error) {
	pool, err := Connect(o)
	if err != nil {
		return nil, err
	}
	if err := sqlstore.Migrate(ctx, pool, Dialect()); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	s := sqlstore.New(&database{pool: pool}, Dialect())
	if err := s.FillPairs(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Connect returns the pool that Open uses. It neither dials nor migrates.
func Connect(o Options) (*sql.DB, error) {
	config, err := pgx.ParseConfig(o.URL)
	if err != nil {
		// The cause quotes the URL, which may hold a password.
		return nil, errs.New(errs.Invalid, "the database's URL cannot be read").WithOp("store.Open").
			WithRemedy("write it as postgres://user@host/database")
	}
	for name, value := range map[string]string{
		"application_name": "lehr",
		// A control plane that hangs in a transaction holds rows of others up.
		"idle_in_transaction_session_timeout": "60000",
	} {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	if o.MaxConns <= 0 {
		o.MaxConns = DefaultMaxConns
	}
	pool := stdlib.OpenDB(*config)
	pool.SetMaxOpenConns(o.MaxConns)
	pool.SetMaxIdleConns(o.MaxConns)
	return pool, nil
}

// Dialect returns PostgreSQL's words.
func Dialect() sqlstore.Dialect {
	return sqlstore.Dialect{
		Name:       "postgres",
		Goose:      goose.DialectPostgres,
		Now:        "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)",
		SchemaNow:  "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)",
		SkipLocked: "FOR UPDATE OF p SKIP LOCKED",
		Text:       `TEXT COLLATE "C"`,
		Classify:   classify,
	}
}

// errClosed is what a closed store answers.
var errClosed = errors.New("the store is closed")

// database runs transactions on a pool. It is safe for concurrent use.
type database struct {
	pool   *sql.DB
	closed atomic.Bool
}

// Read implements sqlstore.DB.
func (d *database) Read(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	return d.WriteOne(ctx, fn)
}

// WriteOne implements sqlstore.DB: a statement alone is its own transaction.
func (d *database) WriteOne(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	if d.closed.Load() {
		return errClosed
	}
	return fn(ctx, querier{d.pool})
}

// maxTries bounds how often a transaction is begun that the engine gave up.
const maxTries = 5

// Write implements sqlstore.DB. A transaction that the engine sacrificed to
// end a deadlock is begun again.
func (d *database) Write(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	for try := 1; ; try++ {
		err := d.transact(ctx, fn)
		if err == nil || try == maxTries || !sacrificed(err) {
			return err
		}
	}
}

func (d *database) transact(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	if d.closed.Load() {
		return errClosed
	}
	tx, err := d.pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	if err := fn(ctx, querier{tx}); err != nil {
		return err
	}
	return tx.Commit()
}

// Close implements sqlstore.DB.
func (d *database) Close() error {
	d.closed.Store(true)
	return d.pool.Close()
}

// runner is a transaction, or the pool.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

type querier struct{ runner runner }

// Exec implements sqlstore.Querier.
func (q querier) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := q.runner.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Query implements sqlstore.Querier.
func (q querier) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return q.runner.QueryContext(ctx, query, args...)
}

// SQLSTATE codes and classes, from appendix A of PostgreSQL's manual.
const (
	stateUnique         = "23505"
	stateReference      = "23503"
	stateNotNull        = "23502"
	stateCheck          = "23514"
	stateDeadlock       = "40P01"
	stateSerialization  = "40001"
	stateReadOnly       = "25006"
	stateLockTimeout    = "55P03"
	classData           = "22"
	classConnection     = "08"
	classAuthorization  = "28"
	classRollback       = "40"
	classResources      = "53"
	classLimit          = "54"
	classIntervention   = "57"
	classSystem         = "58"
	stateNoSuchDatabase = "3D000"
)

func sacrificed(err error) bool {
	var known *pgconn.PgError
	return errors.As(err, &known) && (known.Code == stateDeadlock || known.Code == stateSerialization)
}

// classify reads the SQLSTATE, or what went wrong on the way.
func classify(err error) sqlstore.Trouble {
	var known *pgconn.PgError
	if !errors.As(err, &known) {
		return classifyConnection(err)
	}
	switch known.Code {
	case stateUnique:
		return sqlstore.TroubleUnique
	case stateReference:
		return sqlstore.TroubleReference
	case stateNotNull, stateCheck:
		return sqlstore.TroubleValue
	case stateReadOnly, stateLockTimeout, stateNoSuchDatabase:
		return sqlstore.TroubleUnavailable
	}
	switch known.Code[:min(2, len(known.Code))] {
	case classData, classLimit:
		return sqlstore.TroubleValue
	case classConnection, classAuthorization, classRollback, classResources, classIntervention, classSystem:
		return sqlstore.TroubleUnavailable
	}
	return sqlstore.TroubleUnknown
}

func classifyConnection(err error) sqlstore.Trouble {
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &connect), errors.As(err, &network), pgconn.SafeToRetry(err):
		return sqlstore.TroubleUnavailable
	}
	for _, known := range []error{errClosed, driver.ErrBadConn, sql.ErrConnDone, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, known) {
			return sqlstore.TroubleUnavailable
		}
	}
	return sqlstore.TroubleUnknown
}
