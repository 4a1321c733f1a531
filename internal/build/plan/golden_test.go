package plan

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

var update = flag.Bool("update", false, "rewrite the goldens with what the code gives")

// request is the optional "input.json" of a golden.
type request struct {
	Base        *lehr.ImageConfig // MinimalConfig when absent
	Healthcheck string
	SkipPrePost bool
	BuildArgs   map[string]string
	Limits      *lehr.Limits // lehr.DefaultLimits when absent
	Platform    string
}

func (r request) input(t *testing.T) Input {
	t.Helper()
	in := Input{
		Base: MinimalConfig(), BaseDigest: lehr.DigestOf([]byte("base")), SkipPrePost: r.SkipPrePost,
		BuildArgs: r.BuildArgs, Limits: lehr.DefaultLimits, Platform: r.Platform,
	}
	if r.Base != nil {
		in.Base = *r.Base
	}
	if r.Limits != nil {
		in.Limits = *r.Limits
	}
	if r.Healthcheck != "" {
		h, err := recipe.ParseHealthcheck(r.Healthcheck)
		if err != nil {
			t.Fatalf("ParseHealthcheck(%q) error = %v", r.Healthcheck, err)
		}
		in.Healthcheck = &h
	}
	return in
}

// TestPlans holds every recipe in testdata to its plan, from both forms.
func TestPlans(t *testing.T) {
	t.Parallel()
	goldens(t, "testdata/*.txtar", "plan.json", func(t *testing.T, text string, in Input) string {
		p := fromFile(t, text, in)
		if diff := cmp.Diff(withoutLines(p), withoutLines(fromArray(t, text, in))); diff != "" {
			t.Errorf("plans of file and array differ (-file +array):\n%s", diff)
		}
		encoded, err := Encode(p)
		if err != nil {
			t.Fatalf("Encode() error = %v", err)
		}
		again, err := Decode(encoded)
		if err != nil {
			t.Fatalf("Decode() error = %v", err)
		}
		if diff := cmp.Diff(withoutProxy(p), again, emptyIsNil); diff != "" {
			t.Errorf("Decode(Encode(p)) differs (-p +decoded):\n%s", diff)
		}
		var b bytes.Buffer
		if err := json.Indent(&b, encoded, "", "\t"); err != nil {
			t.Fatal(err)
		}
		return b.String() + "\n"
	})
}

// TestInvalid holds every recipe in testdata/invalid to its problems.
func TestInvalid(t *testing.T) {
	t.Parallel()
	goldens(t, "testdata/invalid/*.txtar", "problems", func(t *testing.T, text string, in Input) string {
		r, err := recipe.ParseFile(text)
		if err != nil {
			t.Fatalf("ParseFile() error = %v", err)
		}
		in.Recipe = r
		_, err = Make(in)
		problems, _ := err.(recipe.Problems)
		var b strings.Builder
		for _, p := range problems {
			fmt.Fprintf(&b, "%s %d-%d %s %s\n  %s\n", p.Field, p.Line, p.EndLine, p.Kind, p.Code, p.Message)
			if p.Remedy != "" {
				fmt.Fprintf(&b, "  > %s\n", p.Remedy)
			}
		}
		return b.String()
	})
}

func fromFile(t *testing.T, text string, in Input) Plan {
	t.Helper()
	r, err := recipe.ParseFile(text)
	if err != nil {
		t.Fatalf("ParseFile() error = %v", err)
	}
	return mustMake(t, r, in)
}

func fromArray(t *testing.T, text string, in Input) Plan {
	t.Helper()
	elements, err := recipe.Split(text)
	if err != nil {
		t.Fatalf("Split() error = %v", err)
	}
	r, err := recipe.ParseRecipe(elements.Texts())
	if err != nil {
		t.Fatalf("ParseRecipe() error = %v", err)
	}
	return mustMake(t, r, in)
}

func mustMake(t *testing.T, r recipe.Recipe, in Input) Plan {
	t.Helper()
	in.Recipe = r
	p, err := Make(in)
	if err != nil {
		t.Fatalf("Make() error = %v", err)
	}
	return p
}

func withoutLines(p Plan) Plan {
	p.Steps = append([]Step(nil), p.Steps...)
	for i := range p.Steps {
		p.Steps[i].Line, p.Steps[i].EndLine = 0, 0
	}
	p.Warnings = append([]recipe.Warning(nil), p.Warnings...)
	for i := range p.Warnings {
		p.Warnings[i].Line, p.Warnings[i].EndLine = 0, 0
	}
	return p
}

func withoutProxy(p Plan) Plan {
	p.Steps = append([]Step(nil), p.Steps...)
	for i := range p.Steps {
		p.Steps[i].Proxy = nil
	}
	return p
}

// emptyIsNil takes an empty list for none, which JSON cannot tell apart.
var emptyIsNil = cmp.FilterValues(func(a, b []string) bool { return len(a) == 0 && len(b) == 0 },
	cmp.Comparer(func(_, _ []string) bool { return true }))

func goldens(t *testing.T, pattern, name string, f func(t *testing.T, text string, in Input) string) {
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

func golden(t *testing.T, path, name string, f func(t *testing.T, text string, in Input) string) {
	t.Helper()
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	var inputs []txtar.File
	for _, file := range ar.Files {
		files[file.Name] = file.Data
		if file.Name != name {
			inputs = append(inputs, file)
		}
	}
	var req request
	if in, ok := files["input.json"]; ok {
		if err := json.Unmarshal(in, &req); err != nil {
			t.Fatalf("input.json: %v", err)
		}
	}
	got := f(t, string(files["recipe"]), req.input(t))
	if *update {
		ar.Files = append(inputs, txtar.File{Name: name, Data: []byte(got)})
		if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(files[name]), got); diff != "" {
		t.Errorf("%s of %s (-want +got), -update rewrites it:\n%s", name, path, diff)
	}
}
