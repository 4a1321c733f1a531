package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// Lines prints "#step seconds text" lines; seconds count from the first line.
// It is owned by one goroutine.
type Lines struct {
	Out   io.Writer
	start time.Time
}

// Print prints a log line whose text is given, each of its own lines with the
// same head: an instruction can have several.
func (p *Lines) Print(l *lehrv1.LogLine, text string) error {
	at := l.GetTime().AsTime()
	if p.start.IsZero() {
		p.start = at
	}
	var b strings.Builder
	for _, line := range CleanLines(text) {
		fmt.Fprintf(&b, "#%d %.1f %s\n", l.GetStep(), at.Sub(p.start).Seconds(), line)
	}
	_, err := io.WriteString(p.Out, b.String())
	return err
}

// plain is the display of Plain.
type plain struct {
	out  io.Writer
	text func(*lehrv1.LogLine) string

	mu    sync.Mutex
	lines Lines
}

func (p *plain) Line(l *lehrv1.LogLine) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines.Out = p.out
	return p.lines.Print(l, p.text(l))
}

func (p *plain) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, text)
}

func (p *plain) State(*lehrv1.Build)    {}
func (p *plain) States() bool           { return false }
func (p *plain) Note(text string)       { p.say(strings.Join(CleanLines(text), "\n")) }
func (p *plain) Cancelling(text string) { p.Note(text) }
func (p *plain) Failed(f Failure)       { p.say(strings.Join(f.text(true), "\n")) }
func (p *plain) Close()                 {}

// text is a failure as lines for people; texts of it may quote a sandbox. whole
// keeps what the message quotes of the output.
func (f Failure) text(whole bool) []string {
	lines := append([]string{}, f.Excerpt...)
	message := CleanLines(f.Message)
	if !whole {
		message = message[:1]
	}
	head := "lehr: " + strings.Join(message, "\n  ")
	if f.Code != "" {
		head += " [" + Clean(f.Code) + "]"
	}
	lines = append(lines, head)
	if f.Remedy != "" {
		lines = append(lines, "  try: "+Clean(f.Remedy))
	}
	if f.Log != "" {
		lines = append(lines, "  log: "+f.Log)
	}
	return lines
}

// quiet is the display of Quiet.
type quiet struct{ out io.Writer }

func (quiet) Line(*lehrv1.LogLine) error { return nil }
func (quiet) State(*lehrv1.Build)        {}
func (quiet) States() bool               { return false }
func (quiet) Note(string)                {}
func (quiet) Cancelling(string)          {}
func (quiet) Close()                     {}
func (q quiet) Failed(f Failure)         { fmt.Fprintln(q.out, strings.Join(f.text(true), "\n")) }
