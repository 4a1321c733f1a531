package cli

import (
	"fmt"
	"strings"

	"github.com/rivo/uniseg"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpText is what a command says of itself: what it does, examples, and then
// everything else.
func helpText(c *cobra.Command) string {
	var out strings.Builder
	if c.Long != "" {
		fmt.Fprintf(&out, "%s\n", c.Long)
	} else {
		fmt.Fprintf(&out, "%s.\n", c.Short)
	}
	if examples := examplesOf(c); examples != "" {
		fmt.Fprintf(&out, "\nExamples:\n%s\n", examples)
	}
	if c.HasAvailableSubCommands() {
		var rows [][2]string
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				rows = append(rows, [2]string{sub.Name(), sub.Short})
			}
		}
		fmt.Fprintf(&out, "\nCommands (%s COMMAND --help says more):\n%s", c.CommandPath(), inColumns(rows))
	} else {
		fmt.Fprintf(&out, "\nUsage:\n  %s\n", c.UseLine())
	}
	if rows := flagRows(c.LocalNonPersistentFlags()); len(rows) > 0 {
		fmt.Fprintf(&out, "\nFlags:\n%s", inColumns(rows))
	}
	fmt.Fprintf(&out, "\nFlags of every command:\n%s", inColumns(flagRows(c.Root().PersistentFlags())))
	return out.String()
}

// examplesOf are a command's; of a group the first one of each command.
func examplesOf(c *cobra.Command) string {
	if c.Example != "" || !c.HasAvailableSubCommands() {
		return c.Example
	}
	var first []string
	for _, sub := range c.Commands() {
		if line, _, _ := strings.Cut(sub.Example, "\n"); line != "" && !sub.Hidden {
			first = append(first, line)
		}
	}
	return strings.Join(first, "\n")
}

// flagRows are flags with their meaning, hidden ones left out.
func flagRows(fs *pflag.FlagSet) [][2]string {
	var rows [][2]string
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		short := "    "
		if f.Shorthand != "" {
			short = "-" + f.Shorthand + ", "
		}
		rows = append(rows, [2]string{short + strings.TrimSpace("--"+f.Name+" "+valueName(f)), flagText(f)})
	})
	return rows
}

// flagText is the meaning of a flag, with the default where it has one and does
// not say so itself.
func flagText(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "[]", "0", "0s":
		return f.Usage
	}
	return fmt.Sprintf("%s (default %s)", f.Usage, f.DefValue)
}

// valueName says what a flag takes; "" where it takes nothing.
func valueName(f *pflag.Flag) string {
	switch f.Name {
	case "memory", "disk":
		return "MIB"
	case "tag":
		return "NAME[:TAG]"
	case "file", "docker-config", "registries", "data":
		return "PATH"
	case "listen":
		return "HOST:PORT"
	}
	switch f.Value.Type() {
	case "bool":
		return ""
	case "stringArray":
		return "KEY=VALUE"
	case "duration":
		return "TIME"
	case "int", "int32", "int64":
		return "N"
	}
	return strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// inColumns prints rows of two.
func inColumns(rows [][2]string) string {
	width := 0
	for _, r := range rows {
		width = max(width, uniseg.StringWidth(r[0]))
	}
	var out strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&out, "  %s%s   %s\n", r[0], strings.Repeat(" ", width-uniseg.StringWidth(r[0])), r[1])
	}
	return out.String()
}
