package sqlstore

import (
	"slices"
	"strconv"
	"strings"
)

// page is a listing with optional filters. Only the filters in use are part of
// the text, so that the engine can use an index for them; the number of texts
// is small and known, see variants.
type page struct {
	head    string   // up to and including one condition, with any "?"
	filters []string // conditions, with any "?"
	tail    string   // order and limit, with one "?"
}

// filter is a filter in use, or not.
type filter struct {
	on   bool
	args []any // one for each "?" of the condition
}

// given filters by a text where it is not empty.
func given[T ~string](s T) filter { return filter{on: s != "", args: []any{string(s)}} }

// build returns the text for the filters in use, which are in the order of
// p.filters, and its arguments.
func (p page) build(limit int, filters ...filter) (string, []any) {
	return p.buildWith(nil, limit, filters...)
}

// buildWith is build for a page whose head takes arguments.
func (p page) buildWith(head []any, limit int, filters ...filter) (string, []any) {
	mask := 0
	args := slices.Clone(head)
	for i, f := range filters {
		if f.on {
			mask |= 1 << i
			args = append(args, f.args...)
		}
	}
	return p.text(mask), append(args, limit)
}

func (p page) text(mask int) string {
	var b strings.Builder
	b.WriteString(p.head)
	for i, condition := range p.filters {
		if mask&(1<<i) != 0 {
			b.WriteString(" AND " + condition)
		}
	}
	b.WriteString(" " + p.tail)
	return number(b.String())
}

// variants returns every text of the page.
func (p page) variants() []string {
	var all []string
	for mask := range 1 << len(p.filters) {
		all = append(all, p.text(mask))
	}
	return all
}

// number turns each "?" into $1, $2 and so on.
func number(text string) string {
	parts := strings.Split(text, "?")
	for i := 1; i < len(parts); i++ {
		parts[i] = "$" + strconv.Itoa(i) + parts[i]
	}
	return strings.Join(parts, "")
}
