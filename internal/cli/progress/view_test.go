package progress

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rivo/uniseg"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

var update = flag.Bool("update", false, "write the golden files")

// scene plays a build to a model. at is the time of the scene, on both clocks.
type scene struct {
	m     *Model
	build *lehrv1.Build
	began time.Time
	at    time.Time
}

func newScene(earlier *lehrv1.Build) *scene {
	began := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	s := &scene{m: NewModel(earlier, (*lehrv1.LogLine).GetText), began: began, at: began}
	s.build = &lehrv1.Build{
		Id: "bld-01", Name: "web", Tag: "default", Status: "pending", TotalSteps: 6,
		CreatedAt: timestamppb.New(began),
	}
	return s
}

func (s *scene) after(d time.Duration) *scene { s.at = s.began.Add(d); return s }

func (s *scene) state(status string, steps ...*lehrv1.BuildStep) *scene {
	s.build = proto.CloneOf(s.build)
	s.build.Status, s.build.Steps = status, steps
	if status != "pending" && s.build.Attempt == 0 {
		s.build.Attempt = 1
	}
	if status != "pending" && status != "running" {
		s.build.CompletedAt = timestamppb.New(s.at)
	}
	s.m.State(s.build, s.at)
	return s
}

func (s *scene) line(phase string, step int32, stream, text string) *scene {
	s.m.Line(&lehrv1.LogLine{Attempt: max(1, s.build.Attempt), Time: timestamppb.New(s.at), Phase: phase, Step: step, Stream: stream, Text: text}, s.at)
	return s
}

func step(n int32, phase, status string, ms int64, cmd string) *lehrv1.BuildStep {
	return &lehrv1.BuildStep{Step: n, Phase: phase, Status: status, ElapsedMs: ms, Cmd: cmd}
}

func cached(s *lehrv1.BuildStep) *lehrv1.BuildStep { s.Cached = true; return s }

// picture is what a terminal would show of a scene.
func (s *scene) picture(v View, width, height int) []string {
	var lines []string
	for _, it := range s.m.settled {
		lines = append(lines, v.Settled(it, width)...)
	}
	lines = append(lines, strings.Repeat("-", width))
	return append(lines, v.Live(s.m, s.at, width, height)...)
}

func scenes() map[string]*scene {
	steps := func(last ...*lehrv1.BuildStep) []*lehrv1.BuildStep {
		return append([]*lehrv1.BuildStep{
			step(1, "pre-build", "success", 3200, "RUN apt-get update"),
			cached(step(2, "recipe", "success", 4, "RUN apt-get install -y --no-install-recommends python3 python3-venv ca-certificates")),
			step(3, "recipe", "success", 0, "ENV PORT=8000"),
		}, last...)
	}
	earlier := &lehrv1.Build{
		StartedAt: timestamppb.New(time.Unix(0, 0)), CompletedAt: timestamppb.New(time.Unix(95, 0)),
		Steps: []*lehrv1.BuildStep{step(1, "pre-build", "success", 2900, "RUN apt-get update"), step(4, "recipe", "success", 12000, "RUN make\n  install")},
	}
	running := func() *scene {
		return newScene(earlier).state("pending").after(time.Second).state("running").line("pre-build", 0, "system", "base minimal on host h").
			after(4*time.Second).line("recipe", 4, "system", "RUN make\n  install").state("running", steps(step(4, "recipe", "running", 0, "RUN make\n  install"))...)
	}
	output := func(s *scene) *scene {
		return s.line("recipe", 4, "stdout", "cc\t-o main.o").line("recipe", 4, "stderr", "\x1b[31mwarning\x1b[0m: \x1b]0;owned\x07unused").
			line("recipe", 4, "stdout", "10%\r50%\r99% 完成しました完成しました完成しました完成しました完成しました").line("recipe", 4, "stdout", "a\x08\x9b2Jb 👩‍🔬 e\u0301 \u202egnp").
			line("recipe", 4, "stdout", "ld main").line("recipe", 4, "stdout", "strip main")
	}
	exit := int32(2)
	bad := step(4, "recipe", "failed", 5200, "RUN make\n  install")
	bad.Exit = &exit
	failed := output(running()).after(9200 * time.Millisecond)
	failed.line("recipe", 4, "system", "recipe step 4 failed: exit code 2")
	failed.build.Error = &lehrv1.BuildError{Code: "step_failed", Step: proto.Int32(4)}
	started := []*lehrv1.BuildStep{step(4, "recipe", "running", 0, "START exec python3 server.py")}
	health := func() *scene {
		return newScene(nil).state("running").after(5*time.Second).line("recipe", 4, "system", "START exec python3 server.py").
			line("recipe", 4, "stdout", "listening").after(6*time.Second).line("healthcheck", 0, "system", "curl -f localhost:8000").
			line("healthcheck", 0, "stderr", "curl: (7) refused").line("healthcheck", 0, "system", "probe 1 failed: exit code 7: curl: (7) refused").
			after(7*time.Second).state("running", steps(started...)...)
	}
	ill := health().after(66 * time.Second)
	ill.build.Error = &lehrv1.BuildError{Code: "healthcheck_failed", Phase: proto.String("healthcheck")}
	lost := running()
	lost.after(20 * time.Second).build.Attempt = 2
	lost.line("pre-build", 0, "system", "attempt 2 begins on worker w")
	return map[string]*scene{
		"queued":    newScene(nil).state("pending").after(7 * time.Second),
		"preparing": newScene(nil).state("pending").after(2*time.Second).state("running").line("pre-build", 0, "system", "making the base minimal, which is done once and takes about half a minute, on host h").after(90 * time.Second),
		"flattening": newScene(nil).state("running").line("recipe", 1, "system", "RUN x").state("running", step(1, "recipe", "success", 900, "RUN x")).
			line("recipe", 1, "system", "done after 900ms").after(5 * time.Second),
		"booting": newScene(nil).state("running").line("recipe", 1, "system", "RUN x").state("running", step(1, "recipe", "success", 900, "RUN x")).
			line("recipe", 1, "system", "image sha256:ab: 135.0 MB in 2.1s").after(5 * time.Second),
		"running":   output(running()).after(9 * time.Second),
		"failed":    failed.state("failed", steps(bad)...),
		"cancelled": output(running()).after(8*time.Second).state("cancelled", steps(step(4, "recipe", "cancelled", 4000, "RUN make\n  install"))...),
		"health":    health(),
		"unhealthy": ill.state("failed", steps(step(4, "recipe", "cancelled", 61000, "START exec python3 server.py"))...),
		"published": health().after(8*time.Second).line("publish", 0, "system", "snapshot sha256:ab: 31.0 MB in 200ms").after(8300*time.Millisecond).state("success", steps(step(4, "recipe", "success", 3300, "START exec python3 server.py"))...),
		"lost":      lost.state("running"),
		"warned":    running().line("recipe", 0, "system", "warning: recipe line 7: ENV has no effect"),
	}
}

// The pictures of every scene, wide and narrow, are kept in testdata; no line
// is wider than the terminal and no frame higher.
func TestPictures(t *testing.T) {
	t.Parallel()
	for name, s := range scenes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			for _, size := range [][2]int{{100, 20}, {80, 20}, {40, 20}, {40, 3}, {12, 2}} {
				width, height := size[0], size[1]
				lines := s.picture(View{}, width, height)
				fmt.Fprintf(&b, "== %d x %d\n%s\n", width, height, strings.Join(lines, "\n"))
				for _, line := range lines {
					if w := uniseg.StringWidth(line); w > width && !isNote(s, line) {
						t.Errorf("%d columns: %q takes %d", width, line, w)
					}
					if strings.ContainsAny(line, "\x1b\r\n\t\x07\x08\u009b\u202e") {
						t.Errorf("line %q can move the cursor", line)
					}
				}
				if n := len(View{}.Live(s.m, s.at, width, height)); n > height {
					t.Errorf("%d x %d: %d live lines", width, height, n)
				}
			}
			golden(t, name, b.Bytes())
		})
	}
}

// isNote reports whether a line is a word of the command, which wraps.
func isNote(s *scene, line string) bool {
	return slices.ContainsFunc(s.m.settled, func(it Item) bool { return it.stage == nil && it.note == line })
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

// Colours are added and take no room; without UTF-8 nothing but ASCII is drawn.
func TestStyles(t *testing.T) {
	t.Parallel()
	for name, s := range scenes() {
		plain := strings.Join(s.picture(View{}, 80, 20), "\n")
		colored := strings.Join(s.picture(View{style: style{color: true}}, 80, 20), "\n")
		var bare []string
		for line := range strings.SplitSeq(colored, "\n") {
			bare = append(bare, Clean(line))
		}
		if d := cmp.Diff(plain, strings.Join(bare, "\n")); d != "" {
			t.Errorf("%s: colours change the text:\n%s", name, d)
		}
		if colored == plain {
			t.Errorf("%s: no colour", name)
		}
		for _, r := range strings.Join(s.picture(View{style: style{ascii: true}}, 80, 20), "\n") {
			if r > 127 {
				t.Errorf("%s: %q is drawn where only ASCII can be", name, r)
				break
			}
		}
	}
}

// A build of thousands of steps keeps its picture small, and what a hostile
// server says of step numbers takes no memory.
func TestManySteps(t *testing.T) {
	t.Parallel()
	s := newScene(nil).state("running")
	for n := int32(1); n <= 3000; n++ {
		s.line("recipe", n, "system", fmt.Sprint("RUN ", n))
	}
	s.line("recipe", 1<<30, "stdout", "x").line("recipe", -4, "stdout", "x")
	if n := len(View{}.Live(s.m, s.at, 80, 12)); n > 12 {
		t.Errorf("Live() of 3000 steps = %d lines, want at most 12", n)
	}
	if n := len(s.m.steps); n != 3000 {
		t.Errorf("steps = %d, want 3000", n)
	}
}

// The clocks of server and terminal may differ; elapsed times do not.
func TestSkewedClock(t *testing.T) {
	t.Parallel()
	s := newScene(nil)
	ours := s.at.Add(-time.Hour)
	s.m.State(s.build, ours)
	s.at = s.began.Add(time.Second)
	s.m.Line(&lehrv1.LogLine{Attempt: 1, Time: timestamppb.New(s.at), Phase: "recipe", Step: 1, Stream: "system", Text: "RUN x"}, ours.Add(time.Second))
	lines := View{}.Live(s.m, ours.Add(4*time.Second), 60, 10)
	if !strings.HasSuffix(lines[0], "3.0s") {
		t.Errorf("running step = %q, want 3.0s elapsed", lines[0])
	}
}

// What was drawn stays drawn: steps settle once, in order.
func TestSettlesOnce(t *testing.T) {
	t.Parallel()
	s := newScene(nil).state("running", step(2, "recipe", "success", 1, "RUN b"))
	if got := s.m.Take(); len(got) != 0 {
		t.Errorf("Take() = %d items while step 1 is not known, want none", len(got))
	}
	s.state("running", step(1, "recipe", "success", 1, "RUN a"), step(2, "recipe", "success", 1, "RUN b"))
	if got := s.m.Take(); len(got) != 2 || got[0].stage.n != 1 {
		t.Errorf("Take() = %v, want steps 1 and 2", got)
	}
	s.state("success", step(1, "recipe", "success", 1, "RUN a"), step(2, "recipe", "success", 1, "RUN b")).state("success")
	if got := s.m.Take(); len(got) != 0 {
		t.Errorf("Take() = %v, want nothing twice", got)
	}
}

// The build is asked for while its log is read: that a step has failed may be
// known before what it said.
func TestFailureHeardBeforeItsOutput(t *testing.T) {
	t.Parallel()
	failed := step(1, "recipe", "failed", 1, "RUN a")
	s := newScene(nil).state("running", failed).line("recipe", 1, "system", "RUN a").line("recipe", 1, "stdout", "why it failed")
	s.state("failed", failed)
	if got := strings.Join(s.picture(View{}, 40, 10), "\n"); !strings.Contains(got, "│ why it failed") || !strings.Contains(got, "✗ #1 RUN a") {
		t.Errorf("the picture is\n%s\nwant the failed step with what it said", got)
	}
}
