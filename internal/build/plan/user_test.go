package plan

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lehr-dev/lehr/internal/recipe"
)

func TestParseAccount(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in      string
		want    account
		numeric bool
	}{
		{"app", account{"app", ""}, false},
		{"app:staff", account{"app", "staff"}, false},
		{"1000", account{"1000", ""}, true},
		{"1000:1000", account{"1000", "1000"}, true},
		{"0:0", account{"0", "0"}, true},
		{"1000:staff", account{"1000", "staff"}, false},
		{"app:0", account{"app", "0"}, false},
		{"4294967294", account{"4294967294", ""}, true},
		{"_apt", account{"_apt", ""}, false},
		{"first.last@example.com", account{"first.last@example.com", ""}, false},
	}
	for _, tt := range tests {
		got, err := parseAccount(tt.in)
		if err != nil || got != tt.want || got.numeric() != tt.numeric || got.String() != tt.in {
			t.Errorf("parseAccount(%q) = %+v (%v), %v, want %+v (%v)", tt.in, got, got.numeric(), err, tt.want, tt.numeric)
		}
	}
	for _, in := range []string{"", ":", "a:", ":a", "a:b:c", "a b", "a\nb", "-a", "a/b", "+1", "4294967295", "99999999999999999999", "$a", "a'b", "a;b"} {
		if got, err := parseAccount(in); err == nil {
			t.Errorf("parseAccount(%q) = %+v, want an error", in, got)
		}
	}
}

// TestUserArguments keeps names out of the text of the script.
func TestUserArguments(t *testing.T) {
	t.Parallel()
	p := fromFile(t, "USER app:staff", Input{})
	argv := p.Steps[0].Argv
	if len(argv) != 6 || argv[2] != userScript || argv[4] != "app" || argv[5] != "staff" {
		t.Errorf("Argv = %q, want the script and its arguments apart", argv)
	}
}

// TestUserScript runs the script in a root directory of busybox.
func TestUserScript(t *testing.T) {
	t.Parallel()
	const app = "app:x:7:7::/home/app:/bin/sh"
	tests := []struct {
		name        string
		user, group string
		passwd, grp string // added to root's
		output      string // what it says, in order
		wantPasswd  string // added to passwd
		wantGroup   string // added to group
	}{
		{"made", "app", "", "", "", "user app", "app:x:1000:1000::/home/app:/bin/sh\n", "app:x:1000:\n"},
		{"there", "app", "", app + "\n", "", "", "", ""},
		{"there without a line's end", "app", "", app, "", "", "", ""},
		{"root", "root", "root", "", "", "", "", ""},
		{"another without a line's end", "b", "", app, "", "user b", "\nb:x:1000:1000::/home/b:/bin/sh\n", "b:x:1000:\n"},
		{"the beginning of another", "ap", "", app + "\n", "", "user ap", "ap:x:1000:1000::/home/ap:/bin/sh\n", "ap:x:1000:\n"},
		{"a pattern is a name", "a.p", "", app + "\n", "", "user a.p", "a.p:x:1000:1000::/home/a.p:/bin/sh\n", "a.p:x:1000:\n"},
		{
			"next id", "b", "", "a:x:1005:5::/:/\nnobody:x:65534:5::/:/\nodd:x:01999:x::/:/\n", "g:x:1010:\n", "user b",
			"b:x:1011:1011::/home/b:/bin/sh\n", "b:x:1011:\n",
		},
		{"with a group", "app", "crew", "", "", "group crew,user app", "app:x:1001:1000::/home/app:/bin/sh\n", "crew:x:1000:\n"},
		{"with a group of its name", "app", "", "", "app:x:77:\n", "user app", "app:x:1000:77::/home/app:/bin/sh\n", ""},
		{"with a numeric group", "app", "55", "", "", "user app", "app:x:1000:55::/home/app:/bin/sh\n", ""},
		{"numeric with a group", "1234", "crew", "", "", "group crew", "", "crew:x:1000:\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := busyboxRoot(t)
			passwd := fileAdded(t, filepath.Join(root, "etc/passwd"), tt.passwd)
			group := fileAdded(t, filepath.Join(root, "etc/group"), tt.grp)
			var want string
			for _, what := range strings.FieldsFunc(tt.output, func(r rune) bool { return r == ',' }) {
				want += "warning: " + what + " did not exist and was created\n"
			}
			if got := runUserScript(t, root, tt.user, tt.group); got != want {
				t.Errorf("script says %q, want %q", got, want)
			}
			if got := passwd(); got != tt.wantPasswd {
				t.Errorf("added to passwd: %q, want %q", got, tt.wantPasswd)
			}
			if got := group(); got != tt.wantGroup {
				t.Errorf("added to group: %q, want %q", got, tt.wantGroup)
			}
			if got := runUserScript(t, root, tt.user, tt.group); got != "" {
				t.Errorf("script says %q the second time, want nothing", got)
			}
		})
	}
}

// busyboxRoot makes a root directory with a shell and little else.
func busyboxRoot(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-ENV: changing the root directory needs root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("SKIP-ENV: no busybox (Debian package busybox-static)")
	}
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "home", "dev"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// By a process of its own: a descriptor of ours that writes it would be
	// inherited by what other tests start, and a file being written cannot run.
	if out, err := exec.Command("cp", busybox, filepath.Join(root, "bin/busybox")).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	for _, name := range []string{"sh", "mkdir", "chown"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"dev/null": "", "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func runUserScript(t *testing.T, root, user, group string) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", userScript, "lehr-user", user, group)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + recipe.DefaultPath}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the script: %v: %s", err, out)
	}
	return string(out)
}

// fileAdded adds text to a file and returns what tells what was added since.
func fileAdded(t *testing.T, path, text string) (added func() string) {
	t.Helper()
	read := func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := read() + text
	if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	return func() string {
		rest, ok := strings.CutPrefix(read(), before)
		if !ok {
			t.Errorf("%s was changed, not only added to", path)
		}
		return rest
	}
}
