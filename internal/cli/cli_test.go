package cli

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/lehr-dev/lehr/internal/errs"
)

var update = flag.Bool("update", false, "write the golden files")

func TestHelpIsGolden(t *testing.T) {
	t.Parallel()
	const golden = "testdata/help.txt"
	got := newCommand("--help").run(t).ends(ExitOK).stdout
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("lehr --help = %s\nwant %s\n(go test ./internal/cli -update)", got, want)
	}
	if bare := newCommand().run(t).ends(ExitOK).stdout; bare != got {
		t.Errorf("lehr alone prints %q, want the help", bare)
	}
}

// Every command says what it does, and each that does something shows how.
func TestEveryCommandHelps(t *testing.T) {
	t.Parallel()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short = %q, want a phrase", c.CommandPath(), c.Short)
		}
		if !c.HasSubCommands() && !c.Hidden && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			if !strings.Contains(line, "lehr ") || !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example %q, want an indented call of lehr", c.CommandPath(), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.HasSubCommands() && c.HasParent() {
			help := newCommand(append(strings.Fields(c.CommandPath())[1:], "--help")...).run(t).ends(ExitOK).stdout
			if strings.Contains(help, c.CommandPath()+" [flags]") {
				t.Errorf("%s --help = %q, want no usage without a command", c.CommandPath(), help)
			}
		}
	}
	walk((&app{}).root())
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"biuld":                      `unknown command "biuld" for "lehr"; did you mean build?`,
		"nonsense":                   `unknown command "nonsense" for "lehr"`,
		"builds cancle":              `unknown command "cancle" for "lehr builds"; did you mean cancel?`,
		"builds get":                 "lehr builds get wants BUILD",
		"builds ls x":                `lehr builds ls takes no argument "x"`,
		"builds ls --nonsense":       "unknown flag: --nonsense",
		"builds ls --limit x":        "--limit",
		"builds ls -o yaml":          `--output "yaml": want table or json`,
		"sandbox kill":               "lehr sandbox kill wants at least one SANDBOX",
		"keys create":                "lehr keys create wants NAME",
		"up --workers 0":             "--workers",
		"up --data= --log-level x":   "--data: is empty; --log-level",
		"agent":                      "not supported",
		"sandbox create a --ttl x":   "--ttl",
		"version x":                  "takes no argument",
		"templates rm":               "at least one TEMPLATE",
		"build -t x -f /dev/null/no": "no recipe file",
	} {
		r := newCommand(strings.Fields(line)...).run(t)
		if line == "build -t x -f /dev/null/no" { // not a folder: unreadable, not missing
			r.ends(ExitRefused, "cannot be read")
			continue
		}
		r.ends(ExitUsage, want)
		if r.stdout != "" || strings.Contains(r.stderr, "Usage:") {
			t.Errorf("lehr %s prints %q and %q, want one message", line, r.stdout, r.stderr)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	var v struct{ Version, Platform, Go string }
	newCommand("version", "-o", "json").run(t).ends(ExitOK).document(&v)
	newCommand("version").run(t).ends(ExitOK).prints("lehr " + v.Version + " (" + v.Platform)
	newCommand("--version").run(t).ends(ExitOK).prints("lehr " + v.Version)
}

// Which server and key are used, and what is said where there is none.
func TestServerIsFound(t *testing.T) {
	t.Parallel()
	empty := map[string]string{"XDG_STATE_HOME": t.TempDir()}
	c := newCommand("builds", "ls")
	c.env.LookupEnv = environment(empty)
	c.run(t).ends(ExitRefused, "no server is running", "[server_missing]", "lehr up")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	c = newCommand("builds", "ls")
	c.env.LookupEnv = environment(map[string]string{"LEHR_URL": "http://" + l.Addr().String(), "LEHR_API_KEY": "x"})
	c.run(t).ends(ExitPlatform, "does not answer", "lehr up")

	c = newCommand("builds", "ls")
	c.env.LookupEnv = environment(map[string]string{"LEHR_URL": "elsewhere", "LEHR_API_KEY": "x"})
	c.run(t).ends(ExitUsage, "http://HOST:PORT")

	w := newWorld(t, nil)
	w.key = "lehr_" + strings.Repeat("0", 40)
	w.run("builds", "ls").ends(ExitRefused, "[key_invalid]", "lehr keys")
}

// The key goes to the server that was named and nowhere else.
func TestRedirectDoesNotTakeTheKeyAway(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect took the key to another server: %q", r.Header.Get("X-API-Key"))
	}))
	t.Cleanup(elsewhere.Close)
	moved := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(moved.Close)
	c := newCommand("builds", "ls")
	c.env.LookupEnv = environment(map[string]string{"LEHR_URL": moved.URL, "LEHR_API_KEY": "secret"})
	c.run(t).ends(ExitPlatform)
}

func TestCodeOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want int
	}{
		{usage("x"), ExitUsage},
		{fmt.Errorf("w: %w", usage("x")), ExitUsage},
		{errors.New("unknown command of a server"), ExitPlatform},
		{errs.New(errs.Invalid, "x"), ExitRefused},
		{errs.New(errs.Exhausted, "x"), ExitRefused},
		{errs.New(errs.Cancelled, "x"), ExitCancelled},
		{errs.New(errs.Unavailable, "x"), ExitPlatform},
		{errs.New(errs.Corrupt, "x"), ExitPlatform},
		{connect.NewError(connect.CodeNotFound, nil), ExitRefused},
		{connect.NewError(connect.CodeResourceExhausted, nil), ExitRefused},
		{connect.NewError(connect.CodeCanceled, nil), ExitCancelled},
		{connect.NewError(connect.CodeUnavailable, nil), ExitPlatform},
		{connect.NewError(connect.CodeUnknown, nil), ExitPlatform},
	} {
		if got := codeOf(tt.err); got != tt.want {
			t.Errorf("codeOf(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestWalk(t *testing.T) {
	t.Parallel()
	all := make([]int, 450)
	for i := range all {
		all[i] = i
	}
	var asked []int32
	server := func(limit int32, cursor string) ([]int, string, error) {
		asked = append(asked, limit)
		from := 0
		if cursor != "" {
			fmt.Sscan(cursor, &from)
		}
		to := min(from+int(limit), len(all))
		next := ""
		if to < len(all) {
			next = fmt.Sprint(to)
		}
		return all[from:to], next, nil
	}
	var got []int
	see := func(list []int) error { got = append(got, list...); return nil }
	for _, tt := range []struct {
		most, want int
		asked      []int32
	}{
		{0, 450, []int32{200, 200, 200}}, {1, 1, []int32{1}}, {200, 200, []int32{200}}, {201, 201, []int32{200, 1}}, {9999, 450, []int32{200, 200, 200}},
	} {
		asked, got = nil, nil
		if err := walk(tt.most, server, see); err != nil || !slices.Equal(got, all[:tt.want]) || !slices.Equal(asked, tt.asked) {
			t.Errorf("walk(%d) = %d elements, %v, asking %v; want %d, asking %v", tt.most, len(got), err, asked, tt.want, tt.asked)
		}
	}
	asked = nil
	if err := walk(0, server, func([]int) error { return errEnough }); err != nil || len(asked) != 1 {
		t.Errorf("walk that had enough = %v, asking %v, want nil and one page", err, asked)
	}
	if err := walk(-1, server, see); codeOf(err) != ExitUsage {
		t.Errorf("walk(-1) = %v, want a usage error", err)
	}
	stuck := func(int32, string) ([]int, string, error) { return nil, "again", nil }
	if err := walk(0, stuck, see); err == nil {
		t.Error("walk through a list that does not go on = nil, want an error")
	}
	refused := errors.New("refused")
	if err := walk(0, func(int32, string) ([]int, string, error) { return nil, "", refused }, see); !errors.Is(err, refused) {
		t.Errorf("walk = %v, want the server's error", err)
	}
}
