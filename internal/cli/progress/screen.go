package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rivo/uniseg"
)

// Each frame is one write. It is shown at once by terminals that know
// synchronized output (2026, others ignore it), and the live lines do not wrap
// while they are drawn, so that a character whose width the terminal sees
// otherwise than we do cannot shift the picture.
const (
	frameBegin = "\x1b[?2026h"
	noWrap     = "\x1b[?7l"
	frameEnd   = "\x1b[?7h\x1b[?2026l"
	eraseRight = "\x1b[K"
	eraseBelow = "\x1b[J"
)

// screen writes frames to a terminal. The cursor rests at the begin of the line
// below the live lines, so that an echoed ^C disturbs nothing.
type screen struct {
	out   io.Writer
	live  []string // as drawn last
	width int      // of the terminal then
}

// draw writes settled lines where the live ones were, and the live ones below
// them. width and height are the terminal's, the former less one column.
func (s *screen) draw(settled, live []string, width, height int) error {
	if len(settled) == 0 && slices.Equal(live, s.live) && width == s.width {
		return nil
	}
	var b strings.Builder
	b.WriteString(frameBegin)
	if up := min(s.rows(width), height-1); up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	b.WriteString("\r")
	if len(settled) > 0 { // they may take more rows than they are lines
		b.WriteString(eraseBelow)
	}
	for _, line := range settled {
		b.WriteString(line + "\r\n")
	}
	b.WriteString(noWrap)
	for _, line := range live {
		b.WriteString(line + eraseRight + "\r\n")
	}
	b.WriteString(eraseBelow + frameEnd)
	s.live, s.width = slices.Clone(live), width
	_, err := s.out.Write([]byte(b.String()))
	return err
}

// rows is how many rows of the terminal the live lines take now: where it got
// narrower, terminals wrap what they show.
func (s *screen) rows(width int) int {
	if width >= s.width {
		return len(s.live)
	}
	rows := 0
	for _, line := range s.live {
		rows += max(1, (uniseg.StringWidth(Clean(line))+width)/(width+1))
	}
	return rows
}
