package progress

import (
	"regexp"
	"strings"
	"unicode"
)

// escapes are the sequences of ECMA-48 by which programs colour their output
// and move the cursor: CSI, the strings (OSC, DCS, SOS, PM, APC) up to their
// terminator, and the short ones.
var escapes = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\\\)?|\x1b[ -/]*[0-~]")

// Clean makes one line of hostile text fit for a terminal: escape sequences go,
// what a carriage return overwrites goes, and other control characters, with
// those that turn the direction of writing, become a dot.
func Clean(s string) string {
	s = escapes.ReplaceAllString(s, "")
	return strings.Map(func(r rune) rune {
		if r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return '·'
		}
		return r
	}, lastWritten(s))
}

// lastWritten returns what a terminal would show at the end of a line that
// progress was written over with carriage returns: the last part that is not
// blank.
func lastWritten(s string) string {
	if !strings.Contains(s, "\r") {
		return s
	}
	parts := strings.Split(s, "\r")
	for i := len(parts) - 1; i > 0; i-- {
		if strings.TrimSpace(parts[i]) != "" {
			return parts[i]
		}
	}
	return parts[0]
}

// CleanLines is Clean for text of several lines.
func CleanLines(s string) []string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i := range lines {
		lines[i] = Clean(lines[i])
	}
	return lines
}
