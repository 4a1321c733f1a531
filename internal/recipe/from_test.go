package recipe

import (
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
)

func TestBase(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text, base string
		args             map[string]string
		want             string
	}{
		{"neither", "RUN a", "", nil, "minimal"},
		{"FROM", "FROM Debian:Bookworm\nRUN a", "", nil, "debian:bookworm"},
		{"FROM with a name", "FROM debian AS x", "", nil, "debian"},
		{"team", "FROM ops/python:3.13", "", nil, "ops/python:3.13"},
		{"name with dots", "FROM python3.13", "", nil, "python3.13"},
		{"request", "RUN a", "ops/python", nil, "ops/python"},
		{"both the same", "FROM python", "python:default", nil, "python"},
		{"default of an ARG", "ARG V=1\nARG NAME=py$V\nFROM ${NAME}:${TAG:-x}", "", nil, "py1:x"},
		{"build argument", "ARG V=1\nFROM py:$V", "", map[string]string{"V": "2"}, "py:2"},
		{"platform", "FROM --platform=linux/amd64 py", "", nil, "py"},
		{"predefined platform", "FROM --platform=$BUILDPLATFORM py:$TARGETARCH", "", nil, "py:amd64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := ParseFile(tt.text)
			if err != nil {
				t.Fatalf("ParseFile() error = %v", err)
			}
			if got, err := r.Base(tt.base, "", tt.args); err != nil || got.String() != tt.want {
				t.Errorf("Base(%q) = %s, %v, want %s", tt.base, got, err, tt.want)
			}
		})
	}
}

func TestBaseRefusals(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text, base string
		kind             errs.Kind
		code, field      string
	}{
		{"both and different", "FROM a", "b", errs.Invalid, "base_conflict", "recipe"},
		{"tags differ", "FROM a:1", "a", errs.Invalid, "base_conflict", "recipe"},
		{"unset variable", "ARG X\nFROM $X", "", errs.Invalid, "from_invalid", "recipe"},
		{"variable of the body", "ARG X\nFROM a:$Y\nARG Y=1", "", errs.Invalid, "from_invalid", "recipe"},
		{"image behind a variable", "ARG R=ghcr.io/X\nFROM $R/y", "", errs.Invalid, "from_invalid", "recipe"},
		{"scratch", "RUN a", "scratch", errs.Unsupported, "from_scratch", "base_template"},
		{"path", "RUN a", "../x", errs.Invalid, "from_invalid", "base_template"},
		{"URL", "RUN a", "https://ghcr.io/x/y", errs.Invalid, "from_invalid", "base_template"},
		{"short digest", "RUN a", "python@sha256:ab", errs.Invalid, "from_invalid", "base_template"},
		{"login in the name", "RUN a", "me:secret@ghcr.io/x/y", errs.Invalid, "from_invalid", "base_template"},
		{"images differ", "FROM ghcr.io/x/y:1", "ghcr.io/x/y:2", errs.Invalid, "base_conflict", "recipe"},
		{"template and image", "FROM docker.io/library/python", "python", errs.Invalid, "base_conflict", "recipe"},
		{"another platform", "FROM --platform=linux/s390x a", "", errs.Unsupported, "platform_unsupported", "recipe"},
		{"required variable", "ARG X\nFROM ${X:?}", "", errs.Invalid, "expansion_invalid", "recipe"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := ParseFile(tt.text)
			if err != nil {
				t.Fatalf("ParseFile() error = %v", err)
			}
			_, err = r.Base(tt.base, "", nil)
			ps, _ := err.(Problems)
			if len(ps) != 1 || ps[0].Kind != tt.kind || ps[0].Code != tt.code || ps[0].Field != tt.field {
				t.Errorf("Base(%q) problems = %+v, want %s %s of %s", tt.base, ps, tt.kind, tt.code, tt.field)
			}
		})
	}
}

// What a name may mean: a template first, then an image as Docker reads it.
func TestBaseMeanings(t *testing.T) {
	t.Parallel()
	digest := "@sha256:" + strings.Repeat("ab", 32)
	for in, want := range map[string][3]string{ // shown, template, image
		"minimal":                         {"minimal", "minimal:default", ""},
		"minimal:x":                       {"minimal:x", "minimal:x", ""},
		"python:3.12":                     {"python:3.12", "python:3.12", "docker.io/library/python:3.12"},
		"python:default":                  {"python", "python:default", "docker.io/library/python:default"},
		"ops/python":                      {"ops/python", "ops/python:default", "docker.io/ops/python:latest"},
		"nginx:1.25-Alpine":               {"nginx:1.25-alpine", "nginx:1.25-alpine", "docker.io/library/nginx:1.25-Alpine"},
		"Web":                             {"web", "web:default", ""},
		"a/b/c":                           {"a/b/c", "", "docker.io/a/b/c:latest"},
		"python" + digest:                 {"python" + digest, "", "docker.io/library/python" + digest},
		"ghcr.io/x/y:Z":                   {"ghcr.io/x/y:Z", "", "ghcr.io/x/y:Z"},
		"localhost/x":                     {"localhost/x", "", "localhost/x:latest"},
		"127.0.0.1:5000/x":                {"127.0.0.1:5000/x", "", "127.0.0.1:5000/x:latest"},
		"someone__else/thing":             {"someone__else/thing", "someone__else/thing:default", "docker.io/someone__else/thing:latest"},
		"name." + strings.Repeat("x", 70): {"name." + strings.Repeat("x", 70), "", "docker.io/library/name." + strings.Repeat("x", 70) + ":latest"},
	} {
		got, p := parseBase(in)
		if p != nil {
			t.Errorf("parseBase(%q) = %v", in, p)
			continue
		}
		template, image := "", ""
		if got.Template.Name != "" {
			template = got.Template.String()
		}
		if got.Image.Repository != "" {
			image = got.Image.String()
		}
		if shown := [3]string{got.String(), template, image}; shown != want {
			t.Errorf("parseBase(%q) = %q, want %q", in, shown, want)
		}
	}
}
