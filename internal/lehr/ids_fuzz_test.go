package lehr

import (
	"path/filepath"
	"strings"
	"testing"
)

// FuzzIDs wants what is taken for an id, a digest or a name to be harmless in
// paths, queries and messages, and to be kept as it was given.
func FuzzIDs(f *testing.F) {
	f.Add(string(NewBuildID()))
	f.Add(string(NewSandboxID()))
	f.Add("bld-../../../../../../etc/passw")
	f.Add("sb" + strings.Repeat("0", 26))
	f.Add("sha256:" + strings.Repeat("a", 64))
	f.Add("SHA256:" + strings.Repeat("A", 64))
	f.Add("sb00000000000000000000000000\n")
	f.Fuzz(func(t *testing.T, s string) {
		taken := map[string]error{}
		_, taken["build"] = ParseBuildID(s)
		_, taken["template"] = ParseTemplateID(s)
		_, taken["version"] = ParseVersionID(s)
		_, taken["host"] = ParseHostID(s)
		_, taken["team"] = ParseTeamID(s)
		_, taken["key"] = ParseKeyID(s)
		_, taken["sandbox"] = ParseSandboxID(s)
		as := 0
		for kind, err := range taken {
			if err == nil {
				as++
			} else if len(err.Error()) > 500 {
				t.Errorf("the refusal as %s has %d bytes", kind, len(err.Error()))
			}
		}
		if as > 1 {
			t.Errorf("%q is the id of %d kinds", s, as)
		}
		d, err := ParseDigest(s)
		if err == nil {
			as++
			if string(d) != s || len(d.Hex()) != 64 {
				t.Errorf("ParseDigest(%q) = %q", s, d)
			}
		}
		if as > 0 && (filepath.Base(s) != s || strings.ContainsAny(s, "/\\.% \x00\n'\"<>")) {
			t.Errorf("%q is taken for an id", s)
		}
	})
}
