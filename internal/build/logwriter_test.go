package build

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// sink is a log's target in memory.
type sink struct {
	mu      sync.Mutex
	batches [][]string
	at      []time.Time
	fail    error
	broken  error
}

func (s *sink) target() logTarget {
	return logTarget{
		clock: clock.Real(), retry: 10 * time.Second,
		append: func(_ context.Context, lines []lehr.LogLine) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.fail != nil {
				return s.fail
			}
			var texts []string
			for _, l := range lines {
				texts = append(texts, l.Text)
			}
			s.batches, s.at = append(s.batches, texts), append(s.at, time.Now())
			return nil
		},
		publish: func(context.Context) {},
		broken:  func(err error) { s.broken = err },
	}
}

func (s *sink) set(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.fail = err }

func (s *sink) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.batches...)
}

func line(text string) lehr.LogLine { return lehr.LogLine{Text: text} }

func TestLogBatchClosesAfterTenMilliseconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sink
		w := newLogWriter(s.target())
		w.start(t.Context())
		begin := time.Now()
		w.put(t.Context(), line("one"))
		time.Sleep(5 * time.Millisecond)
		w.put(t.Context(), line("two"))
		time.Sleep(20 * time.Millisecond)
		w.put(t.Context(), line("three"))
		w.close()
		if got := fmt.Sprint(s.batches); got != "[[one two] [three]]" {
			t.Errorf("batches = %s, want [[one two] [three]]", got)
		}
		if got := s.at[0].Sub(begin); got != batchAge {
			t.Errorf("first batch closed after %v, want %v", got, batchAge)
		}
	})
}

func TestLogBatchClosesAtItsSize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sink
		w := newLogWriter(s.target())
		w.start(t.Context())
		begin := time.Now()
		text := strings.Repeat("x", 1<<10)
		for range 200 {
			w.put(t.Context(), line(text))
		}
		synctest.Wait()
		if len(s.batches) == 0 || s.at[0] != begin {
			t.Fatalf("no batch was written at once, want one of %d bytes", batchBytes)
		}
		w.close()
		for i, b := range s.batches {
			if len(b) > batchBytes/(1<<10) {
				t.Errorf("batch %d has %d KB, want at most %d", i, len(b), batchBytes>>10)
			}
		}
		if got := len(s.lines()); got != 200 {
			t.Errorf("%d lines stored, want 200", got)
		}
	})
}

func TestLogSurvivesAnUnavailableStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sink
		s.set(errs.New(errs.Unavailable, "down"))
		w := newLogWriter(s.target())
		w.start(t.Context())
		w.put(t.Context(), line("kept"))
		time.Sleep(5 * time.Second)
		s.set(nil)
		w.flush(t.Context())
		w.close()
		if got := s.lines(); !slices.Equal(got, []string{"kept"}) || s.broken != nil {
			t.Errorf("lines = %q, broken = %v, want [kept] and no error", got, s.broken)
		}
	})
}

func TestLogOfAnEndedAttemptIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sink
		s.set(errs.New(errs.Conflict, "over"))
		w := newLogWriter(s.target())
		w.start(t.Context())
		w.put(t.Context(), line("late"))
		w.flush(t.Context())
		w.put(t.Context(), line("later"))
		w.close()
		if !errs.IsKind(s.broken, errs.Conflict) {
			t.Errorf("broken = %v, want Conflict", s.broken)
		}
	})
}

func TestLogSlowsAChattyCommandDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sink
		s.set(errs.New(errs.Unavailable, "down"))
		w := newLogWriter(s.target())
		w.start(t.Context())
		put := 0
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for ; ctx.Err() == nil && put < 10_000; put++ {
				w.put(ctx, line(strings.Repeat("x", 1<<10)))
			}
		})
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		if put > 2*maxWaiting>>10 {
			t.Errorf("%d KB were taken while the store was down, want about %d", put, maxWaiting>>10)
		}
		s.set(nil)
		w.close()
	})
}

func split(chunks ...string) (lines []string) {
	var l lineSplitter
	emit := func(text string) { lines = append(lines, text) }
	for _, c := range chunks {
		l.write([]byte(c), emit)
	}
	l.flush(emit)
	return lines
}

func TestLineSplitter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		chunks []string
		want   []string
	}{
		{"whole lines", []string{"a\nb\n"}, []string{"a", "b"}},
		{"across writes", []string{"a", "b\nc", "\n"}, []string{"ab", "c"}},
		{"no end", []string{"a\nb"}, []string{"a", "b"}},
		{"empty lines", []string{"\n\n"}, []string{"", ""}},
		{"carriage return", []string{"a\r\nb\rc\n"}, []string{"a", "b\rc"}},
		{"invalid UTF-8", []string{"a\xffb\n"}, []string{"a\uFFFDb"}},
		{"NUL", []string{"a\x00b\n"}, []string{"a\uFFFDb"}},
		{"rune across writes", []string{"\xe2\x82", "\xac\n"}, []string{"€"}},
		{"nothing", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := split(tt.chunks...); !slices.Equal(got, tt.want) {
				t.Errorf("split(%q) = %q, want %q", tt.chunks, got, tt.want)
			}
		})
	}
}

func TestLineSplitterChunksLongLines(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("€", maxLine)
	lines := split(text + "\n")
	if got := strings.Join(lines, ""); got != text {
		t.Errorf("a line of %d bytes came back as %d bytes", len(text), len(got))
	}
	for _, l := range lines {
		if len(l) > maxLine {
			t.Errorf("a chunk has %d bytes, want at most %d", len(l), maxLine)
		}
	}
}

func FuzzLineSplitter(f *testing.F) {
	f.Add([]byte("a\nb"), 1)
	f.Add([]byte("\xff\x00\r\n"), 2)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		size = max(size&0xff, 1)
		var chunks []string
		for c := range slices.Chunk(b, size) {
			chunks = append(chunks, string(c))
		}
		lines := split(chunks...)
		if want := bytes.Count(b, []byte("\n")); len(lines) < want || len(lines) > want+1+len(b)/(maxLine-4) {
			t.Errorf("%d lines from %d line ends", len(lines), want)
		}
		for _, l := range lines {
			if !utf8.ValidString(l) || strings.ContainsAny(l, "\n\x00") {
				t.Errorf("line %q is not clean", l)
			}
		}
	})
}

func TestTailKeepsTheEnd(t *testing.T) {
	t.Parallel()
	var tl tail
	for i := range 10_000 {
		tl.write(fmt.Appendf(nil, "€%d\n", i))
	}
	got := tl.String()
	if len(got) > lehr.StepTailBytes || !utf8.ValidString(got) || !strings.HasSuffix(got, "€9999\n") {
		t.Errorf("tail has %d bytes and ends %q, want at most %d and the last line", len(got), got[len(got)-10:], lehr.StepTailBytes)
	}
	tl.write(bytes.Repeat([]byte{0xff}, 2*lehr.StepTailBytes))
	if got := tl.String(); len(got) > lehr.StepTailBytes || !utf8.ValidString(got) {
		t.Errorf("tail of invalid bytes has %d bytes, want at most %d of valid UTF-8", len(got), lehr.StepTailBytes)
	}
}
