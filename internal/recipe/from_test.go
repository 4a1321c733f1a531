package recipe

import (
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
		{"neither", "RUN a", "", nil, "minimal:default"},
		{"FROM", "FROM Debian:Bookworm\nRUN a", "", nil, "debian:bookworm"},
		{"FROM with a name", "FROM debian AS x", "", nil, "debian:default"},
		{"team", "FROM ops/python:3.13", "", nil, "ops/python:3.13"},
		{"name with dots", "FROM python3.13", "", nil, "python3.13:default"},
		{"request", "RUN a", "ops/python", nil, "ops/python:default"},
		{"both the same", "FROM python", "python:default", nil, "python:default"},
		{"default of an ARG", "ARG V=1\nARG NAME=py$V\nFROM ${NAME}:${TAG:-x}", "", nil, "py1:x"},
		{"build argument", "ARG V=1\nFROM py:$V", "", map[string]string{"V": "2"}, "py:2"},
		{"platform", "FROM --platform=linux/amd64 py", "", nil, "py:default"},
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
		{"registry behind a variable", "ARG R=ghcr.io/x\nFROM $R/y", "", errs.Unsupported, "from_registry", "recipe"},
		{"scratch", "RUN a", "scratch", errs.Unsupported, "from_scratch", "base_template"},
		{"registry", "RUN a", "ghcr.io/x/y", errs.Unsupported, "from_registry", "base_template"},
		{"path", "RUN a", "../x", errs.Unsupported, "from_registry", "base_template"},
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
