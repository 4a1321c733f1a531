package recipe

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// cutCases are texts with something to trip over.
var cutCases = []string{
	"RUN a\nRUN b\n",
	"\ufeffRUN a",
	"RUN a \\\n  b \\  \n\n# comment\n  # another\n c\nRUN d",
	"RUN a \\",
	"RUN a \\\n",
	"RUN a \\\\\nRUN b",
	"\\\nRUN a",
	"# escape=`\nRUN a `\n b\nRUN c \\\nRUN d",
	"# syntax=docker/dockerfile:1\n# escape=`\nENV A=`$x",
	"# no directive\n# escape=`\nRUN a \\\n b",
	"\n# escape=`\nRUN a `\nRUN b",
	"RUN <<EOF\na\nRUN b\nEOF\nRUN c",
	"RUN <<A cat <<-B > /x\none\nA\n\ttwo\n\tB\nRUN c",
	"RUN <<'EOF'\n$a\nEOF\nRUN \"<<b\" c\nRUN d",
	"RUN [\"cat\", \"<<EOF\"]\nRUN b",
	"RUN --mount=type=bind [\"cat\", \"<<EOF\"]\nRUN b",
	"RUN [ -f x ] <<EOF\na\nEOF\nRUN b",
	"RUN 3<<EOF cat /dev/fd/3\na\nEOF\nRUN b",
	"RUN cat <<EOF | sort \\\n | uniq\nb\na\nEOF\nRUN b",
	"RUN cat <<EOF\r\na\r\nEOF\r\nRUN b\r\n",
	"RUN <<EOF\nEOF",
	"RUN echo $((1<<2))\nRUN b",
	"RUN echo '<<EOF\nRUN b",
	"COPY <<a <<b /x\n1\na\n2\nb\nRUN c",
	"ONBUILD RUN <<EOF\na\nEOF\nRUN b",
	"ENV A=<<EOF\nRUN b",
	"CMD cat <<EOF\nRUN b",
	"  run a\n\tRuN b",
	"\v\fRUN a\nRUN\tb\nRUN\vc",
}

func TestCutAgreesWithBuildKit(t *testing.T) {
	t.Parallel()
	for _, text := range cutCases {
		if !agree(t, text) {
			t.Errorf("BuildKit cannot parse %q, so it shows nothing", text)
		}
	}
}

// agree compares the cutter with BuildKit's parser on a text; it is false when
// BuildKit refuses it.
func agree(t *testing.T, text string) bool {
	t.Helper()
	res, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return false
	}
	type piece struct {
		Header     string
		Start, End int
	}
	var want, got []piece
	for _, n := range res.AST.Children {
		want = append(want, piece{n.Original, n.StartLine, n.EndLine})
	}
	chunks, problems := cutAll(text)
	for _, c := range chunks {
		got = append(got, piece{c.header, c.line, c.endLine})
	}
	if len(problems) > 0 {
		t.Errorf("cutAll(%q) problems = %v, want none: BuildKit reads it", text, problems)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cutAll(%q) differs from BuildKit (-want +got):\n%s", text, diff)
	}
	return true
}

func TestCutStart(t *testing.T) {
	t.Parallel()
	got, err := Split("START <<EOF\nRUN inner\nEOF\nstart [\"a\", \"<<b\"]\nSTART a \\\n b\n")
	if err != nil {
		t.Fatalf("Split() error = %v", err)
	}
	want := Elements{
		{"START <<EOF\nRUN inner\nEOF", 1, 3}, {"start [\"a\", \"<<b\"]", 4, 4}, {"START a \\\n b", 5, 6},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Split() (-want +got):\n%s", diff)
	}
}
