package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lehr-dev/lehr/api/jsonwire"
)

// json reports whether data is wanted as JSON.
func (a *app) json() bool { return a.output == "json" }

// printOne prints one message as JSON, or as name and value lines.
func (a *app) printOne(m proto.Message, rows [][2]string) error {
	if a.json() {
		b, err := jsonwire.MarshalIndent(m)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.env.Stdout, "%s\n", b)
		return err
	}
	if a.quiet && len(rows) > 0 {
		_, err := fmt.Fprintln(a.env.Stdout, cell(rows[0][1])) // the id
		return err
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\n", r[0], cell(r[1]))
	}
	return w.Flush()
}

// stamp prints a time in the user's zone; a missing one as a dash.
func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format(time.DateTime)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// mebibytes prints a size the way people compare images.
func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
