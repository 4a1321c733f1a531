// Package migrations embeds the schema's migrations, numbered and applied in
// order. A released file is never edited. A change first expands (new columns
// with defaults, new tables), and contracts one release later, so that the
// control planes of two neighbouring releases can share a database.
package migrations

import "embed"

// Files holds the migrations, one text for both dialects.
//
//go:embed *.sql
var Files embed.FS
