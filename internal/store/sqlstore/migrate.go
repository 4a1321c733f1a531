package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"io/fs"
	"path"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/lehr-dev/lehr/internal/errs"
)

// migrationFiles holds the migrations, numbered and applied in order, one text
// for both dialects. A released file is never edited. A change first expands
// (new columns with defaults, new tables), and contracts one release later, so
// that the control planes of two neighbouring releases can share a database.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrate brings the schema up to date. Control planes that start at the same
// time wait for each other. A database whose schema is newer than this release
// is refused with Unsupported and CodeSchemaNewer, and not touched.
func Migrate(ctx context.Context, db *sql.DB, d Dialect) error {
	const op = "store.Migrate"
	provider, err := newProvider(db, d)
	if err != nil {
		return errs.Wrap(err, errs.Internal, op, "the migrations are broken")
	}
	present, err := provider.GetDBVersion(ctx)
	if err != nil {
		return errs.Wrap(err, errs.Unavailable, op, "the schema's version cannot be read")
	}
	sources := provider.ListSources()
	if newest := sources[len(sources)-1].Version; present > newest {
		return errs.New(errs.Unsupported, "the database has schema %d, this release knows %d", present, newest).
			WithOp(op).WithCode(CodeSchemaNewer).
			WithRemedy("run the release that wrote the database, or a newer one")
	}
	if _, err := provider.Up(ctx); err != nil {
		return errs.Wrap(err, errs.Unavailable, op, "the schema cannot be brought up to date")
	}
	return nil
}

func newProvider(db *sql.DB, d Dialect) (*goose.Provider, error) {
	options := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger())}
	if d.Goose == goose.DialectPostgres {
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(d.Goose, db, schemaFS{FS: files, dialect: d}, options...)
}

// schemaFS is the migrations with their tokens filled in.
type schemaFS struct {
	fs.FS
	dialect Dialect
}

// Open returns a file with the dialect's words, or a folder as it is.
func (s schemaFS) Open(name string) (fs.File, error) {
	if path.Ext(name) != ".sql" {
		return s.FS.Open(name)
	}
	data, err := fs.ReadFile(s.FS, name)
	if err != nil {
		return nil, err
	}
	text := s.dialect.renderSchema(string(data))
	return &schemaFile{Reader: bytes.NewReader([]byte(text)), name: path.Base(name)}, nil
}

// schemaFile is one migration in memory; it is its own fs.FileInfo.
type schemaFile struct {
	*bytes.Reader
	name string
}

func (f *schemaFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *schemaFile) Close() error               { return nil }
func (f *schemaFile) Name() string               { return f.name }
func (f *schemaFile) Mode() fs.FileMode          { return 0o444 }
func (f *schemaFile) ModTime() time.Time         { return time.Time{} }
func (f *schemaFile) IsDir() bool                { return false }
func (f *schemaFile) Sys() any                   { return nil }
