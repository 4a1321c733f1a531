package progress

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/rivo/uniseg"
)

// style is how texts are painted.
type style struct {
	color bool
	ascii bool // the terminal shows nothing else
}

func (s style) paint(sgr, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

func (s style) dim(text string) string { return s.paint("2", text) }

// fit makes text one line of at most width columns; what is left out at the end
// is shown by an ellipsis.
func (s style) fit(text string, width int) string {
	text = s.plain(text)
	if uniseg.StringWidth(text) <= width {
		return text
	}
	more := "…"
	if s.ascii {
		more = "~"
	}
	if width < 1 {
		return ""
	}
	var b strings.Builder
	used := 0
	for g := uniseg.NewGraphemes(text); g.Next(); {
		if used += g.Width(); used > width-1 {
			break
		}
		b.WriteString(g.Str())
	}
	return b.String() + more
}

// plain is one line without tabs, fit for the terminal's character set.
func (s style) plain(text string) string {
	text = strings.ReplaceAll(Clean(text), "\t", "    ")
	if !s.ascii {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return '?'
		}
		return r
	}, text)
}

// headline is the first line of an instruction, with the blanks that continued
// lines leave taken together.
func headline(cmd string) string {
	line, _, more := strings.Cut(strings.TrimSpace(cmd), "\n")
	line = strings.Join(strings.Fields(line), " ")
	if more {
		line = strings.TrimRight(line, " \\") + " …"
	}
	return line
}

// short is a duration as short as it makes sense.
func short(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
