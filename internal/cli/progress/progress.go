// Package progress shows a build while it runs: as a live picture on a
// terminal, as plain lines, as JSON lines, or not at all. What it shows comes
// from events: lines of the build's log, states of the build, and notes of the
// command itself.
//
// The picture is a pure function of a Model, the time and the size of the
// terminal. Finished steps are written once and scroll away like any output;
// only the few lines below them are drawn again. No state of the terminal is
// changed for longer than one write, so there is nothing to restore however
// the program ends.
package progress

import (
	"fmt"
	"io"
	"strings"
	"time"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// Mode is how progress is shown.
type Mode string

// The modes of --progress.
const (
	Auto    Mode = "auto"    // TTY where a person watches, else Plain
	TTY     Mode = "tty"     // a live picture
	Plain   Mode = "plain"   // "#4 12.3 text" lines
	RawJSON Mode = "rawjson" // one JSON object a line for every event
	Quiet   Mode = "quiet"   // nothing but errors
)

// Modes lists all modes, for help and completion.
func Modes() []string {
	return []string{string(Auto), string(TTY), string(Plain), string(RawJSON), string(Quiet)}
}

// Terminal is what is known about where progress is written.
type Terminal struct {
	// Size returns columns and rows; nil where there is no terminal. It is asked
	// at every drawing, so that a change of size is seen.
	Size func() (width, height int)
	// LookupEnv reads TERM, CI, NO_COLOR and the locale; nil finds nothing.
	LookupEnv func(string) (string, bool)
}

func (t Terminal) env(name string) string {
	if t.LookupEnv == nil {
		return ""
	}
	v, ok := t.LookupEnv(name)
	if !ok {
		return ""
	}
	return v
}

// Choose checks a mode and settles Auto: a live picture needs a terminal that
// moves its cursor and is not the log of a CI system.
func (t Terminal) Choose(mode string) (Mode, error) {
	smart := t.Size != nil && t.env("TERM") != "dumb" && t.env("TERM") != ""
	ci := t.env("CI") != "" && t.env("CI") != "false" && t.env("CI") != "0"
	switch m := Mode(mode); m {
	case Auto:
		if smart && !ci {
			return TTY, nil
		}
		return Plain, nil
	case TTY:
		if !smart {
			return "", fmt.Errorf("--progress tty: standard error is no terminal that can be drawn on; use plain")
		}
		return m, nil
	case Plain, RawJSON, Quiet:
		return m, nil
	}
	return "", fmt.Errorf("--progress %q: want %s", mode, strings.Join(Modes(), ", "))
}

// style is how the terminal wants its text.
func (t Terminal) style() style {
	locale := "" // an unset locale says nothing about the terminal, which is UTF-8 today
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale = t.env(name); locale != "" {
			break
		}
	}
	l := strings.ToLower(locale)
	return style{
		color: t.env("NO_COLOR") == "",
		ascii: l != "" && !strings.Contains(l, "utf-8") && !strings.Contains(l, "utf8"),
	}
}

// Display shows one build. It is safe for concurrent use. After Close, which
// must be called, nothing more is shown.
type Display interface {
	// Line takes the next line of the log.
	Line(l *lehrv1.LogLine) error
	// State takes the build as it is now, with its steps.
	State(b *lehrv1.Build)
	// Note takes a word of the command itself, such as a broken connection.
	Note(text string)
	// Cancelling says that the build is being cancelled, in words.
	Cancelling(text string)
	// States reports whether State is of use while the build runs.
	States() bool
	// Failed shows why the build, or the command, failed.
	Failed(f Failure)
	// Close shows what is left to show and ends the display.
	Close()
}

// Failure is an error in the words of the API.
type Failure struct {
	Message, Code, Remedy string
	Fault                 string // user or platform; empty where no build failed
	Log                   string // the command that shows the whole log
	Excerpt               []string
}

// Options are what a display is made of.
type Options struct {
	Mode     Mode // not Auto
	Out      io.Writer
	Terminal Terminal
	// Usual is an earlier build of the same template that succeeded, nil where
	// there is none: it says how long steps take.
	Usual *lehrv1.Build
	// Text changes the text of a log line before it is shown; nil leaves it.
	Text func(l *lehrv1.LogLine) string
	// Interruptible is set where Ctrl-C cancels the build.
	Interruptible bool
	// Now is the time; nil is the machine's.
	Now func() time.Time
}

// New starts a display.
func New(o Options) Display {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Text == nil {
		o.Text = (*lehrv1.LogLine).GetText
	}
	switch o.Mode {
	case TTY:
		return newLive(o)
	case RawJSON:
		return &rawJSON{out: o.Out, seen: map[int32]string{}}
	case Quiet:
		return quiet{out: o.Out}
	}
	return &plain{out: o.Out, text: o.Text}
}
