package plan

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// TestTotalSteps holds the count that a build reports from its creation: one
// step for each instruction but FROM and what precedes it, four for pre- and
// post-build, one for an implicit start.
func TestTotalSteps(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		in         Input
		total      int
		boundary   int
	}{
		{"instructions and pre- and post-build", "RUN a\nENV A=1\nWORKDIR /x", Input{Base: MinimalConfig()}, 7, 7},
		{"skip_pre_post", "RUN a\nENV A=1\nWORKDIR /x", Input{Base: MinimalConfig(), SkipPrePost: true}, 3, 3},
		{"base without apt", "RUN a", Input{}, 1, 1},
		{"base without apt, counted", "RUN a", Input{AptCounted: true}, 5, 5},
		{"base with apt, counted", "RUN a", Input{Base: MinimalConfig(), AptCounted: true}, 5, 5},
		{"counted and skip_pre_post", "RUN a", Input{AptCounted: true, SkipPrePost: true}, 1, 1},
		{"FROM is no step", "ARG A\nFROM minimal\nRUN a", Input{Base: MinimalConfig()}, 5, 5},
		{"FROM alone", "FROM minimal", Input{Base: MinimalConfig()}, 4, 4},
		{"start", "RUN a\nSTART b\nRUN c", Input{Base: MinimalConfig()}, 7, 5},
		{"start first", "START b", Input{}, 1, 0},
		{"implicit start", "CMD a\nHEALTHCHECK b", Input{Base: MinimalConfig()}, 7, 6},
		{"CMD beside START", "CMD a\nSTART c\nHEALTHCHECK b", Input{}, 3, 1},
		{"CMD without a healthcheck", "CMD a", Input{}, 1, 1},
		{"emptied CMD", "CMD []\nHEALTHCHECK b", Input{Base: lehr.ImageConfig{Cmd: []string{"a"}}}, 2, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := fromFile(t, tt.text, tt.in)
			if p.TotalSteps() != tt.total || p.Boundary != tt.boundary {
				t.Errorf("TotalSteps(), Boundary = %d, %d, want %d, %d", p.TotalSteps(), p.Boundary, tt.total, tt.boundary)
			}
			if len(p.Before())+len(p.After()) != tt.total {
				t.Errorf("Before() and After() have %d and %d steps", len(p.Before()), len(p.After()))
			}
		})
	}
}

// TestLeftOutSteps are those that were counted for apt on a base without: they
// do nothing, change no key, and survive the stored form.
func TestLeftOutSteps(t *testing.T) {
	t.Parallel()
	digest := lehr.DigestOf([]byte("base"))
	p := fromFile(t, "RUN a", Input{AptCounted: true, BaseDigest: digest})
	plain := fromFile(t, "RUN a", Input{BaseDigest: digest})
	if p.VersionKey != plain.VersionKey || p.Config.Debian {
		t.Errorf("key %s, apt %v, want the key %s of the plan without them", p.VersionKey, p.Config.Debian, plain.VersionKey)
	}
	b, err := Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, all := range [][]Step{p.Steps, again.Steps} {
		for _, s := range all {
			if left := s.Skip == "the base has no apt"; left != (s.Phase != lehr.PhaseRecipe) || left == s.Acts() || left != (s.Kind == KindSkipped) {
				t.Errorf("step %+v, want it left out unless it is the recipe's", s)
			}
		}
	}
}

// TestDefaultEnvironment keeps the environment of the build out of the
// template's: only the base's and ENV are recorded.
func TestDefaultEnvironment(t *testing.T) {
	t.Parallel()
	p := fromFile(t, "ARG SECRET=1\nENV KEPT=$SECRET\nRUN a", Input{
		Base: MinimalConfig(), BuildArgs: map[string]string{"http_proxy": "http://u:password@h"},
	})
	want := []lehr.EnvVar{{Name: "PATH", Value: recipe.DefaultPath}, {Name: "KEPT", Value: "1"}}
	if diff := cmp.Diff(want, p.Config.Env); diff != "" {
		t.Errorf("Config.Env (-want +got):\n%s", diff)
	}
	run := p.Steps[3]
	if diff := cmp.Diff([]lehr.EnvVar{{Name: "http_proxy", Value: "http://u:password@h"}}, run.Proxy); diff != "" {
		t.Errorf("Proxy (-want +got):\n%s", diff)
	}
	encoded, err := Encode(p)
	if err != nil || strings.Contains(string(encoded), "password") {
		t.Errorf("Encode() = %s, %v, want no proxy in it", encoded, err)
	}
}

// TestInputUntouched makes sure that planning does not write into its input.
func TestInputUntouched(t *testing.T) {
	t.Parallel()
	base := MinimalConfig()
	base.Exposed = append(make([]string, 0, 8), "90/tcp")
	base.Labels = append(make([]lehr.EnvVar, 0, 8), lehr.EnvVar{Name: "a", Value: "1"})
	text := "ENV PATH=/x\nLABEL a=2 b=3\nEXPOSE 80 90\nRUN a\nCMD b"
	first := fromFile(t, text, Input{Base: base})
	if base.Env[0].Value != recipe.DefaultPath || base.Labels[0].Value != "1" || base.Exposed[0] != "90/tcp" {
		t.Errorf("base after Make() = %+v", base)
	}
	if diff := cmp.Diff(first, fromFile(t, text, Input{Base: base})); diff != "" {
		t.Errorf("the same input gives another plan (-first +second):\n%s", diff)
	}
}

// TestExpansionIsBounded holds words that would expand without end.
func TestExpansionIsBounded(t *testing.T) {
	t.Parallel()
	double := "ENV A=" + strings.Repeat("x", 1000) + "\n" + strings.Repeat("ENV A=$A$A\n", 64)
	wide := "ENV A=" + strings.Repeat("x", 60000) + "\nENV B=" + strings.Repeat("$A", 30000)
	replace := "ENV A=" + strings.Repeat("x", 60000) + "\nENV B=${A//x/" + strings.Repeat("y", 60000) + "}"
	many := "RUN a"
	for i := range recipe.MaxEnvVars + 1 {
		many += fmt.Sprintf("\nENV A%d=", i)
	}
	alternating := ""
	for i := range 900 {
		alternating += fmt.Sprintf("ENV A%d=%s\nRUN a\n", i, strings.Repeat("x", 100))
	}
	tests := []struct{ name, text, code string }{
		{"doubling", double, "env_too_large"},
		{"wide", wide, "expansion_too_large"},
		{"replacing", replace, "expansion_too_large"},
		{"many variables", many, "env_too_large"},
		{"many environments", alternating, "env_too_large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := recipe.ParseFile(tt.text)
			if err != nil {
				t.Fatalf("ParseFile() error = %v", err)
			}
			_, err = Make(Input{Recipe: r})
			var ps recipe.Problems
			if !errors.As(err, &ps) || ps[0].Code != tt.code {
				t.Errorf("Make() error = %.200v, want code %s", err, tt.code)
			}
		})
	}
}

func TestReplaceAll(t *testing.T) {
	t.Parallel()
	p := fromFile(t, `ENV A=a/b/c
ENV B=${A//\//-} C=${A/b/x} D=${A//b/}e${A}`, Input{})
	want := []lehr.EnvVar{{Name: "B", Value: "a-b-c"}, {Name: "C", Value: "a/x/c"}, {Name: "D", Value: "a//cea/b/c"}}
	if diff := cmp.Diff(want, p.Config.Env[2:]); diff != "" {
		t.Errorf("Config.Env (-want +got):\n%s", diff)
	}
}

func TestMakeError(t *testing.T) {
	t.Parallel()
	r, err := recipe.ParseRecipe([]string{"RUN a", "USER a b"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Make(Input{Recipe: r})
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Invalid || e.Code != "user_invalid" || e.Field != "recipe" || e.Remedy == "" {
		t.Fatalf("Make() error = %#v, want invalid user_invalid of field recipe with a remedy", e)
	}
	if want := `recipe line 2: "a b": not the name of a user or group`; e.Message != want {
		t.Errorf("message = %q, want %q", e.Message, want)
	}
}

// FuzzMake looks for panics, and for plans that their stored form changes.
func FuzzMake(f *testing.F) {
	f.Add("ARG A=${B:-x}\nFROM minimal\nENV C=$A D='$E'\nRUN a\nSTART b", "true")
	f.Add("USER $A:b\nWORKDIR ${A%/*}\nEXPOSE 1-9/udp", "NONE")
	f.Add("CMD [\"a\"]\nENTRYPOINT b\nSHELL [\"c\"]\nLABEL x=$y", "")
	f.Fuzz(func(t *testing.T, text, check string) {
		if len(text) > 4096 {
			return
		}
		r, err := recipe.ParseFile(text)
		if err != nil {
			return
		}
		in := Input{Recipe: r, Base: MinimalConfig()}
		if h, err := recipe.ParseHealthcheck(check); err == nil {
			in.Healthcheck = &h
		}
		p, err := Make(in)
		if err != nil {
			return
		}
		one, err := Encode(p)
		if err != nil {
			t.Fatalf("Encode() error = %v", err)
		}
		again, err := Decode(one)
		if err != nil {
			t.Fatalf("Decode() error = %v", err)
		}
		two, err := Encode(again)
		if err != nil || string(one) != string(two) {
			t.Errorf("Encode(Decode(x)) = %s, %v, want %s", two, err, one)
		}
	})
}

func BenchmarkMake(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			elements := make([]string, n)
			for i := range elements {
				elements[i] = fmt.Sprintf("RUN echo %d && true", i)
			}
			for b.Loop() {
				r, err := recipe.ParseRecipe(elements)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := Make(Input{Recipe: r, Base: MinimalConfig()}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
