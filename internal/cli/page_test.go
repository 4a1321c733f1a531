package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// page is the reference of the command line; what follows the mark is made from
// the commands.
const (
	page     = "../../docs/cli.md"
	pageMark = "<!-- What follows is written by: go test ./internal/cli -run TestPage -update -->\n"
)

func TestPage(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, have, ok := strings.Cut(string(b), pageMark)
	if !ok {
		t.Fatalf("%s has no line %q", page, pageMark)
	}
	want := commandPage((&app{}).root())
	if *update {
		if err := os.WriteFile(page, []byte(head+pageMark+want), 0o644); err != nil { //nolint:gosec // a page to read
			t.Fatal(err)
		}
		return
	}
	if have != want {
		t.Errorf("%s is not what the commands say (go test ./internal/cli -run TestPage -update)", page)
	}
}

// commandPage describes every command that is not hidden.
func commandPage(root *cobra.Command) string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n## Flags of every command\n%s", flagTable(root.PersistentFlags()))
	for _, c := range root.Commands() {
		describeCommand(&out, c, "##")
	}
	return out.String()
}

func describeCommand(out *strings.Builder, c *cobra.Command, level string) {
	if c.Hidden || c.Name() == "help" {
		return
	}
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	fmt.Fprintf(out, "\n%s %s\n%s\n", level, c.CommandPath(), text)
	if !c.HasAvailableSubCommands() {
		fmt.Fprintf(out, "\n```\n%s\n```\n", c.UseLine())
	}
	if c.Example != "" {
		var lines []string
		for line := range strings.Lines(c.Example) {
			lines = append(lines, strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "  "))
		}
		fmt.Fprintf(out, "\nExamples:\n```sh\n%s\n```\n", strings.Join(lines, "\n"))
	}
	if flags := flagTable(c.LocalNonPersistentFlags()); flags != "" {
		fmt.Fprintf(out, "%s", flags)
	}
	for _, sub := range c.Commands() {
		describeCommand(out, sub, level+"#")
	}
}

func flagTable(fs *pflag.FlagSet) string {
	rows := flagRows(fs)
	if len(rows) == 0 {
		return ""
	}
	out := "\n| flag | meaning |\n| --- | --- |\n"
	for _, r := range rows {
		out += fmt.Sprintf("| `%s` | %s |\n", strings.TrimSpace(r[0]), strings.ReplaceAll(r[1], "|", "\\|"))
	}
	return out
}
