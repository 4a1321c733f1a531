package hosttest

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/engine/fake"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Shell is the tiny command language of simulated sandboxes: `sh -c` (also
// bash) with commands separated by newline, ;, && and ||, a trailing & for the
// background, quotes, $NAME and ${NAME}, NAME=value, and > and >> into files and
// to &2. There are no pipes, loops or substitutions; what is not understood
// ends with exit status 2. The commands are those of builtins.
type Shell struct {
	place
	env    map[string]string
	stdin  []byte
	out    agent.Output
	status int  // of the last command
	exited bool // by exit
}

func newShell(at place, env []lehr.EnvVar, stdin []byte, out agent.Output) *Shell {
	s := &Shell{place: at, env: map[string]string{}, stdin: stdin, out: out}
	for _, v := range env {
		s.env[v.Name] = v.Value
	}
	return s
}

// find reports whether a command can be run, in the agent law's words.
func (s *Shell) find(name string) error {
	if _, ok := builtins()[path.Base(name)]; ok {
		return nil
	}
	st, err := s.m.Tree.Stat(s.path(name))
	switch {
	case err != nil || !strings.Contains(name, "/"):
		return errs.New(errs.Invalid, "there is no command %q", name).WithCode("command_not_found")
	case st.Type != fake.TypeFile || st.Mode&0o111 == 0:
		return errs.New(errs.Invalid, "%q is not executable", name).WithCode("command_not_executable")
	}
	return nil
}

// path makes a name absolute.
func (s *Shell) path(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(s.dir, name)
}

// command runs one command and returns its exit status. The error is ctx's or
// the output's.
func (s *Shell) command(ctx context.Context, args []string) (int, error) {
	if err := s.m.Gate(ctx); err != nil {
		return 0, err
	}
	if f, ok := builtins()[path.Base(args[0])]; ok {
		return f(ctx, s, args[1:])
	}
	if err := s.find(args[0]); err != nil {
		code := 127
		if errs.CodeOf(err) == "command_not_executable" {
			code = 126
		}
		return code, s.complain("sh: %s: %v", args[0], err)
	}
	script, err := s.m.Tree.Read(s.path(args[0]))
	if err != nil {
		return 126, s.complain("sh: %s: %v", args[0], err)
	}
	return s.script(ctx, string(script))
}

// print writes to standard output, complain a line to standard error.
func (s *Shell) print(text string) error { return s.out(lehr.StreamStdout, []byte(text)) }

func (s *Shell) complain(format string, args ...any) error {
	return s.out(lehr.StreamStderr, []byte(fmt.Sprintf(format, args...)+"\n"))
}

// script runs a program text.
func (s *Shell) script(ctx context.Context, text string) (int, error) {
	commands, err := parse(text)
	if err != nil {
		return 2, s.complain("sh: %v", err)
	}
	s.status = 0
	for _, c := range commands {
		if (c.join == "&&" && s.status != 0) || (c.join == "||" && s.status == 0) {
			continue
		}
		if s.status, err = s.one(ctx, c); err != nil || s.exited {
			break
		}
	}
	s.exited = false // exit ends this script, not the one that called it
	return s.status, err
}

// one runs one command of a script.
func (s *Shell) one(ctx context.Context, c command) (int, error) {
	var args []string
	for _, w := range c.words {
		args = append(args, s.expand(w))
	}
	for len(args) > 0 {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok || name == "" || strings.ContainsAny(name, "/.- ") {
			break
		}
		s.env[name] = value
		args = args[1:]
	}
	if len(args) == 0 && c.to == nil {
		return 0, nil
	}
	if c.background {
		return s.background(args)
	}
	if c.to == nil {
		return s.command(ctx, args)
	}
	return s.redirected(ctx, args, c)
}

// background leaves a command running as a process of its own.
func (s *Shell) background(args []string) (int, error) {
	pid, err := s.m.Spawn(args...)
	if err != nil {
		return 1, s.complain("sh: fork: %v", err)
	}
	child := *s
	child.env = map[string]string{}
	for k, v := range s.env {
		child.env[k] = v
	}
	child.out = func(lehr.LogStream, []byte) error { return nil } // nobody is attached
	m := s.m
	m.Go(func(life context.Context) {
		ctx, cancel := context.WithCancel(life)
		defer cancel()
		go func() {
			defer cancel()
			select {
			case <-m.Killed(pid):
			case <-ctx.Done():
			}
		}()
		_, _ = child.command(ctx, args) // it has nobody to tell
		_ = m.Kill(pid)
	})
	return 0, nil
}

// redirected runs a command whose standard output goes elsewhere.
func (s *Shell) redirected(ctx context.Context, args []string, c command) (int, error) {
	target := s.expand(*c.to)
	outer := s.out
	defer func() { s.out = outer }()
	if target == "&2" {
		s.out = func(_ lehr.LogStream, b []byte) error { return outer(lehr.StreamStderr, b) }
		return s.command(ctx, args)
	}
	var text []byte
	s.out = func(stream lehr.LogStream, b []byte) error {
		if stream != lehr.StreamStdout {
			return outer(stream, b)
		}
		text = append(text, b...)
		return nil
	}
	code := 0
	var err error
	if len(args) > 0 {
		code, err = s.command(ctx, args)
	}
	if err != nil {
		return code, err
	}
	s.out = outer
	write := func() error { return s.m.Tree.Write(s.path(target), text, 0o644) }
	if c.appending {
		write = func() error { return s.m.Tree.Append(s.path(target), text) }
	}
	if err := write(); err != nil {
		return 1, s.complain("sh: %s: %v", target, err)
	}
	return code, nil
}

// expand replaces the variables of a word.
func (s *Shell) expand(w word) string {
	var b strings.Builder
	for _, p := range w {
		if !p.variable {
			b.WriteString(p.text)
			continue
		}
		switch p.text {
		case "?":
			fmt.Fprint(&b, s.status)
		case "$":
			b.WriteString("1")
		default:
			b.WriteString(s.env[p.text])
		}
	}
	return b.String()
}
