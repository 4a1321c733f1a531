package sqlstore

import (
	"strings"

	"github.com/pressly/goose/v3"
)

// Dialect is all that differs between the databases. The statements are one
// text for both; the exceptions are the tokens below, and no statement is
// written twice:
//
//	{now}          the database's clock in UTC microseconds. PostgreSQL asks its
//	               own (the time of the statement, so that indexes apply);
//	               SQLite runs inside this process, whose clock is passed as a
//	               parameter and can be a test's.
//	{skip_locked}  in Claim: on PostgreSQL claimers pass over builds that others
//	               are about to claim; SQLite has a single writer.
//	{text}         in migrations: the type of text. On PostgreSQL it carries the
//	               collation "C", so that ids sort as bytes, as on SQLite.
type Dialect struct {
	Name       string        // "sqlite" or "postgres", for messages
	Goose      goose.Dialect // of the migrations
	Now        string        // {now} in statements
	NowArg     func() int64  // value of the named parameter "now"; nil where Now needs none
	SchemaNow  string        // {now} in migrations
	SkipLocked string        // {skip_locked}
	Text       string        // {text}
	Classify   func(error) Trouble
}

// Trouble is what a driver's error means.
type Trouble int

// The kinds of trouble.
const (
	TroubleUnknown     Trouble = iota
	TroubleUnique              // a unique key exists already
	TroubleReference           // a reference points nowhere, or the row is referred to
	TroubleValue               // a value the schema does not take
	TroubleUnavailable         // the database cannot be reached or is out of resources
)

// statement is a text with its tokens filled in.
type statement struct {
	text string
	now  bool // takes the named parameter "now"
}

func (d Dialect) render(text string) statement {
	rendered := strings.NewReplacer("{now}", d.Now, "{skip_locked}", d.SkipLocked).Replace(text)
	return statement{text: rendered, now: d.NowArg != nil && strings.Contains(text, "{now}")}
}

func (d Dialect) renderSchema(text string) string {
	return strings.NewReplacer("{now}", d.SchemaNow, "{text}", d.Text).Replace(text)
}
