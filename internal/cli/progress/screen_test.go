package progress

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivo/uniseg"
	"google.golang.org/protobuf/types/known/timestamppb"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// vt is a terminal as far as frames need one: it moves its cursor, erases,
// wraps and scrolls, and fails the test at anything else.
type vt struct {
	t             *testing.T
	mu            sync.Mutex
	width, height int
	rows          []string // all that was ever shown, scrolled rows first
	top, y, x     int      // top is the first row on the screen, y a row of rows
	wrap          bool
	writes, bytes int
}

func newVT(t *testing.T, width, height int) *vt {
	return &vt{t: t, width: width, height: height, rows: []string{""}, wrap: true}
}

func (v *vt) size() (int, int) { v.mu.Lock(); defer v.mu.Unlock(); return v.width, v.height }

func (v *vt) Write(b []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.writes++
	v.bytes += len(b)
	for rest := string(b); rest != ""; {
		if strings.HasPrefix(rest, "\x1b[") {
			end := strings.IndexFunc(rest[2:], func(r rune) bool { return r >= '@' && r <= '~' }) + 3
			v.control(rest[2:end])
			rest = rest[end:]
			continue
		}
		var c string
		c, rest, _, _ = uniseg.FirstGraphemeClusterInString(rest, -1)
		v.put(c)
	}
	return len(b), nil
}

func (v *vt) control(seq string) {
	switch {
	case seq == "?2026h", seq == "?2026l", strings.HasSuffix(seq, "m"):
	case seq == "?7l":
		v.wrap = false
	case seq == "?7h":
		v.wrap = true
	case seq == "K":
		v.rows[v.y] = cut(v.rows[v.y], v.x)
	case seq == "J":
		v.rows[v.y] = cut(v.rows[v.y], v.x)
		v.rows = v.rows[:v.y+1]
	case strings.HasSuffix(seq, "A"):
		n := 0
		_, _ = fmt.Sscanf(seq, "%dA", &n)
		v.y = max(v.top, v.y-n)
	default:
		v.t.Errorf("a frame has the control sequence %q", seq)
	}
}

func (v *vt) put(c string) {
	switch c {
	case "\r\n":
		v.x = 0
		v.down()
	case "\r":
		v.x = 0
	case "\n":
		v.down()
	default:
		if c < " " || c == "\x7f" {
			v.t.Errorf("a frame has the control character %q", c)
		}
		w := uniseg.StringWidth(c)
		if v.x+w > v.width {
			if !v.wrap {
				return
			}
			v.x = 0
			v.down()
		}
		row := cut(v.rows[v.y], v.x)
		v.rows[v.y] = row + strings.Repeat(" ", max(0, v.x-uniseg.StringWidth(row))) + c
		v.x += w
	}
}

func (v *vt) down() {
	v.y++
	if v.y == len(v.rows) {
		v.rows = append(v.rows, "")
	}
	v.top = max(v.top, v.y-v.height+1)
}

// resize wraps what is shown as terminals do.
func (v *vt) resize(width int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var rows []string
	for i, row := range v.rows {
		if i == v.y {
			v.y = len(rows)
		}
		for uniseg.StringWidth(row) > width {
			first := cut(row, width)
			rows, row = append(rows, first), strings.TrimPrefix(row, first)
		}
		rows = append(rows, row)
	}
	v.rows, v.width, v.top = rows, width, max(0, len(rows)-v.height)
}

func (v *vt) text() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var b strings.Builder
	for _, row := range v.rows {
		b.WriteString(strings.TrimRight(row, " ") + "\n")
	}
	return b.String()
}

func cut(s string, width int) string {
	var b strings.Builder
	used := 0
	for g := uniseg.NewGraphemes(s); g.Next(); {
		if used += g.Width(); used > width {
			break
		}
		b.WriteString(g.Str())
	}
	return b.String()
}

// Frames replace each other: what settled stands once, what was live is gone,
// whatever the frames before them were and however the width changes.
func TestFramesReplaceEachOther(t *testing.T) {
	t.Parallel()
	v := newVT(t, 40, 10)
	s := screen{out: v}
	draw := func(settled, live []string) {
		t.Helper()
		width, height := v.size()
		if err := s.draw(settled, live, width-1, height); err != nil {
			t.Fatal(err)
		}
	}
	draw(nil, []string{"▸ one", "  out", "  status"})
	draw(nil, []string{"▸ one", "  a longer line of output", "  more", "  status"})
	draw([]string{"✓ one", "warning: a note of the command that takes more than one row"}, []string{"▸ two", "  status"})
	v.resize(20)
	draw(nil, []string{"▸ two, still", "  status"})
	v.resize(60)
	draw([]string{"✓ two"}, nil)
	want := "✓ one\nwarning: a note of t\nhe command that take\ns more than one row\n✓ two\n\n"
	if got := v.text(); got != want {
		t.Errorf("terminal shows\n%s\nwant\n%s", got, want)
	}
	writes := v.writes
	draw(nil, nil)
	if v.writes != writes {
		t.Errorf("a frame like the one before was written")
	}
}

// A picture higher than the terminal scrolls nothing away twice.
func TestLowTerminal(t *testing.T) {
	t.Parallel()
	v := newVT(t, 40, 4)
	d := New(Options{Mode: TTY, Out: v, Terminal: Terminal{Size: v.size}, Now: func() time.Time { return time.Unix(0, 0) }})
	for n := int32(1); n <= 50; n++ {
		_ = d.Line(&lehrv1.LogLine{Attempt: 1, Phase: "recipe", Step: n, Stream: "system", Text: fmt.Sprint("RUN ", n), Time: timestamppb.New(time.Unix(0, 0))})
		d.State(&lehrv1.Build{Name: "web", Tag: "default", Status: "running", Attempt: 1, Steps: stepsTo(n)})
	}
	d.State(&lehrv1.Build{Name: "web", Tag: "default", Status: "success", Attempt: 1, Steps: stepsTo(50)})
	d.Close()
	d.Close()
	for n := 1; n <= 50; n++ {
		if c := strings.Count(v.text(), fmt.Sprintf("✓ #%d RUN %d ", n, n)); c != 1 {
			t.Errorf("step %d is shown %d times, want once", n, c)
		}
	}
	if strings.Contains(v.text(), "steps ·") {
		t.Errorf("the status line is left behind:\n%s", v.text())
	}
}

func stepsTo(n int32) []*lehrv1.BuildStep {
	var all []*lehrv1.BuildStep
	for i := int32(1); i <= n; i++ {
		all = append(all, step(i, "recipe", "success", 1000, fmt.Sprint("RUN ", i)))
	}
	return all
}

// stuck is a terminal that takes nothing until it is released.
type stuck struct {
	free chan struct{}
	once sync.Once
	in   chan struct{} // closed at the first write
}

func (s *stuck) Write(b []byte) (int, error) {
	s.once.Do(func() { close(s.in) })
	<-s.free
	return len(b), nil
}

// A terminal that stands still, or is slow, keeps no line from being taken, and
// a flood makes no more frames than a trickle.
func TestFloodDoesNotWaitForTheTerminal(t *testing.T) {
	t.Parallel()
	s := &stuck{free: make(chan struct{}), in: make(chan struct{})}
	d := New(Options{Mode: TTY, Out: s, Terminal: Terminal{Size: func() (int, int) { return 80, 24 }}})
	d.Note("begin")
	<-s.in
	l := &lehrv1.LogLine{Attempt: 1, Phase: "recipe", Step: 1, Stream: "stdout", Text: strings.Repeat("x", 16<<10), Time: timestamppb.Now()}
	for range 100_000 {
		if err := d.Line(l); err != nil {
			t.Fatal(err)
		}
	}
	close(s.free)
	d.Close()
}

type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// Whoever is gone ends the command: the next line says so.
func TestGoneTerminal(t *testing.T) {
	t.Parallel()
	d := New(Options{Mode: TTY, Out: gone{}, Terminal: Terminal{Size: func() (int, int) { return 80, 24 }}})
	d.Note("x")
	d.Close()
	if err := d.Line(&lehrv1.LogLine{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Line() = %v, want the terminal's error", err)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	size := func() (int, int) { return 80, 24 }
	for _, tt := range []struct {
		mode string
		size func() (int, int)
		env  map[string]string
		want Mode
	}{
		{"auto", size, map[string]string{"TERM": "xterm"}, TTY},
		{"auto", nil, map[string]string{"TERM": "xterm"}, Plain},
		{"auto", size, map[string]string{"TERM": "dumb"}, Plain},
		{"auto", size, nil, Plain},
		{"auto", size, map[string]string{"TERM": "xterm", "CI": "true"}, Plain},
		{"auto", size, map[string]string{"TERM": "xterm", "CI": "false"}, TTY},
		{"tty", size, map[string]string{"TERM": "xterm", "CI": "true"}, TTY},
		{"tty", nil, map[string]string{"TERM": "xterm"}, ""},
		{"tty", size, map[string]string{"TERM": "dumb"}, ""},
		{"plain", size, nil, Plain},
		{"rawjson", size, nil, RawJSON},
		{"quiet", nil, nil, Quiet},
		{"fancy", size, nil, ""},
	} {
		term := Terminal{Size: tt.size, LookupEnv: func(name string) (string, bool) { v, ok := tt.env[name]; return v, ok }}
		got, err := term.Choose(tt.mode)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("Choose(%q) with %v = %q, %v, want %q", tt.mode, tt.env, got, err, tt.want)
		}
	}
	for env, want := range map[string]style{
		"": {color: true}, "NO_COLOR=1": {}, "LANG=C": {color: true, ascii: true}, "LC_ALL=de_DE.UTF-8": {color: true}, "LANG=C.utf8": {color: true},
	} {
		name, value, _ := strings.Cut(env, "=")
		term := Terminal{LookupEnv: func(n string) (string, bool) { return value, n == name && env != "" }}
		if env == "" {
			term.LookupEnv = nil
		}
		if got := term.style(); got != want {
			t.Errorf("style with %q = %+v, want %+v", env, got, want)
		}
	}
}

// Every line of rawjson is one object with an event of its own name.
func TestRawJSON(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	d := New(Options{Mode: RawJSON, Out: &b})
	d.State(&lehrv1.Build{Status: "pending"})
	_ = d.Line(&lehrv1.LogLine{Text: "a\nb\x1b[0m"})
	d.State(&lehrv1.Build{Status: "running", Attempt: 1, Steps: stepsTo(2)})
	d.State(&lehrv1.Build{Status: "running", Attempt: 1, Steps: stepsTo(2)})
	d.Note(`say "x"`)
	d.Cancelling("cancelling")
	d.Failed(Failure{Message: "m", Code: "c", Fault: "user"})
	d.Close()
	var events []string
	dec := json.NewDecoder(&b)
	for dec.More() {
		var e map[string]any
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		name, _ := e["event"].(string)
		if _, ok := e[name]; !ok || len(e) != 2 {
			t.Errorf("event %v has not its own member and nothing else", e)
		}
		events = append(events, name)
	}
	if got, want := strings.Join(events, " "), "build log step step build note note error"; got != want {
		t.Errorf("events = %s, want %s", got, want)
	}
}

// A text of several lines stays readable and within its line's head.
func TestPlainLines(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	d := New(Options{Mode: Plain, Out: &b})
	_ = d.Line(&lehrv1.LogLine{Step: 2, Text: "RUN <<EOF\ntrue\x1b[2J\nEOF", Time: timestamppb.New(time.Unix(7, 0))})
	_ = d.Line(&lehrv1.LogLine{Step: 2, Text: "", Time: timestamppb.New(time.Unix(8, 5e8))})
	d.Failed(Failure{Message: "recipe step 2 failed: x\ny", Code: "step_failed", Remedy: "r", Log: "l", Excerpt: []string{"> 1 | x"}})
	d.Close()
	want := "#2 0.0 RUN <<EOF\n#2 0.0 true\n#2 0.0 EOF\n#2 1.5 \n> 1 | x\nlehr: recipe step 2 failed: x\n  y [step_failed]\n  try: r\n  log: l\n"
	if b.String() != want {
		t.Errorf("plain = %q, want %q", b.String(), want)
	}
}
