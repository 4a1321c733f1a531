package cli

import (
	"strings"

	"github.com/lehr-dev/lehr/internal/cli/progress"
)

// clean makes one line of hostile text fit for a terminal.
func clean(s string) string { return progress.Clean(s) }

// cleanLines is clean for text of several lines.
func cleanLines(s string) []string { return progress.CleanLines(s) }

// cell is clean for a place in a table: lines are joined and tabs, which part
// cells, become spaces.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(cleanLines(s), " ⏎ "), "\t", " ")
}
