package main

import (
	"strings"
	"testing"
)

const events = `{"Action":"output","Package":"p","Test":"TestA","Output":"hidden\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"why it failed\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC","Output":"    x_test.go:1: SKIP-ENV: no kernel feature\n"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"skip","Package":"p","Test":"TestD"}
{"Action":"output","Package":"p","Output":"FAIL p 1s\n"}
`

func TestTally(t *testing.T) {
	tl := &tally{output: map[string]*strings.Builder{}}
	var out strings.Builder
	if err := tl.read(strings.NewReader(events), &out); err != nil {
		t.Fatal(err)
	}
	if tl.passed != 1 || tl.failed != 1 || tl.skipped != 2 || len(tl.missing) != 1 {
		t.Errorf("tally = %+v, want 1 passed, 1 failed, 2 skipped, 1 missing", tl)
	}
	if got := out.String(); strings.Contains(got, "hidden") || !strings.Contains(got, "why it failed") || !strings.Contains(got, "FAIL p") {
		t.Errorf("output = %q, want the failed test's and the package's", got)
	}
	if code := tl.report(&out, 1); code != 1 {
		t.Errorf("report after a failure = %d, want 1", code)
	}
}

func TestSkippedSuitesFail(t *testing.T) {
	t.Setenv("LEHR_ALLOW_SKIPS", "")
	var out strings.Builder
	tl := &tally{passed: 1, missing: []string{"p TestC: no kernel feature"}}
	if code := tl.report(&out, 0); code != 1 || !strings.Contains(out.String(), "no kernel feature") {
		t.Errorf("report with a missing suite = %d %q, want 1 and the reason", code, out.String())
	}
	t.Setenv("LEHR_ALLOW_SKIPS", "1")
	if code := tl.report(&out, 0); code != 0 {
		t.Errorf("report with forgiven skips = %d, want 0", code)
	}
	if code := (&tally{}).report(&out, 0); code != 1 {
		t.Errorf("report without any test = %d, want 1", code)
	}
}
