package build

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// maxLine bounds one log line; longer ones become several.
const maxLine = 16 << 10

// lineSplitter cuts one stream of output into log lines. It is owned by the
// goroutine that reads the stream.
type lineSplitter struct {
	partial []byte // no line end in it
}

// write takes the next bytes and calls emit with every line they complete.
func (l *lineSplitter) write(b []byte, emit func(text string)) {
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		l.partial = append(l.partial, line...)
		for len(l.partial) > maxLine {
			n := runeBoundary(l.partial, maxLine)
			emit(cleanText(l.partial[:n]))
			l.partial = append(l.partial[:0], l.partial[n:]...)
		}
		if ended {
			l.end(emit)
		}
		b = rest
	}
}

// flush emits what has no line end yet, if anything.
func (l *lineSplitter) flush(emit func(text string)) {
	if len(l.partial) > 0 {
		l.end(emit)
	}
}

func (l *lineSplitter) end(emit func(text string)) {
	emit(cleanText(bytes.TrimSuffix(l.partial, []byte("\r"))))
	l.partial = l.partial[:0]
}

// runeBoundary returns the largest cut of b up to most that splits no rune.
func runeBoundary(b []byte, most int) int {
	for n := most; n > most-utf8.UTFMax; n-- {
		if utf8.RuneStart(b[n]) {
			return n
		}
	}
	return most
}

// cleanText makes output storable: every byte that is not UTF-8, and NUL, which
// PostgreSQL has no place for, become the replacement character.
func cleanText(b []byte) string {
	s := strings.ToValidUTF8(string(b), "\uFFFD")
	return strings.ReplaceAll(s, "\x00", "\uFFFD")
}

// tail keeps the last lehr.StepTailBytes of a stream.
type tail struct {
	b []byte
}

func (t *tail) write(b []byte) {
	const most = lehr.StepTailBytes
	if len(b) >= most {
		t.b = append(t.b[:0], b[len(b)-most:]...)
		return
	}
	if over := len(t.b) + len(b) - most; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	t.b = append(t.b, b...)
}

// String returns the tail as valid UTF-8 of at most lehr.StepTailBytes, without
// a rune cut in half at its begin.
func (t *tail) String() string {
	b := t.b
	for range min(utf8.UTFMax-1, len(b)) {
		if utf8.RuneStart(b[0]) {
			break
		}
		b = b[1:]
	}
	s := cleanText(b)
	for len(s) > lehr.StepTailBytes { // replacements are longer than what they replace
		_, n := utf8.DecodeRuneInString(s)
		s = s[n:]
	}
	return s
}
