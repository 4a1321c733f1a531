package lite

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"github.com/lehr-dev/lehr/internal/store/sqlstore"
)

// errClosed is what a closed store answers.
var errClosed = errors.New("the store is closed")

// database runs transactions on SQLite: reads on a pool, writes one after the
// other on the writer's goroutine, which Close waits for. A database in memory
// has one connection, the writer's, for everything.
type database struct {
	writePool *sql.DB
	reads     *reader // nil in memory
	writer    *writer
	started   sync.Once
	closed    sync.Once
	closeErr  error
}

func newDatabase(writePool, readPool *sql.DB) *database {
	writePool.SetMaxOpenConns(1)
	writePool.SetMaxIdleConns(1)
	writePool.SetConnMaxLifetime(0)
	d := &database{writePool: writePool, writer: newWriter(writePool)}
	if readPool != nil {
		d.reads = &reader{pool: readPool, prepared: map[string]*sql.Stmt{}}
	}
	return d
}

// migrate runs before the writer takes the only connection.
func (d *database) migrate(ctx context.Context, dialect sqlstore.Dialect) error {
	if err := sqlstore.Migrate(ctx, d.writePool, dialect); err != nil {
		return err
	}
	d.started.Do(func() { go d.writer.loop() })
	return nil
}

// Read implements sqlstore.DB.
func (d *database) Read(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	if d.reads == nil {
		return d.writer.do(ctx, fn)
	}
	return fn(ctx, d.reads)
}

// Write implements sqlstore.DB.
func (d *database) Write(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	return d.writer.do(ctx, fn)
}

// WriteOne implements sqlstore.DB.
func (d *database) WriteOne(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	return d.writer.do(ctx, fn)
}

// Close implements sqlstore.DB: operations that have begun are finished.
func (d *database) Close() error {
	d.closed.Do(func() {
		close(d.writer.closing)
		d.started.Do(func() { close(d.writer.done) }) // never started
		<-d.writer.done
		if d.reads != nil {
			d.closeErr = d.reads.close()
		}
		d.closeErr = errors.Join(d.closeErr, d.writePool.Close())
	})
	return d.closeErr
}

// reader runs single statements on a pool, each prepared once for a
// connection. It is safe for concurrent use.
type reader struct {
	pool     *sql.DB
	mu       sync.Mutex
	prepared map[string]*sql.Stmt
	closed   bool
}

// Exec implements sqlstore.Querier; reads have none.
func (r *reader) Exec(context.Context, string, ...any) (int64, error) {
	return 0, errors.New("a read cannot write")
}

// Query implements sqlstore.Querier.
func (r *reader) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	st, err := r.prepare(query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

// prepare is bounded by the number of statements, which is fixed. It runs
// under no caller's context, since its result is everybody's.
func (r *reader) prepare(query string) (*sql.Stmt, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed
	}
	if st, ok := r.prepared[query]; ok {
		return st, nil
	}
	st, err := r.pool.Prepare(query)
	if err == nil {
		r.prepared[query] = st
	}
	return st, err
}

func (r *reader) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	var failed error
	for _, st := range r.prepared {
		failed = errors.Join(failed, st.Close())
	}
	return errors.Join(failed, r.pool.Close())
}
