package storetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

func logScenarios() []scenario {
	return []scenario{
		{"AppendAndRead", appendAndRead},
		{"ManyLines", manyLines},
		{"AttemptsShareSeqs", attemptsShareSeqs},
		{"TextIsMadeStorable", textIsMadeStorable},
		{"Cap", logCap},
		{"CapInOneAppend", logCapInOneAppend},
		{"CapByEmptyLines", logCapByEmptyLines},
		{"Expire", logExpire},
	}
}

func line(text string) lehr.LogLine {
	return lehr.LogLine{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC), Phase: lehr.PhaseRecipe, Step: 2, Stream: lehr.StreamStderr, Text: text,
	}
}

func text(l lehr.LogLine) string { return l.Text }

func appendAndRead(b *bench) {
	f := b.running("app")
	first, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{line("a"), line("")})
	b.ok(err, "Append()")
	untimed := line("c")
	untimed.Time = time.Time{}
	second, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{untimed})
	b.ok(err, "Append()")
	want := []lehr.LogLine{line("a"), line(""), untimed}
	for i := range want {
		want[i].Seq, want[i].Attempt = int64(i+1), 1
	}
	b.equal(append(first, second...), want, "Append()")
	read, err := b.Logs().Read(b.ctx, f.BuildID, 0, 10)
	b.ok(err, "Read()")
	if len(read) != 3 || read[2].Time.IsZero() {
		b.Fatalf("Read() = %+v, want three lines with times", read)
	}
	want[2].Time = read[2].Time
	b.equal(read, want, "Read()")
	for _, test := range []struct {
		after int64
		limit int
		want  []string
	}{{0, 2, []string{"a", ""}}, {1, 1, []string{""}}, {2, 9, []string{"c"}}, {3, 9, []string{}}, {-5, 1 << 20, []string{"a", "", "c"}}} {
		read, err := b.Logs().Read(b.ctx, f.BuildID, test.after, test.limit)
		b.ok(err, "Read(after %d, limit %d)", test.after, test.limit)
		b.equal(labels(read, text), test.want, "Read(after %d, limit %d)", test.after, test.limit)
	}
	_, err = b.Logs().Read(b.ctx, f.BuildID, 0, 0)
	b.kind(err, errs.Invalid, "Read(limit 0)")
	none, err := b.Logs().Read(b.ctx, lehr.NewBuildID(), 0, 1)
	if err != nil || len(none) != 0 {
		b.Errorf("Read(unknown build) = %v, %v; want nothing", none, err)
	}
	none, err = b.Logs().Append(b.ctx, f, nil)
	if err != nil || len(none) != 0 {
		b.Errorf("Append(nothing) = %v, %v; want nothing", none, err)
	}
	odd := line("x")
	odd.Stream = "odd"
	_, err = b.Logs().Append(b.ctx, f, []lehr.LogLine{odd})
	b.kind(err, errs.Invalid, "Append(odd stream)")
}

// manyLines has batches of sizes that need several statements.
func manyLines(b *bench) {
	f := b.running("app")
	var want []string
	for _, n := range []int{1, 2, 63, 64, 65, 333} {
		var batch []lehr.LogLine
		for range n {
			want = append(want, fmt.Sprint(len(want)+1))
			batch = append(batch, line(want[len(want)-1]))
		}
		_, err := b.Logs().Append(b.ctx, f, batch)
		b.ok(err, "Append(%d lines)", n)
	}
	read, err := b.Logs().Read(b.ctx, f.BuildID, 0, 1000)
	b.ok(err, "Read()")
	b.equal(labels(read, text), want, "the log")
	b.gapless(read)
}

func (b *bench) gapless(lines []lehr.LogLine) {
	b.Helper()
	for i, l := range lines {
		if l.Seq != int64(i+1) {
			b.Fatalf("line %d has seq %d, want %d", i, l.Seq, i+1)
		}
	}
}

func attemptsShareSeqs(b *bench) {
	f := b.running("app")
	_, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{line("1")})
	b.ok(err, "Append()")
	_, err = b.Queue().GiveBack(b.ctx, f, lehr.AttemptLost, nil)
	b.ok(err, "GiveBack()")
	_, err = b.Logs().Append(b.ctx, fenceOf(b.claim()), []lehr.LogLine{line("2")})
	b.ok(err, "Append(attempt 2)")
	read, err := b.Logs().Read(b.ctx, f.BuildID, 0, 10)
	b.ok(err, "Read()")
	got := labels(read, func(l lehr.LogLine) string {
		return fmt.Sprintf("%d %d %s", l.Seq, l.Attempt, l.Text)
	})
	b.equal(got, []string{"1 1 1", "2 2 2"}, "the log")
}

func textIsMadeStorable(b *bench) {
	f := b.running("app")
	kept, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{line("a\x00b"), line("\xff\xfe"), line("\x1b[31m ä 世\U0001F600\r\t")})
	b.ok(err, "Append()")
	want := []string{"a\uFFFDb", "\uFFFD", "\x1b[31m ä 世\U0001F600\r\t"}
	b.equal(labels(kept, text), want, "Append()")
	read, err := b.Logs().Read(b.ctx, f.BuildID, 0, 10)
	b.ok(err, "Read()")
	b.equal(labels(read, text), want, "Read()")
}

// lineBytes is the text of the lines that fill a log up to its cap.
const lineBytes = 1 << 20

func logCap(b *bench) {
	f := b.running("app")
	full := store.MaxLogBytes / lineBytes
	long := line(strings.Repeat("x", lineBytes-1)) // a line counts with its end
	for i := range full {
		kept, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{long})
		if err != nil || len(kept) != 1 || kept[0].Stream != lehr.StreamStderr {
			b.Fatalf("Append(%d) = %d lines, %v; want 1, nil", i, len(kept), err)
		}
	}
	b.capReached(f, full)
}

// capReached checks that a log of n lines takes one line more: the mark.
func (b *bench) capReached(f lehr.Fence, n int) {
	b.Helper()
	kept, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{line("one too many"), line("two")})
	b.ok(err, "Append(beyond the cap)")
	b.checkMark(kept, int64(n+1))
	for range 2 {
		kept, err = b.Logs().Append(b.ctx, f, []lehr.LogLine{line("more")})
		if err != nil || len(kept) != 0 {
			b.Errorf("Append(after the mark) = %v, %v; want nothing", kept, err)
		}
	}
	last, err := b.Logs().Read(b.ctx, f.BuildID, int64(n), 10)
	b.ok(err, "Read()")
	b.checkMark(last, int64(n+1))
	old := f
	old.Attempt++
	_, err = b.Logs().Append(b.ctx, old, []lehr.LogLine{line("x")})
	b.kind(err, errs.NotFound, "Append(full log, wrong fence)")
}

func (b *bench) checkMark(lines []lehr.LogLine, seq int64) {
	b.Helper()
	if len(lines) != 1 || lines[0].Stream != lehr.StreamSystem || lines[0].Seq != seq || !strings.Contains(lines[0].Text, "truncated") {
		b.Errorf("lines = %.300v, want one mark with seq %d", lines, seq)
	}
}

func logCapInOneAppend(b *bench) {
	f := b.running("app")
	batch := []lehr.LogLine{line("a"), line("b"), line(strings.Repeat("x", store.MaxLogBytes)), line("c")}
	kept, err := b.Logs().Append(b.ctx, f, batch)
	b.ok(err, "Append()")
	if len(kept) != 3 || kept[1].Text != "b" {
		b.Fatalf("Append() keeps %d lines, want a, b and the mark", len(kept))
	}
	b.checkMark(kept[2:], 3)
	read, err := b.Logs().Read(b.ctx, f.BuildID, 0, 10)
	b.ok(err, "Read()")
	b.equal(len(read), 3, "the number of lines")
	b.gapless(read)
	b.equal(batch[3].Text, "c", "the caller's lines")
}

func logCapByEmptyLines(b *bench) {
	f := b.running("app")
	_, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{line(strings.Repeat("x", store.MaxLogBytes-4))})
	b.ok(err, "Append()")
	kept, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{line(""), line(""), line(""), line(""), line("")})
	b.ok(err, "Append(empty lines)")
	b.equal(len(kept), 4, "the number of lines kept: three empty ones and the mark")
}

func logExpire(b *bench) {
	f := b.running("app")
	_, err := b.Logs().Append(b.ctx, f, []lehr.LogLine{line("a"), line("b")})
	b.ok(err, "Append()")
	b.ok(b.Queue().Finish(b.ctx, f, store.Finish{Status: lehr.BuildFailed, Error: failure()}), "Finish()")
	alive := b.running("app")
	_, err = b.Logs().Append(b.ctx, alive, []lehr.LogLine{line("c")})
	b.ok(err, "Append()")
	ended := b.get(f.BuildID).CompletedAt
	for _, test := range []struct {
		before time.Time
		want   int64
	}{{ended, 0}, {ended.Add(time.Microsecond), 2}, {ended.Add(time.Hour), 0}} {
		n, err := b.Logs().Expire(b.ctx, test.before)
		if err != nil || n != test.want {
			b.Errorf("Expire(%v) = %d, %v; want %d, nil", test.before, n, err, test.want)
		}
	}
	for id, want := range map[lehr.BuildID]int{f.BuildID: 0, alive.BuildID: 1} {
		read, err := b.Logs().Read(b.ctx, id, 0, 10)
		b.ok(err, "Read()")
		b.equal(len(read), want, "the number of lines")
	}
}
