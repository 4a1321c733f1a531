package recipe

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
)

func TestProblemsAsError(t *testing.T) {
	t.Parallel()
	_, single := ParseRecipe([]string{"RUN a", "COPY a b"})
	_, mixed := ParseRecipe([]string{"COPY a b", "RNU x"})
	_, unsupported := ParseRecipe([]string{"COPY a b", "ADD a b"})
	_, check := ParseHealthcheck("--retries=-1 true")
	tests := []struct {
		name  string
		err   error
		kind  errs.Kind
		code  string
		field string
	}{
		{"one", single, errs.Unsupported, "copy_unsupported", "recipe"},
		{"mixed", mixed, errs.Invalid, CodeSeveral, "recipe"},
		{"all unsupported", unsupported, errs.Unsupported, CodeSeveral, "recipe"},
		{"healthcheck", check, errs.Invalid, "number_invalid", "healthcheck"},
		{"joined", Join(nil, single, check), errs.Invalid, CodeSeveral, ""},
		{"wrapped", fmt.Errorf("create: %w", single), errs.Unsupported, "copy_unsupported", "recipe"},
		{"joined with another", Join(single, errs.New(errs.NotFound, "no base").WithCode("base")), errs.Invalid, CodeSeveral, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var e *errs.Error
			if !errors.As(tt.err, &e) || e.Kind != tt.kind || e.Code != tt.code || e.Field != tt.field {
				t.Errorf("error = %#v, want %s %s of field %q", e, tt.kind, tt.code, tt.field)
			}
		})
	}
	if got, want := single.Error(), "recipe line 2: COPY is not supported yet"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if got := mixed.Error(); !strings.Contains(got, "\n  recipe line 1: COPY") || !strings.Contains(got, "\n  recipe line 2: unknown") {
		t.Errorf("Error() = %q, want both lines", got)
	}
	if err := Join(nil, Problems(nil).Err()); err != nil {
		t.Errorf("Join(nil) = %v, want nil", err)
	}
}

func TestManyProblemsAreCut(t *testing.T) {
	t.Parallel()
	_, err := ParseRecipe(make([]string, 500))
	if n := strings.Count(err.Error(), "\n"); n != maxReported+1 {
		t.Errorf("Error() has %d lines behind the first, want %d", n, maxReported+1)
	}
	if ps, _ := err.(Problems); len(ps) != 500 {
		t.Errorf("problems = %d, want all 500", len(ps))
	}
}
