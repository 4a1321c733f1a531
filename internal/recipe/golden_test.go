package recipe

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the goldens with what the code gives")

// TestInvalid holds every recipe in testdata/invalid to its problems: lines,
// kind, code, message and remedy, in both forms.
func TestInvalid(t *testing.T) {
	t.Parallel()
	goldens(t, "testdata/invalid/*.txtar", "problems", func(t *testing.T, text string) string {
		_, problems := bothForms(t, text)
		var b strings.Builder
		for _, p := range problems {
			fmt.Fprintf(&b, "%d-%d %s %s\n  %s\n", p.Line, p.EndLine, p.Kind, p.Code, p.Message)
			if p.Remedy != "" {
				fmt.Fprintf(&b, "  > %s\n", p.Remedy)
			}
		}
		return b.String()
	})
}

// TestWarnings holds every recipe in testdata/warnings to its warnings.
func TestWarnings(t *testing.T) {
	t.Parallel()
	goldens(t, "testdata/warnings/*.txtar", "warnings", func(t *testing.T, text string) string {
		r, problems := bothForms(t, text)
		if len(problems) > 0 {
			t.Errorf("problems = %v, want none", problems)
		}
		var b strings.Builder
		for _, w := range r.Warnings {
			fmt.Fprintf(&b, "%d-%d %s\n", w.Line, w.EndLine, w.Message)
		}
		return b.String()
	})
}

// goldens compares file "name" of each archive with what f makes of "recipe".
func goldens(t *testing.T, pattern, name string, f func(t *testing.T, text string) string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("Glob(%s) = %v, %v, want goldens", pattern, paths, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			golden(t, path, name, f)
		})
	}
}

func golden(t *testing.T, path, name string, f func(t *testing.T, text string) string) {
	t.Helper()
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, file := range ar.Files {
		files[file.Name] = string(file.Data)
	}
	got := f(t, files["recipe"])
	if *update {
		ar.Files = []txtar.File{{Name: "recipe", Data: []byte(files["recipe"])}, {Name: name, Data: []byte(got)}}
		if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(files[name], got); diff != "" {
		t.Errorf("%s of %s (-want +got), -update rewrites it:\n%s", name, path, diff)
	}
}
