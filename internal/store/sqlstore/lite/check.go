package lite

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/lehr-dev/lehr/internal/errs"
)

// checkedWhole is the size of a database up to which every page is looked at
// when it is opened, in bytes; of a larger one the schema is.
const checkedWhole = 64 << 20

// smallest is the size of the smallest page, in bytes; SQLite takes a shorter
// file for an empty one.
const smallest = 512

// check refuses a file that is damaged or no database, before anything is
// written to it.
func check(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil // a new one
	}
	if err != nil {
		return unreadable(err)
	}
	if info.Size() < smallest {
		return damaged(path, errors.New("it is shorter than any database"))
	}
	pool, err := sql.Open("sqlite", "file:"+escaped(path)+"?_pragma=busy_timeout(10000)&_pragma=query_only(1)")
	if err != nil {
		return unreadable(err)
	}
	defer pool.Close()
	question := "PRAGMA quick_check(1)"
	if info.Size() > checkedWhole {
		question = "SELECT 'ok' FROM sqlite_schema LIMIT 1"
	}
	var answer string
	err = pool.QueryRowContext(ctx, question).Scan(&answer)
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && answer == "ok":
		return nil
	case err == nil:
		return damaged(path, errors.New(answer))
	case isDamage(err):
		return damaged(path, err)
	}
	return unreadable(err)
}

func unreadable(err error) error {
	return errs.Wrap(err, errs.Unavailable, "lite.Open", "the database cannot be read")
}

func damaged(path string, err error) error {
	return errs.Wrap(err, errs.Corrupt, "lite.Open", "the database "+path+" is damaged").WithCode("database_corrupt").
		WithRemedy("restore it with its -wal file from a backup; or move it away to begin anew, without templates, builds and keys")
}

// isDamage tells a broken file from one that cannot be read now.
func isDamage(err error) bool {
	var known *sqlite.Error
	if !errors.As(err, &known) {
		return false
	}
	code := known.Code() & 0xff
	return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
}
