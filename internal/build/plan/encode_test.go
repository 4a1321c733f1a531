package plan

import (
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/errs"
)

func TestDecodeRefusals(t *testing.T) {
	t.Parallel()
	good, err := Encode(fromFile(t, "RUN a\nSTART b", Input{}))
	if err != nil {
		t.Fatal(err)
	}
	change := func(old, text string) string { return strings.Replace(string(good), old, text, 1) }
	tests := []struct {
		name, in string
		kind     errs.Kind
		code     string
	}{
		{"nothing", "", errs.Corrupt, "plan_corrupt"},
		{"cut off", string(good[:len(good)/2]), errs.Corrupt, "plan_corrupt"},
		{"no schema", "{}", errs.Unsupported, "plan_schema"},
		{"later schema", change(`"schema":1`, `"schema":2`), errs.Unsupported, "plan_schema"},
		{"boundary outside", change(`"boundary":1`, `"boundary":3`), errs.Corrupt, "plan_corrupt"},
		{"negative boundary", change(`"boundary":1`, `"boundary":-1`), errs.Corrupt, "plan_corrupt"},
		{"step's number", change(`"n":2`, `"n":3`), errs.Corrupt, "plan_corrupt"},
		{"no such environment", change(`"env":0`, `"env":7`), errs.Corrupt, "plan_corrupt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Decode([]byte(tt.in))
			if errs.KindOf(err) != tt.kind || errs.CodeOf(err) != tt.code {
				t.Errorf("Decode() error = %v, want %s %s", err, tt.kind, tt.code)
			}
		})
	}
}
