package recipe

import (
	"path"
	"slices"
	"strings"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// Defaults of a base that names none, as in Docker.
const (
	DefaultPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	DefaultWorkdir = "/"
)

// DefaultShell returns the shell of shell-form instructions without SHELL.
func DefaultShell() []string { return []string{"/bin/sh", "-c"} }

// Vars is an environment in order; every name is there once.
type Vars []lehr.EnvVar

// Get returns the value of name.
func (v Vars) Get(name string) (string, bool) {
	for _, e := range v {
		if e.Name == name {
			return e.Value, true
		}
	}
	return "", false
}

// Keys returns the names.
func (v Vars) Keys() []string {
	names := make([]string, 0, len(v))
	for _, e := range v {
		names = append(names, e.Name)
	}
	return names
}

// With returns v with name set; v itself stays as it is.
func (v Vars) With(name, value string) Vars {
	out := v.Clone()
	out.Set(name, value)
	return out
}

// Clone returns a copy that may be changed.
func (v Vars) Clone() Vars { return append(make(Vars, 0, len(v)+1), v...) }

// Set sets name in place. A name that is there already keeps its place in the
// order.
func (v *Vars) Set(name, value string) {
	for i := range *v {
		if (*v)[i].Name == name {
			(*v)[i].Value = value
			return
		}
	}
	*v = append(*v, lehr.EnvVar{Name: name, Value: value})
}

func (v Vars) longest() int {
	n := 0
	for _, e := range v {
		n = max(n, len(e.Value))
	}
	return n
}

// ExecContext is what a command of a recipe inherits from the instructions
// before it. It is a value: methods return a changed copy.
type ExecContext struct {
	Env     Vars     // as commands see it: the base's, ENV and ARG
	User    string   // "name[:group]" or ids; empty is root
	Workdir string   // absolute and clean
	Shell   []string // of shell-form instructions
}

// NewExecContext returns the context that a base begins with, completed by
// PATH, directory and shell.
func NewExecContext(base lehr.ImageConfig) ExecContext {
	c := ExecContext{User: base.User, Workdir: DefaultWorkdir, Shell: DefaultShell()}
	for _, e := range base.Env {
		c.Env.Set(e.Name, e.Value)
	}
	if _, ok := c.Env.Get("PATH"); !ok {
		c.Env.Set("PATH", DefaultPath)
	}
	if base.Workdir != "" {
		c.Workdir = path.Join(DefaultWorkdir, base.Workdir)
	}
	if len(base.Shell) > 0 {
		c.Shell = slices.Clone(base.Shell)
	}
	return c
}

// Get returns the value of a variable as words of the recipe see it: HOME is
// root's for root. Whose HOME another user has only the sandbox knows, so it is
// unset in words unless ENV or the base sets it; commands get it at run time.
func (c ExecContext) Get(name string) (string, bool) {
	value, ok := c.Env.Get(name)
	if !ok && name == "HOME" && c.isRoot() {
		return "/root", true
	}
	return value, ok
}

// Keys returns the names of the environment.
func (c ExecContext) Keys() []string { return c.Env.Keys() }

func (c ExecContext) longest() int { return c.Env.longest() }

func (c ExecContext) isRoot() bool {
	name, _, _ := strings.Cut(c.User, ":")
	return name == "" || name == "root" || name == "0"
}

// Chdir returns c in directory p, relative to where c is.
func (c ExecContext) Chdir(p string) ExecContext {
	if path.IsAbs(p) {
		c.Workdir = path.Clean(p)
	} else {
		c.Workdir = path.Join(c.Workdir, p)
	}
	return c
}

// Argv returns the program and arguments of cmd: itself in the exec form, the
// shell's in the shell form. It is nil for an empty command.
func (c ExecContext) Argv(cmd Command) []string {
	switch {
	case len(cmd.Argv) > 0:
		return slices.Clone(cmd.Argv)
	case cmd.Script == "":
		return nil
	}
	return append(slices.Clone(c.Shell), cmd.Script)
}
