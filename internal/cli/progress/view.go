package progress

import (
	"fmt"
	"strings"
	"time"

	"github.com/rivo/uniseg"
)

// How much of a terminal the picture takes.
const (
	outputLines  = 5 // of the running step
	mostRunning  = 8 // steps under way
	indent       = "     "
	narrow       = 60 // columns below which only the necessary is shown
	elapsedWidth = 6
)

// View draws a model. Its functions are pure.
type View struct{ style style }

// Settled draws what will not change any more: a note whole, a stage as one
// line, and below one that failed its last output. Only notes can be wider than
// width.
func (v View) Settled(it Item, width int) []string {
	if it.stage == nil {
		var lines []string
		for _, text := range CleanLines(it.note) {
			if text = v.style.plain(text); isWarning(text) {
				text = v.style.paint("33", text)
			}
			lines = append(lines, text)
		}
		return lines
	}
	s := it.stage
	lines := []string{v.row(s, s.elapsed, width)}
	if s.status == statusFailed || s.status == statusCancelled && s.lingers {
		for _, text := range s.tail {
			lines = append(lines, v.output(text, width))
		}
	}
	return lines
}

// Live draws what is under way in at most height lines of at most width
// columns: the stages, the last output of the last of them, and how far the
// build is.
func (v View) Live(m *Model, now time.Time, width, height int) []string {
	if m.over || m.build == nil {
		return nil
	}
	at := now.Add(m.skew)
	status := v.status(m, at, width)
	if height < 2 {
		return []string{status}
	}
	stages := m.running()
	busy := busy(stages)
	room := height - 1
	var lines []string
	if busy == nil {
		lines = append(lines, v.waiting(m, at, width)...)
	}
	shown := stages[max(0, len(stages)-max(1, min(mostRunning, room-1))):]
	if hidden := len(stages) - len(shown); hidden > 0 && room > 2 {
		shown = shown[1:]
		lines = append(lines, v.style.dim(v.style.fit(fmt.Sprintf("%s… %d steps above", indent, hidden+1), width)))
	}
	for _, s := range shown {
		lines = append(lines, v.row(s, v.elapsed(s, at), width))
		if s == busy {
			lines = append(lines, v.tail(s, min(outputLines, room-len(shown)-1), width)...)
		}
	}
	return append(lines[:min(len(lines), room)], status)
}

func (v View) tail(s *stage, most, width int) []string {
	var lines []string
	for _, text := range s.tail[max(0, len(s.tail)-max(0, most)):] {
		lines = append(lines, v.output(text, width))
	}
	return lines
}

func (v View) output(text string, width int) string {
	bar := indent + "│ "
	if v.style.ascii {
		bar = indent + "| "
	}
	return v.style.dim(v.style.fit(bar+v.style.plain(text), width))
}

func (v View) elapsed(s *stage, at time.Time) time.Duration {
	if s.ended() || s.begun.IsZero() {
		return s.elapsed
	}
	return max(at.Sub(s.begun), 0)
}

// row is one stage: mark, number, instruction, and at the right edge what is
// known of its time.
func (v View) row(s *stage, elapsed time.Duration, width int) string {
	mark, color := v.mark(s)
	left := " " + v.label(s)
	right := fmt.Sprintf("%*s", elapsedWidth, short(elapsed))
	note := ""
	switch {
	case s.cached:
		note = "CACHED"
	case s.status == statusFailed && s.exit != nil && *s.exit != 0:
		note = fmt.Sprintf("exit code %d", *s.exit)
	case s.status == statusCancelled:
		note = "cancelled"
	case !s.ended() && s.usual > 0:
		note = "usually " + short(s.usual)
	}
	if note != "" && (width >= narrow || s.cached) {
		right = note + "  " + right
	}
	room := width - 1 - 1 - uniseg.StringWidth(right)
	if room < 8 { // no room for both: the instruction says more
		return v.style.paint(color, mark) + v.style.fit(left, width-1)
	}
	left = v.style.fit(left, room)
	pad := strings.Repeat(" ", max(0, room-uniseg.StringWidth(left)+1))
	return v.style.paint(color, mark) + left + pad + v.style.dim(right)
}

func (v View) label(s *stage) string {
	cmd := v.style.plain(headline(s.cmd))
	switch {
	case s.n == 0 && s.phase == "healthcheck":
		return "healthcheck: " + strings.TrimPrefix(cmd, "HEALTHCHECK ")
	case s.n == 0:
		return s.phase
	case s.phase != "recipe" && s.phase != "":
		return fmt.Sprintf("#%d %s: %s", s.n, s.phase, cmd)
	}
	return fmt.Sprintf("#%d %s", s.n, cmd)
}

// mark is the sign of a stage's state and its colour.
func (v View) mark(s *stage) (mark, color string) {
	marks := [...]string{"✓", "✗", "▸", "-"}
	if v.style.ascii {
		marks = [...]string{"+", "x", ">", "-"}
	}
	switch s.status {
	case statusSuccess:
		return marks[0], "32"
	case statusFailed:
		return marks[1], "31"
	case statusCancelled:
		return marks[3], "33"
	}
	return marks[2], "36"
}

// waiting is what is shown in the times in which no stage is under way: what
// is waited for, and below it what the log said last.
func (v View) waiting(m *Model, at time.Time, width int) []string {
	s := &stage{phase: "preparing", begun: m.lastAt}
	said := m.last
	switch {
	case m.build.GetStatus() == statusPending:
		s.phase, s.begun, said = "waiting for a worker", m.build.GetCreatedAt().AsTime(), ""
	case strings.HasPrefix(said, "image "):
		s.phase = "starting a sandbox of the image"
	case m.next > 0: // between two steps there is nothing else that takes time
		s.phase, said = "making the image", ""
	}
	if s.begun.IsZero() {
		s.begun = at
	}
	lines := []string{v.row(s, v.elapsed(s, at), width)}
	if said != "" {
		lines = append(lines, v.output(headline(said), width))
	}
	return lines
}

// status is the last line: how far the build is.
func (v View) status(m *Model, at time.Time, width int) string {
	b := m.build
	done := m.next
	for _, s := range m.steps[min(m.next, len(m.steps)):] {
		if s != nil && s.ended() {
			done++
		}
	}
	parts := []string{b.GetName() + ":" + b.GetTag(), fmt.Sprintf("%d/%d steps", done, b.GetTotalSteps())}
	if from := b.GetCreatedAt(); from != nil {
		parts = append(parts, short(at.Sub(from.AsTime())))
	}
	if m.usual.total >= time.Second && width >= narrow {
		parts = append(parts, "usually "+short(m.usual.total))
	}
	switch {
	case m.cancelling:
		parts = append(parts, "cancelling")
	case width >= narrow && m.interruptible:
		parts = append(parts, "Ctrl-C cancels")
	}
	sep := " · "
	if v.style.ascii {
		sep = " - "
	}
	return v.style.dim(v.style.fit("  "+strings.Join(parts, sep), width))
}
