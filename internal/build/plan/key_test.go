package plan

import (
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// keyOf returns the key of the version that a recipe makes of a bare base.
func keyOf(t *testing.T, text string, change func(*Input)) lehr.Digest {
	t.Helper()
	in := Input{Base: lehr.ImageConfig{}, BaseDigest: lehr.DigestOf([]byte("base"))}
	if change != nil {
		change(&in)
	}
	return fromFile(t, text, in).VersionKey
}

// TestKeysFollowMeaning changes a recipe a little: the key changes exactly when
// the meaning does.
func TestKeysFollowMeaning(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, a, b string
		same       bool
	}{
		{"blanks around", "RUN a", "  run   a  ", true},
		{"comment", "RUN a \\\n b", "RUN a \\\n# why\n b", true},
		{"blank lines and lines' numbers", "RUN a\nRUN b", "# x\n\nRUN a\n\nRUN b", true},
		{"time limit", "RUN a", "RUN --timeout=5m a", true},
		{"order of variables", "ENV A=1 B=2\nRUN a\nENV A=1", "ENV A=1\nENV B=2\nRUN a", true},
		{"quoting of a value", "ENV A=\"x\"\nRUN a", "ENV A=x\nRUN a", true},
		{"way to a directory", "WORKDIR /a\nWORKDIR b\nRUN c", "WORKDIR /a\nWORKDIR /a/b/\nRUN c", true},
		{"exec form's blanks", `RUN ["a","b"]`, `RUN [ "a" , "b" ]`, true},
		{"unused argument before FROM", "ARG X=1\nFROM minimal\nRUN a", "ARG X=2\nFROM minimal\nRUN a", true},
		{"no effect", "RUN a", "VOLUME /x\nRUN a", true},

		{"command", "RUN a", "RUN b", false},
		{"blanks within", "RUN a b", "RUN a  b", false},
		{"exec and shell form", `RUN ["/bin/sh", "-c", "a", "x"]`, "RUN a x", false},
		{"arguments divided elsewhere", `RUN ["a b", "c"]`, `RUN ["a", "b c"]`, false},
		{"arguments joined", `RUN ["a", "b"]`, `RUN ["a b"]`, false},
		{"empty argument", `RUN ["a"]`, `RUN ["a", ""]`, false},
		{"variables divided elsewhere", "ENV AB=C\nRUN a", "ENV A=BC\nRUN a", false},
		{"value over two variables", "ENV A=1 B=2\nRUN a", "ENV A='1B=2'\nRUN a", false},
		{"line break in a value", "ENV A='1\\\nB=2'\nRUN a", "ENV A=1 B=2\nRUN a", false},
		{"argument", "ARG A=1\nRUN a", "ARG A=2\nRUN a", false},
		{"user", "RUN a", "RUN --user=1 a", false},
		{"user's group", "RUN --user=1 a", "RUN --user=1:1 a", false},
		{"user made", "USER app\nRUN a", "USER app2\nRUN a", false},
		{"directory", "RUN a", "WORKDIR /x\nRUN a", false},
		{"directory alone", "RUN a\nWORKDIR /x", "RUN a\nWORKDIR /y", false},
		{"directory's owner", "WORKDIR /x\nUSER 1", "USER 1\nWORKDIR /x", false},
		{"shell", "RUN a", `SHELL ["/bin/bash","-c"]` + "\nRUN a", false},
		{"shell divided elsewhere", `SHELL ["/bin/sh -c"]` + "\nRUN a", `SHELL ["/bin/sh","-c"]` + "\nRUN a", false},
		{"order of steps", "RUN a\nRUN b", "RUN b\nRUN a", false},
		{"one step more", "RUN a", "RUN a\nRUN a", false},
		{"steps joined", "RUN a\nRUN b", "RUN a; b", false},
		{"heredoc's data", "RUN <<E\n#!x\na\nE", "RUN <<E\n#!x\nb\nE", false},
		{"heredoc's name", "RUN <<E\n#!x\nE", "RUN <<F\n#!x\nF", false},
		{"run and start", "RUN a", "START a", false},
		{"place of start", "RUN a\nSTART b\nRUN c", "RUN a\nRUN c\nSTART b", false},
		{"label", "RUN a\nLABEL x=1", "RUN a\nLABEL x=2", false},
		{"environment of the version", "RUN a\nENV x=1", "RUN a\nENV x=2", false},
		{"start command", "RUN a\nCMD x", "RUN a\nENTRYPOINT x", false},
		{"start command's form", "RUN a\nCMD x", `CMD ["x"]` + "\nRUN a", false},
		{"port", "RUN a\nEXPOSE 1", "RUN a\nEXPOSE 1/udp", false},
		{"user of the version", "RUN a\nUSER 1", "RUN a", false},
		{"healthcheck", "START a", "START a\nHEALTHCHECK b", false},
		{"healthcheck's command", "START a\nHEALTHCHECK b", "START a\nHEALTHCHECK c", false},
		{"healthcheck's retries", "START a\nHEALTHCHECK b", "START a\nHEALTHCHECK --retries=1 b", false},
		{"healthcheck's form", "START a\nHEALTHCHECK b", `HEALTHCHECK ["b"]` + "\nSTART a", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := keyOf(t, tt.a, nil), keyOf(t, tt.b, nil)
			if (a == b) != tt.same {
				t.Errorf("keys of %q and %q equal = %v, want %v", tt.a, tt.b, a == b, tt.same)
			}
		})
	}
}

func TestKeysFollowInput(t *testing.T) {
	t.Parallel()
	const text = "ARG V\nRUN a\nCMD x"
	base := keyOf(t, text, nil)
	tests := []struct {
		name   string
		change func(*Input)
		same   bool
	}{
		{"limits", func(in *Input) { in.Limits = lehr.DefaultLimits }, true},
		{"proxy", func(in *Input) { in.BuildArgs = map[string]string{"HTTPS_PROXY": "http://u:p@h"} }, true},
		{"skipping what there is not", func(in *Input) { in.SkipPrePost = true }, true},
		{"base", func(in *Input) { in.BaseDigest = lehr.DigestOf([]byte("other")) }, false},
		{"base's environment", func(in *Input) { in.Base.Env = []lehr.EnvVar{{Name: "A", Value: "1"}} }, false},
		{"base's user", func(in *Input) { in.Base.User = "app" }, false},
		{"base's directory", func(in *Input) { in.Base.Workdir = "/x" }, false},
		{"base's label", func(in *Input) { in.Base.Labels = []lehr.EnvVar{{Name: "A", Value: "1"}} }, false},
		{"pre- and post-build", func(in *Input) { in.Base.Debian = true }, false},
		{"build argument", func(in *Input) { in.BuildArgs = map[string]string{"V": "1"} }, false},
		{"healthcheck", func(in *Input) { in.Healthcheck = mustCheck(t, "true") }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := keyOf(t, text, tt.change); (got == base) != tt.same {
				t.Errorf("key equal = %v, want %v", got == base, tt.same)
			}
		})
	}
}

// TestKeysArePrefixes holds the property that step caching rests on: what
// follows a step does not change its key.
func TestKeysArePrefixes(t *testing.T) {
	t.Parallel()
	lines := []string{"RUN a", "ENV A=1", "RUN b", "USER 1", "WORKDIR /x", "RUN c", "ARG B=2", "RUN d"}
	var before []Step
	for n := 1; n <= len(lines); n++ {
		p := fromFile(t, strings.Join(lines[:n], "\n"), Input{BaseDigest: lehr.DigestOf(nil)})
		for i, s := range before {
			if p.Steps[i].CacheKey != s.CacheKey {
				t.Errorf("with %d lines step %d has another key than before", n, s.N)
			}
		}
		before = p.Steps
	}
}

func TestWithBase(t *testing.T) {
	t.Parallel()
	in := Input{Base: MinimalConfig()}
	unknown := fromFile(t, "RUN a\nSTART b", in)
	in.BaseDigest = lehr.DigestOf([]byte("base"))
	want := fromFile(t, "RUN a\nSTART b", in)
	got := unknown.WithBase(in.BaseDigest)
	for i := range want.Steps {
		if got.Steps[i].CacheKey != want.Steps[i].CacheKey || unknown.Steps[i].CacheKey == want.Steps[i].CacheKey {
			t.Errorf("step %d: WithBase() key = %s, Make() = %s, before = %s", i+1,
				got.Steps[i].CacheKey, want.Steps[i].CacheKey, unknown.Steps[i].CacheKey)
		}
	}
	if got.VersionKey != want.VersionKey || got.BaseDigest != in.BaseDigest {
		t.Errorf("WithBase() version key = %s, want %s", got.VersionKey, want.VersionKey)
	}
}

func mustCheck(t *testing.T, s string) *recipe.Healthcheck {
	t.Helper()
	h, err := recipe.ParseHealthcheck(s)
	if err != nil {
		t.Fatalf("ParseHealthcheck(%q) error = %v", s, err)
	}
	return &h
}
