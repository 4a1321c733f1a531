package recipe

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/lehr-dev/lehr/internal/errs"
)

// seeds are the texts of the other tests, goldens included.
func seeds(f *testing.F) []string {
	f.Helper()
	paths, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	texts := slices.Clone(cutCases)
	for _, path := range paths {
		ar, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		texts = append(texts, string(ar.Files[0].Data))
	}
	return texts
}

// FuzzSplit holds the cutter to BuildKit's parser, and the two forms to each
// other, on any text.
func FuzzSplit(f *testing.F) {
	for _, text := range seeds(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 || checkText(text) != nil {
			return
		}
		bothForms(t, text)
		if strings.Contains(strings.ToUpper(text), "START") || strings.Count(text, "${") > maxHeredocSubstitutions {
			return // BuildKit does not know START, and we bound what it does not
		}
		agree(t, text)
	})
}

// FuzzParseRecipe looks for panics and for problems without what a user needs.
func FuzzParseRecipe(f *testing.F) {
	for _, text := range seeds(f) {
		f.Add(text, "RUN a\nb")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if len(a)+len(b) > 8192 {
			return
		}
		r, err := ParseRecipe([]string{a, b})
		checkProblems(t, err)
		for _, ins := range r.Instructions {
			if ins.Body == nil || ins.Line < 1 || ins.Line > 2 || ins.Cmd == "" {
				t.Errorf("ParseRecipe(%q, %q) instruction = %+v", a, b, ins)
			}
			if c, ok := ins.Body.(Command); ok && c.Empty() && ins.Keyword == KeywordRun {
				t.Errorf("ParseRecipe(%q, %q): empty RUN", a, b)
			}
		}
	})
}

// FuzzParseHealthcheck looks for accepted values that would break the loop that
// probes, and for a parameter that means something else than the instruction.
func FuzzParseHealthcheck(f *testing.F) {
	for _, s := range []string{
		"curl  'a  b'", "--interval=0s x", "--retries=-1 x", `CMD ["a"]`, "NONE", "--timeout=1ms CMD\nx", "# x", "a \\\n# b\nc",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 4096 {
			return
		}
		h, err := ParseHealthcheck(s)
		checkProblems(t, err)
		if err != nil || h.Off {
			return
		}
		if h.Interval <= 0 || h.Timeout <= 0 || h.StartPeriod < 0 || h.Retries < 0 || h.Command.Empty() {
			t.Errorf("ParseHealthcheck(%q) = %+v", s, h)
		}
	})
}

func checkProblems(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	ps, ok := err.(Problems)
	if !ok || len(ps) == 0 {
		t.Fatalf("error = %#v, want Problems", err)
	}
	for _, p := range ps {
		if p.Code == "" || p.Message == "" || p.Kind == "" || p.Field == "" {
			t.Errorf("problem = %+v, want code, message, kind and field", p)
		}
	}
	var e *errs.Error
	if !errors.As(err, &e) || e.Message == "" {
		t.Errorf("errors.As(%v) = %v", err, e)
	}
}
