package lite_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
)

// A damaged database is refused by name and is not written to; one that is
// whole is opened again.
func TestDamagedDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lehr.db")
	s, err := lite.Open(t.Context(), lite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	zeroed := func(from, to int) []byte {
		b := bytes.Clone(whole)
		clear(b[from:to])
		return b
	}
	flipped := bytes.Clone(whole)
	for i := 2 * page; i < len(flipped); i += page {
		flipped[i] ^= 0x55 // the kind of each page
	}
	for name, content := range map[string][]byte{
		"text":              []byte("not a database, but longer than the sixteen bytes of a header"),
		"header zeroed":     zeroed(0, 100),
		"first page zeroed": zeroed(0, page),
		"a page zeroed":     zeroed(len(whole)/page/2*page, len(whole)/page/2*page+page),
		"pages flipped":     flipped,
		"cut in half":       whole[:len(whole)/2/page*page],
		"one byte":          whole[:1],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := filepath.Join(t.TempDir(), "lehr.db")
			if err := os.WriteFile(bad, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := lite.Open(t.Context(), lite.Options{Path: bad})
			if err == nil {
				_ = s.Close()
			}
			if errs.CodeOf(err) != "database_corrupt" || errs.KindOf(err) != errs.Corrupt {
				t.Errorf("Open = %v, want database_corrupt", err)
			}
			if after, err := os.ReadFile(bad); err != nil || !bytes.Equal(after, content) {
				t.Errorf("the damaged file was changed (%d bytes, then %d, %v)", len(content), len(after), err)
			}
		})
	}
	s, err = lite.Open(t.Context(), lite.Options{Path: path})
	if err != nil {
		t.Errorf("Open of the whole database = %v", err)
	} else if err := s.Close(); err != nil {
		t.Error(err)
	}
}
