package failpoint

import "testing"

// FuzzParse reads any text as a list of failpoints.
func FuzzParse(f *testing.F) {
	f.Add("create.after-insert=error")
	f.Add("a=b*c,,=,*")
	f.Add(string(CreateAfterInsert) + "=pause*3")
	f.Fuzz(func(t *testing.T, s string) {
		set, err := Parse(s)
		if err == nil && set == nil {
			t.Errorf("Parse(%q) = nothing and no error", s)
		}
	})
}
