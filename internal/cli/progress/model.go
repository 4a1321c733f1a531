package progress

import (
	"slices"
	"strings"
	"time"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// Bounds of what a model keeps, whatever a server says.
const (
	maxSteps  = 1 << 17 // numbers above are not shown
	tailLines = 20      // of each step, for a failure
	rawBytes  = 4 << 10 // of a line, before it is made fit for a terminal
)

// The statuses of steps and builds that decide something here.
const (
	statusPending   = "pending"
	statusRunning   = "running"
	statusSuccess   = "success"
	statusFailed    = "failed"
	statusCancelled = "cancelled"
)

// stage is a line of the picture: a step, or one of the phases that have no
// steps.
type stage struct {
	n       int32  // 0 for a phase
	phase   string // of the API
	cmd     string
	status  string
	begun   time.Time // on the server's clock; zero: not known
	elapsed time.Duration
	usual   time.Duration // 0: not known
	cached  bool
	exit    *int32
	lingers bool // it still ran when the healthcheck began
	tail    []string
}

func (s *stage) ended() bool { return s.status != "" && s.status != statusRunning }

func (s *stage) say(text string) {
	if len(text) > rawBytes {
		text = text[:rawBytes]
	}
	if len(s.tail) == tailLines {
		s.tail = append(s.tail[:0], s.tail[1:]...)
	}
	s.tail = append(s.tail, text)
}

// Item is something that will not change any more: a stage, or a note where
// stage is nil.
type Item struct {
	stage *stage
	note  string
}

// Model is what is known of one build. It is owned by one goroutine, or guarded
// by its owner. Times are given to it, it asks for none.
type Model struct {
	text  func(*lehrv1.LogLine) string
	usual usual

	build      *lehrv1.Build
	attempt    int32
	skew       time.Duration // the server's clock minus ours, as seen with the least delay
	skewKnown  bool
	steps      []*stage // steps[n-1]; nil while nothing is known of it
	next       int      // steps before it are settled
	health     *stage
	publish    *stage
	last       string    // the last line that belongs to no stage
	lastAt     time.Time // server's clock: when something was last heard
	settled    []Item
	cancelling bool
	over       bool

	interruptible bool // Ctrl-C cancels the build
}

// NewModel returns the model of a build of which nothing is known. usual may be
// nil; text changes the text of log lines.
func NewModel(earlier *lehrv1.Build, text func(*lehrv1.LogLine) string) *Model {
	return &Model{usual: usualOf(earlier), text: text}
}

// Line takes a log line that came at now.
func (m *Model) Line(l *lehrv1.LogLine, now time.Time) {
	at := l.GetTime().AsTime()
	m.clock(at, now)
	m.lastAt = at
	m.try(l.GetAttempt())
	text := m.text(l)
	s := m.stageOf(l)
	if s == nil || s.ended() {
		if l.GetStream() == "system" {
			m.last = text
			if isWarning(text) {
				m.Note(text)
			}
		}
		return
	}
	if s.begun.IsZero() {
		s.begun, s.status = at, statusRunning
		if l.GetStream() == "system" { // the first line of a stage is what it runs
			m.name(s, text)
			return
		}
	}
	if l.GetStream() == "system" && (s.n > 0 || strings.HasPrefix(text, s.phase+" failed: ")) {
		m.last = text // how it ended is told by its mark, and by the failure
		return
	}
	s.say(text)
}

// stageOf finds where a line belongs; nil: to none.
func (m *Model) stageOf(l *lehrv1.LogLine) *stage {
	if n := l.GetStep(); n > 0 {
		return m.step(n, l.GetPhase())
	}
	switch l.GetPhase() {
	case "healthcheck":
		if m.health == nil {
			m.health = &stage{phase: "healthcheck"}
			for _, s := range m.steps {
				if s != nil && !s.ended() {
					s.lingers = true
				}
			}
		}
		return m.health
	case "publish":
		if m.publish == nil {
			m.publish = &stage{phase: "publish", status: statusRunning, begun: l.GetTime().AsTime()}
			m.endHealth(statusSuccess, l.GetTime().AsTime())
		}
		return m.publish
	}
	return nil
}

// step returns step n, nil where n makes no sense.
func (m *Model) step(n int32, phase string) *stage {
	if n < 1 || n > maxSteps {
		return nil
	}
	for int(n) > len(m.steps) {
		m.steps = append(m.steps, nil)
	}
	if m.steps[n-1] == nil {
		m.steps[n-1] = &stage{n: n, phase: phase}
	}
	return m.steps[n-1]
}

// name gives a stage its instruction, and how long that usually takes.
func (m *Model) name(s *stage, cmd string) {
	s.cmd = cmd
	s.usual = m.usual.of(s.phase, cmd)
}

// State takes the build as it was at now.
func (m *Model) State(b *lehrv1.Build, now time.Time) {
	if m.over {
		return
	}
	first := m.build == nil
	m.build = b
	if first && b.GetStatus() == statusPending {
		m.clock(b.GetCreatedAt().AsTime(), now)
	}
	m.try(b.GetAttempt())
	for _, r := range b.GetSteps() {
		s := m.step(r.GetStep(), r.GetPhase())
		if s == nil || s.ended() {
			continue
		}
		if s.cmd == "" {
			m.name(s, r.GetCmd())
		}
		if r.GetStatus() == statusFailed && !hasEnded(b) {
			continue // what it said may still be on its way; the build's end closes it
		}
		s.phase, s.status, s.cached, s.exit = r.GetPhase(), r.GetStatus(), r.GetCached(), r.Exit
		s.elapsed = time.Duration(r.GetElapsedMs()) * time.Millisecond
	}
	if hasEnded(b) {
		m.end(b)
	}
	m.settle()
}

// try begins an attempt: what an earlier one did is undone.
func (m *Model) try(attempt int32) {
	if attempt <= m.attempt {
		return
	}
	if m.attempt > 0 {
		m.settle()
		m.Note("the attempt was lost; the build begins again")
		m.steps, m.next, m.health, m.publish, m.last = nil, 0, nil, nil, ""
	}
	m.attempt = attempt
}

// clock learns the difference of the clocks from something that happened at on
// the server and was heard of at now.
func (m *Model) clock(at, now time.Time) {
	if d := at.Sub(now); !m.skewKnown || d > m.skew {
		m.skew, m.skewKnown = d, true
	}
}

// end closes what was open when the build ended.
func (m *Model) end(b *lehrv1.Build) {
	m.over = true
	at := b.GetCompletedAt().AsTime()
	status := b.GetStatus()
	if m.publish != nil {
		m.publish.status, m.publish.elapsed = status, at.Sub(m.publish.begun)
	}
	m.endHealth(status, at)
	for _, s := range m.steps[m.next:] {
		if s == nil || s.ended() {
			continue
		}
		s.status = statusCancelled
		if status == statusFailed && b.GetError().GetStep() == s.n {
			s.status = statusFailed
		}
		if !s.begun.IsZero() {
			s.elapsed = at.Sub(s.begun)
		}
	}
}

func (m *Model) endHealth(status string, at time.Time) {
	if m.health != nil && !m.health.ended() {
		m.health.status, m.health.elapsed = status, at.Sub(m.health.begun)
	}
}

// settle moves what will not change any more to the settled items, in order.
func (m *Model) settle() {
	for m.next < len(m.steps) {
		s := m.steps[m.next]
		if s == nil && m.over { // it never began
			m.next++
			continue
		}
		if s == nil || !s.ended() {
			break
		}
		m.settled = append(m.settled, Item{stage: s})
		m.next++
	}
	if m.over {
		for _, s := range []*stage{m.health, m.publish} {
			if s != nil {
				m.settled = append(m.settled, Item{stage: s})
			}
		}
		m.health, m.publish = nil, nil
	}
}

// Note adds a word of the command itself.
func (m *Model) Note(text string) { m.settled = append(m.settled, Item{note: text}) }

// Take returns what has settled since the last call.
func (m *Model) Take() []Item {
	taken := m.settled
	m.settled = nil
	return taken
}

// running returns the stages that are under way, in order.
func (m *Model) running() []*stage {
	var all []*stage
	for _, s := range m.steps[min(m.next, len(m.steps)):] {
		if s != nil && s.status != "" {
			all = append(all, s)
		}
	}
	for _, s := range []*stage{m.health, m.publish} {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

// busy is the stage whose output is of interest: the last one under way.
func busy(stages []*stage) *stage {
	for _, s := range slices.Backward(stages) {
		if !s.ended() {
			return s
		}
	}
	return nil
}

func hasEnded(b *lehrv1.Build) bool {
	s := b.GetStatus()
	return s == statusSuccess || s == statusFailed || s == statusCancelled
}
