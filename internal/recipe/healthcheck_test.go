package recipe

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
)

func TestParseHealthcheck(t *testing.T) {
	t.Parallel()
	check := func(script string, argv ...string) Healthcheck {
		return Healthcheck{Interval: 3 * time.Second, Timeout: 10 * time.Second, Command: Command{Script: script, Argv: argv}}
	}
	all := check("curl -sf http://127.0.0.1:8888/api/status")
	all.Interval, all.Timeout, all.StartPeriod, all.Retries = 5*time.Second, 5*time.Second, time.Minute, 5
	fast := check("true")
	fast.Interval, fast.Timeout, fast.StartPeriod = 50*time.Millisecond, 1500*time.Millisecond, 0
	ignored := check("true")
	ignored.IgnoredStartInterval = true
	tests := []struct {
		in   string
		want Healthcheck
	}{
		{"curl localhost", check("curl localhost")},
		{"CMD curl localhost", check("curl localhost")},
		{"cmd   curl localhost", check("curl localhost")},
		{"CMD\ncurl localhost", check("curl localhost")},
		{"--interval=5s --timeout=5s --start-period=60s --retries=5 curl -sf http://127.0.0.1:8888/api/status", all},
		{"--interval=5s --timeout=5s --start-period=1m --retries=5 CMD curl -sf http://127.0.0.1:8888/api/status", all},
		{"--interval=50ms --timeout=1.5s --start-period=0 --retries=0 true", fast},
		{`--interval="50ms" --timeout=1.5s true`, fast},
		{`test "$(cat  'a  b')" = "x  y"`, check(`test "$(cat  'a  b')" = "x  y"`)},
		{"  grep  -q\t'a  b'   f  ", check("grep  -q\t'a  b'   f")},
		{"sh -c 'a  \n  b'", check("sh -c 'a  \n  b'")},
		{`["curl", "-f", "a  b"]`, check("", "curl", "-f", "a  b")},
		{`CMD ["curl", "-f", "a  b"]`, check("", "curl", "-f", "a  b")},
		{`--retries=0 CMD ["curl"]`, check("", "curl")},
		{"[ -f /ready ]", check("[ -f /ready ]")},
		{"CMD [ -f /ready ]", check("[ -f /ready ]")},
		{"[ -f /ready ] && cat <<EOF", check("[ -f /ready ] && cat <<EOF")},
		{"cat <<EOF\nx\nEOF", check("cat <<EOF\nx\nEOF")},
		{"-- --odd", check("--odd")},
		{"echo $HOME ${x:?y}", check("echo $HOME ${x:?y}")},
		{"NONE", Healthcheck{Off: true}},
		{"none", Healthcheck{Off: true}},
		{"nonesuch", check("nonesuch")},
		{"cmdline", check("cmdline")},
		{"--start-interval=1s true", ignored},
	}
	for _, tt := range tests {
		got, err := ParseHealthcheck(tt.in)
		if err != nil {
			t.Errorf("ParseHealthcheck(%q) error = %v", tt.in, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("ParseHealthcheck(%q) (-want +got):\n%s", tt.in, diff)
		}
		r, err := ParseRecipe([]string{"HEALTHCHECK " + tt.in})
		if err != nil {
			t.Errorf("HEALTHCHECK %q error = %v", tt.in, err)
			continue
		}
		if diff := cmp.Diff(got, r.Instructions[0].Body); diff != "" {
			t.Errorf("parameter and instruction differ for %q (-parameter +instruction):\n%s", tt.in, diff)
		}
	}
}

func TestParseHealthcheckRefusals(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, code string }{
		{"", "healthcheck_invalid"},
		{"   \n", "healthcheck_invalid"},
		{"CMD", "healthcheck_invalid"},
		{"[]", "healthcheck_invalid"},
		{"CMD []", "healthcheck_invalid"},
		{`[""]`, "healthcheck_invalid"},
		{"[1]", "syntax"},
		{"--interval=1s", "healthcheck_invalid"},
		{"--interval=0s true", "duration_invalid"},
		{"--interval=0 true", "duration_invalid"},
		{"--interval=-1s true", "duration_invalid"},
		{"--interval=1us true", "duration_invalid"},
		{"--timeout=0s true", "duration_invalid"},
		{"--timeout=-5s true", "duration_invalid"},
		{"--start-period=-1s true", "duration_invalid"},
		{"--interval=30 true", "duration_invalid"},
		{"--interval=soon true", "duration_invalid"},
		{"--interval=9999999h true", "duration_invalid"},
		{"--retries=-1 true", "number_invalid"},
		{"--retries=many true", "number_invalid"},
		{"--retries=1.5 true", "number_invalid"},
		{"--retries=99999999999 true", "number_invalid"},
		{"--retries= true", "flag_invalid"},
		{"--retries 3 true", "flag_invalid"},
		{"--interval true", "flag_invalid"},
		{"--retries=1 --retries=2 true", "flag_invalid"},
		{"--tries=3 true", "flag_unknown"},
		{"--Interval=3s true", "flag_unknown"},
		{"NONE true", "healthcheck_invalid"},
		{"--retries=1 NONE", "healthcheck_invalid"},
		{"HEALTHCHECK true", "healthcheck_invalid"},
		{"tr\x00ue", "nul_byte"},
		{"\xff", "invalid_utf8"},
	}
	for _, tt := range tests {
		_, err := ParseHealthcheck(tt.in)
		var e *errs.Error
		if !errors.As(err, &e) || e.Code != tt.code || e.Kind != errs.Invalid || e.Field != "healthcheck" {
			t.Errorf("ParseHealthcheck(%q) error = %#v, want invalid %s of field healthcheck", tt.in, e, tt.code)
		}
	}
}
