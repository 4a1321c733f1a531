package lite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/lehr-dev/lehr/internal/store/sqlstore"
)

// maxBatch bounds the operations of one commit.
const maxBatch = 128

// writer is the only connection that writes. Its goroutine, loop, owns conn
// and prepared; callers hand it operations and wait. Operations that arrive
// while one batch is committed share the next commit and its fsync; each runs
// in a savepoint, so that one's failure is not another's.
type writer struct {
	pool    *sql.DB
	ops     chan *operation // unbuffered: what is received is run
	closing chan struct{}
	done    chan struct{} // closed when loop has ended

	conn     *sql.Conn
	prepared map[string]*sql.Stmt
}

// operation is one caller's transaction. The writer owns it from the receipt
// until it closes done.
type operation struct {
	ctx      context.Context
	fn       func(context.Context, sqlstore.Querier) error
	err      error
	panicked any
	done     chan struct{}
}

func newWriter(pool *sql.DB) *writer {
	return &writer{
		pool: pool, ops: make(chan *operation), closing: make(chan struct{}), done: make(chan struct{}),
		prepared: map[string]*sql.Stmt{},
	}
}

// do runs fn in a transaction. Once it was begun do waits for its end even
// where ctx ends, because an interrupt would undo the whole batch; statements
// are short. A panic of fn's is raised in the caller.
func (w *writer) do(ctx context.Context, fn func(context.Context, sqlstore.Querier) error) error {
	op := &operation{ctx: ctx, fn: fn, done: make(chan struct{})}
	select {
	case w.ops <- op:
	case <-w.closing:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	<-op.done
	if op.panicked != nil {
		panic(op.panicked)
	}
	return op.err
}

func (w *writer) loop() {
	defer close(w.done)
	defer w.disconnect()
	for {
		select {
		case <-w.closing:
			return
		case op := <-w.ops:
			w.commit(w.gather(op))
		}
	}
}

// gather adds to first whoever waits already.
func (w *writer) gather(first *operation) []*operation {
	batch := []*operation{first}
	for len(batch) < maxBatch {
		select {
		case op := <-w.ops:
			batch = append(batch, op)
		default:
			return batch
		}
	}
	return batch
}

// commit runs a batch in one transaction and answers its callers.
func (w *writer) commit(batch []*operation) {
	defer func() {
		for _, op := range batch {
			close(op.done)
		}
	}()
	if err := w.transact(batch); err != nil {
		for _, op := range batch {
			if op.err == nil && op.panicked == nil {
				op.err = err
			}
		}
	}
}

// transact returns an error where the batch as a whole left no trace.
func (w *writer) transact(batch []*operation) error {
	ctx := context.Background() // the batch is nobody's alone
	if err := w.begin(ctx); err != nil {
		return err
	}
	wrote := false
	for _, op := range batch {
		if op.ctx.Err() != nil {
			op.err = context.Cause(op.ctx)
			continue
		}
		if err := w.attempt(ctx, op); err != nil {
			w.rollback(ctx)
			return err
		}
		wrote = wrote || (op.err == nil && op.panicked == nil)
	}
	if !wrote {
		w.rollback(ctx)
		return nil
	}
	if err := w.run(ctx, "COMMIT"); err != nil {
		w.rollback(ctx)
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// attempt runs one operation in a savepoint. Its result is op's; the error is
// the batch's: the engine gave up the whole transaction.
func (w *writer) attempt(ctx context.Context, op *operation) error {
	if err := w.run(ctx, "SAVEPOINT op"); err != nil {
		return err
	}
	w.call(op)
	if op.err == nil && op.panicked == nil {
		return w.run(ctx, "RELEASE op")
	}
	if err := w.run(ctx, "ROLLBACK TO op"); err != nil {
		return errors.Join(op.err, err)
	}
	return w.run(ctx, "RELEASE op")
}

func (w *writer) call(op *operation) {
	defer func() { op.panicked = recover() }()
	op.err = op.fn(context.WithoutCancel(op.ctx), w)
}

// begin opens the connection where there is none, and the transaction.
func (w *writer) begin(ctx context.Context) error {
	if w.conn == nil {
		conn, err := w.pool.Conn(ctx)
		if err != nil {
			return err
		}
		w.conn = conn
	}
	err := w.run(ctx, "BEGIN IMMEDIATE")
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) {
		// The pool has closed it, and with it its statements.
		clear(w.prepared)
		w.conn = nil
	}
	return err
}

// rollback ends the transaction; where even that fails, nobody knows what the
// connection is in the middle of, and it goes.
func (w *writer) rollback(ctx context.Context) {
	if err := w.run(ctx, "ROLLBACK"); err == nil || w.conn == nil {
		return
	}
	w.closeStatements()
	_ = w.conn.Raw(func(any) error { return driver.ErrBadConn }) // makes the pool close it
	w.conn = nil
}

func (w *writer) disconnect() {
	w.closeStatements()
	if w.conn != nil {
		_ = w.conn.Close() // back to the pool, which reports its own end
		w.conn = nil
	}
}

// closeStatements must come before the connection is closed: the driver does
// not survive the other order.
func (w *writer) closeStatements() {
	for _, st := range w.prepared {
		_ = st.Close() // the connection goes, whatever they say
	}
	clear(w.prepared)
}

func (w *writer) run(ctx context.Context, query string) error {
	_, err := w.Exec(ctx, query)
	return err
}

// Exec implements sqlstore.Querier within a batch.
func (w *writer) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	st, err := w.prepare(ctx, query)
	if err != nil {
		return 0, err
	}
	result, err := st.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Query implements sqlstore.Querier within a batch.
func (w *writer) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	st, err := w.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

func (w *writer) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if st, ok := w.prepared[query]; ok {
		return st, nil
	}
	st, err := w.conn.PrepareContext(ctx, query)
	if err == nil {
		w.prepared[query] = st
	}
	return st, err
}
