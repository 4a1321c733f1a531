package recipe

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestNewExecContext(t *testing.T) {
	t.Parallel()
	bare := NewExecContext(lehr.ImageConfig{})
	want := ExecContext{Env: Vars{{Name: "PATH", Value: DefaultPath}}, Workdir: "/", Shell: []string{"/bin/sh", "-c"}}
	if diff := cmp.Diff(want, bare); diff != "" {
		t.Errorf("NewExecContext(nothing) (-want +got):\n%s", diff)
	}
	full := NewExecContext(lehr.ImageConfig{
		Env:  []lehr.EnvVar{{Name: "PATH", Value: "/bin"}, {Name: "A", Value: "1\n2"}, {Name: "A", Value: "3"}},
		User: "app", Workdir: "srv/", Shell: []string{"/bin/bash", "-c"},
	})
	want = ExecContext{
		Env: Vars{{Name: "PATH", Value: "/bin"}, {Name: "A", Value: "3"}}, User: "app", Workdir: "/srv", Shell: []string{"/bin/bash", "-c"},
	}
	if diff := cmp.Diff(want, full); diff != "" {
		t.Errorf("NewExecContext(all) (-want +got):\n%s", diff)
	}
}

func TestExecContextHome(t *testing.T) {
	t.Parallel()
	tests := []struct {
		user, env, want string
		set             bool
	}{
		{"", "", "/root", true},
		{"root", "", "/root", true},
		{"0:5", "", "/root", true},
		{"app", "", "", false},
		{"app", "/srv", "/srv", true},
		{"root", "/srv", "/srv", true},
	}
	for _, tt := range tests {
		c := ExecContext{User: tt.user}
		if tt.env != "" {
			c.Env = c.Env.With("HOME", tt.env)
		}
		if got, ok := c.Get("HOME"); got != tt.want || ok != tt.set {
			t.Errorf("Get(HOME) of user %q with %q = %q, %v, want %q, %v", tt.user, tt.env, got, ok, tt.want, tt.set)
		}
	}
}

func TestExecContextIsAValue(t *testing.T) {
	t.Parallel()
	c := NewExecContext(lehr.ImageConfig{})
	changed := c.Chdir("a").Chdir("../b/./c")
	changed.Env = changed.Env.With("PATH", "/x").With("A", "1")
	if c.Workdir != "/" || c.Env[0].Value != DefaultPath || len(c.Env) != 1 {
		t.Errorf("the first context is now %+v", c)
	}
	if changed.Workdir != "/b/c" || changed.Chdir("/x//y/").Workdir != "/x/y" {
		t.Errorf("Chdir() = %q, want /b/c", changed.Workdir)
	}
	argv := c.Argv(Command{Script: "a"})
	argv[0] = "changed"
	if c.Shell[0] != "/bin/sh" {
		t.Errorf("Argv() shares the shell: %q", c.Shell)
	}
}
