package lite

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"

	"github.com/lehr-dev/lehr/internal/store/sqlstore"
)

// newTestWriter returns the writer of a database in memory with a table n (i).
func newTestWriter(t *testing.T) *writer {
	t.Helper()
	pool, err := sql.Open("sqlite", dsn(Memory, false))
	if err != nil {
		t.Fatal(err)
	}
	d := newDatabase(pool, nil)
	d.started.Do(func() { go d.writer.loop() })
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	if err := d.writer.do(t.Context(), execute("CREATE TABLE n (i INTEGER PRIMARY KEY)")); err != nil {
		t.Fatal(err)
	}
	return d.writer
}

func execute(query string) func(context.Context, sqlstore.Querier) error {
	return func(ctx context.Context, q sqlstore.Querier) error {
		_, err := q.Exec(ctx, query)
		return err
	}
}

func (w *writer) numbers(t *testing.T) []int {
	t.Helper()
	var found []int
	err := w.do(t.Context(), func(ctx context.Context, q sqlstore.Querier) error {
		rows, err := q.Query(ctx, "SELECT i FROM n ORDER BY i")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var i int
			if err := rows.Scan(&i); err != nil {
				return err
			}
			found = append(found, i)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// together runs the operations as one batch and returns their errors; a panic
// counts as errPanic.
func (w *writer) together(t *testing.T, fns ...func(context.Context, sqlstore.Querier) error) []error {
	t.Helper()
	batch := make([]*operation, len(fns))
	for i, fn := range fns {
		batch[i] = &operation{ctx: t.Context(), fn: fn, done: make(chan struct{})}
	}
	// The loop is held inside an operation while the batch is run in its place.
	err := w.do(t.Context(), func(ctx context.Context, _ sqlstore.Querier) error {
		if err := w.run(ctx, "RELEASE op"); err != nil {
			return err
		}
		if err := w.run(ctx, "COMMIT"); err != nil {
			return err
		}
		w.commit(batch)
		if err := w.begin(ctx); err != nil {
			return err
		}
		return w.run(ctx, "SAVEPOINT op")
	})
	if err != nil {
		t.Fatal(err)
	}
	results := make([]error, len(batch))
	for i, op := range batch {
		results[i] = op.err
		if op.panicked != nil {
			results[i] = errPanic
		}
	}
	return results
}

var (
	errPanic  = errors.New("panicked")
	errFailed = errors.New("failed")
)

func TestBatchKeepsOperationsApart(t *testing.T) {
	t.Parallel()
	w := newTestWriter(t)
	results := w.together(t,
		execute("INSERT INTO n VALUES (1)"),
		func(ctx context.Context, q sqlstore.Querier) error {
			return errors.Join(execute("INSERT INTO n VALUES (2)")(ctx, q), errFailed)
		},
		func(ctx context.Context, q sqlstore.Querier) error {
			_ = execute("INSERT INTO n VALUES (3)")(ctx, q)
			panic("three")
		},
		execute("INSERT INTO n VALUES (1)"),
		execute("INSERT INTO n VALUES (4)"),
	)
	if results[0] != nil || !errors.Is(results[1], errFailed) || results[2] != errPanic || results[3] == nil || results[4] != nil {
		t.Errorf("results = %v, want the first and the last to succeed", results)
	}
	if got := w.numbers(t); len(got) != 2 || got[0] != 1 || got[1] != 4 {
		t.Errorf("numbers = %v, want 1 and 4", got)
	}
}

// TestBatchIsLostAsAWhole has an operation that ends the transaction, as the
// engine does by itself when the disk is full.
func TestBatchIsLostAsAWhole(t *testing.T) {
	t.Parallel()
	pool, err := sql.Open("sqlite", dsn(t.TempDir()+"/lehr.db", false))
	if err != nil {
		t.Fatal(err)
	}
	d := newDatabase(pool, nil)
	d.started.Do(func() { go d.writer.loop() })
	defer d.Close()
	w := d.writer
	if err := w.do(t.Context(), execute("CREATE TABLE n (i INTEGER PRIMARY KEY)")); err != nil {
		t.Fatal(err)
	}
	results := w.together(t,
		execute("INSERT INTO n VALUES (1)"),
		func(ctx context.Context, q sqlstore.Querier) error {
			return errors.Join(execute("ROLLBACK")(ctx, q), errFailed)
		},
		execute("INSERT INTO n VALUES (2)"),
	)
	for i, err := range results {
		if err == nil {
			t.Errorf("operation %d was acknowledged", i)
		}
	}
	if got := w.numbers(t); len(got) != 0 {
		t.Errorf("numbers = %v, want none", got)
	}
	if err := w.do(t.Context(), execute("INSERT INTO n VALUES (3)")); err != nil {
		t.Errorf("the writer did not recover: %v", err)
	}
}

func TestPanicIsTheCallers(t *testing.T) {
	t.Parallel()
	w := newTestWriter(t)
	func() {
		defer func() {
			if got := recover(); got != "ouch" {
				t.Errorf("recover() = %v, want ouch", got)
			}
		}()
		_ = w.do(t.Context(), func(context.Context, sqlstore.Querier) error { panic("ouch") })
	}()
	if err := w.do(t.Context(), execute("INSERT INTO n VALUES (1)")); err != nil {
		t.Errorf("do() after a panic = %v", err)
	}
}

// TestCancelledInTheMiddle ends the caller's context while its operation runs:
// it is finished, and its outcome told.
func TestCancelledInTheMiddle(t *testing.T) {
	t.Parallel()
	w := newTestWriter(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := w.do(ctx, func(ctx context.Context, q sqlstore.Querier) error {
		cancel()
		return execute("INSERT INTO n VALUES (1)")(ctx, q)
	})
	if err != nil {
		t.Errorf("do() = %v, want the outcome of what had begun", err)
	}
	if got := w.numbers(t); len(got) != 1 {
		t.Errorf("numbers = %v, want 1", got)
	}
	if err := w.do(ctx, execute("INSERT INTO n VALUES (2)")); !errors.Is(err, context.Canceled) {
		t.Errorf("do(cancelled) = %v, want %v", err, context.Canceled)
	}
}

// TestCloseAnswersEveryone closes while callers come.
func TestCloseAnswersEveryone(t *testing.T) {
	t.Parallel()
	w := newTestWriter(t)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for {
				err := w.do(t.Context(), execute("INSERT INTO n DEFAULT VALUES"))
				if errors.Is(err, errClosed) {
					return
				}
				if err != nil {
					t.Errorf("do() = %v", err)
					return
				}
			}
		})
	}
	for len(w.numbers(t)) < 20 {
	}
	close(w.closing)
	callers.Wait()
	<-w.done
	w.closing = make(chan struct{}) // for the clean-up, which closes it again
}
