package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rivo/uniseg"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	"github.com/lehr-dev/lehr/api/jsonwire"
	"github.com/lehr-dev/lehr/internal/errs"
)

// pageSize is how much of a list is asked for at once, and held.
const pageSize = 200

// errEnough ends a walk through a list without an error.
var errEnough = errors.New("enough")

// walk goes through a list page by page until most items were seen; 0 is all.
func walk[M any](most int, page func(limit int32, cursor string) ([]M, string, error), see func([]M) error) error {
	if most < 0 {
		return usage("--limit %d: want 0 or more", most)
	}
	seen, cursor := 0, ""
	for {
		want := pageSize
		if most > 0 {
			want = min(pageSize, most-seen)
		}
		list, next, err := page(int32(want), cursor)
		if err != nil {
			return err
		}
		if err := see(list); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
		seen += len(list)
		if next == "" || most > 0 && seen >= most {
			return nil
		}
		if next == cursor {
			return errs.New(errs.Internal, "the server's list does not go on")
		}
		cursor = next
	}
}

// listing prints a list of any length, a page in memory at a time.
type listing[M proto.Message] struct {
	head string // "ID NAME CREATED"; the first column is never cut
	row  func(M) []string
	ids  func(M) []string // what -q prints
}

// one makes the ids of a thing of one.
func one[M any](id func(M) string) func(M) []string {
	return func(m M) []string { return []string{id(m)} }
}

func limitFlag(fs *pflag.FlagSet, limit *int) {
	fs.IntVar(limit, "limit", 50, "how many at most; 0 for all")
}

// printAll walks through a list and prints it: as a bare JSON array, as ids, or
// as a table.
func printAll[M proto.Message](a *app, most int, l listing[M], page func(int32, string) ([]M, string, error)) error {
	switch {
	case a.json():
		array := jsonArray{w: a.env.Stdout}
		err := walk(most, page, func(list []M) error {
			for _, m := range list {
				if err := array.add(m); err != nil {
					return err
				}
			}
			return array.begin()
		})
		if err != nil {
			return err
		}
		return array.end()
	case a.quiet:
		return walk(most, page, func(list []M) error {
			for _, m := range list {
				for _, id := range l.ids(m) {
					if _, err := fmt.Fprintln(a.env.Stdout, cell(id)); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	t := &table{w: a.env.Stdout, max: a.columns(), rows: [][]string{strings.Fields(l.head)}}
	return walk(most, page, func(list []M) error {
		for _, m := range list {
			t.rows = append(t.rows, l.row(m))
		}
		return t.flush()
	})
}

// jsonArray prints messages one by one as jsonwire.MarshalList would together.
type jsonArray struct {
	w     io.Writer
	begun bool
	count int
}

func (j *jsonArray) begin() error {
	if j.begun {
		return nil
	}
	j.begun = true
	_, err := io.WriteString(j.w, "[")
	return err
}

func (j *jsonArray) add(m proto.Message) error {
	b, err := jsonwire.MarshalIndent(m)
	if err != nil {
		return err
	}
	if err := j.begin(); err != nil {
		return err
	}
	mark := ""
	if j.count++; j.count > 1 {
		mark = ","
	}
	// A line break in JSON is never part of a text.
	_, err = fmt.Fprintf(j.w, "%s\n  %s", mark, strings.ReplaceAll(string(b), "\n", "\n  "))
	return err
}

func (j *jsonArray) end() error {
	end := "]\n"
	if j.count > 0 {
		end = "\n]\n"
	}
	_, err := io.WriteString(j.w, end)
	return err
}

// table prints rows in columns. The first flush settles the widths; later rows
// that need more take it.
type table struct {
	w      io.Writer
	max    int // columns of the terminal; 0 where nothing is cut
	rows   [][]string
	widths []int
}

// gap parts columns; shortest is what a column is cut to at most.
const (
	gap      = "  "
	shortest = 8
)

func (t *table) flush() error {
	for _, row := range t.rows {
		for i := range row {
			row[i] = cell(row[i])
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], uniseg.StringWidth(row[i]))
		}
	}
	fit := t.fit()
	for _, row := range t.rows {
		var line strings.Builder
		for i, text := range row {
			text = cut(text, fit[i])
			line.WriteString(text)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", max(0, fit[i]-uniseg.StringWidth(text))) + gap)
			}
		}
		if _, err := fmt.Fprintln(t.w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	t.rows = t.rows[:0]
	return nil
}

// fit takes from the widest columns until a row fits the terminal.
func (t *table) fit() []int {
	widths := append([]int(nil), t.widths...)
	if t.max == 0 {
		return widths
	}
	total := len(gap) * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for ; total > t.max; total-- {
		widest := 0
		for i := 1; i < len(widths); i++ {
			if widths[i] > shortest && (widest == 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest == 0 {
			break // it cannot be made to fit
		}
		widths[widest]--
	}
	return widths
}

// cut shortens a text to so many columns and shows that it did.
func cut(text string, width int) string {
	if uniseg.StringWidth(text) <= width {
		return text
	}
	var b strings.Builder
	used := 0
	for g := uniseg.NewGraphemes(text); g.Next(); {
		if used += g.Width(); used > width-1 {
			break
		}
		b.WriteString(g.Str())
	}
	return b.String() + "…"
}
