package hosttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lehr-dev/lehr/internal/engine/enginetest/probewire"
	"github.com/lehr-dev/lehr/internal/engine/fake"
)

// builtin is one command of the tiny shell; it returns the exit status.
type builtin func(ctx context.Context, s *Shell, args []string) (int, error)

// builtins returns the commands there are. Beside what their names say:
//
//	eat MB        takes memory, until the sandbox is out of memory
//	fork N        starts N background processes
//	fill PATH MB  writes a large file
//	lines N TEXT  prints TEXT N times, one output call each
//	die SIGNAL    ends with 128 + SIGNAL
//	serve PORT    runs until it is killed, and answers check PORT meanwhile
//	check PORT    succeeds while a serve PORT runs
//	probe VERB …  answers as the engine suite's probe, in probewire
//	apt-get …     update leaves lists, install NAME a file, clean takes lists away
//
// It is a function because sh refers to it.
func builtins() map[string]builtin {
	return map[string]builtin{
		"sh": runShell, "bash": runShell,
		":": succeed, "true": succeed, "sync": succeed, "groupadd": succeed,
		"false": func(context.Context, *Shell, []string) (int, error) { return 1, nil },
		"echo":  echo,
		"exit":  exit,
		"die": func(_ context.Context, s *Shell, a []string) (int, error) {
			s.exited = true
			return 128 + number(a, 0), nil
		},
		"sleep":  sleep,
		"env":    printEnv,
		"export": export,
		"cd":     changeDir,
		"pwd":    func(_ context.Context, s *Shell, _ []string) (int, error) { return 0, s.print(s.dir + "\n") },
		"whoami": func(_ context.Context, s *Shell, _ []string) (int, error) { return 0, s.print(s.u.name + "\n") },
		"id": func(_ context.Context, s *Shell, _ []string) (int, error) {
			return 0, s.print(strconv.Itoa(s.u.uid) + "\n")
		},
		"hostname": func(_ context.Context, s *Shell, _ []string) (int, error) { return 0, s.print(s.m.Hostname() + "\n") },
		"cat":      cat,
		"ls":       list,
		"mkdir": func(_ context.Context, s *Shell, a []string) (int, error) {
			return s.files(a, func(p string) error { return s.m.Tree.MkdirAll(p, 0o755) })
		},
		"touch": func(_ context.Context, s *Shell, a []string) (int, error) {
			return s.files(a, func(p string) error { return s.m.Tree.Append(p, nil) })
		},
		"rm":    func(_ context.Context, s *Shell, a []string) (int, error) { return s.files(a, s.m.Tree.RemoveAll) },
		"chmod": chmod,
		"ln":    link,
		"test":  test, "[": test,
		"kill":    kill,
		"useradd": addUser,
		"eat": func(_ context.Context, s *Shell, a []string) (int, error) {
			return s.verdict("eat", s.m.Grow(number(a, 0)))
		},
		"fork":    fork,
		"fill":    fill,
		"lines":   lines,
		"serve":   func(ctx context.Context, _ *Shell, _ []string) (int, error) { <-ctx.Done(); return 0, ctx.Err() },
		"check":   check,
		"probe":   probe,
		"apt-get": aptGet,
	}
}

func succeed(context.Context, *Shell, []string) (int, error) { return 0, nil }

// verdict turns a system call's error into an exit status.
func (s *Shell) verdict(name string, err error) (int, error) {
	if err != nil {
		return 1, s.complain("%s: %v", name, err)
	}
	return 0, nil
}

// files does f with every argument that is not an option.
func (s *Shell) files(args []string, f func(path string) error) (int, error) {
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			continue
		}
		for _, p := range s.glob(s.path(a)) {
			if err := f(p); err != nil {
				return s.verdict(a, err)
			}
		}
	}
	return 0, nil
}

// glob expands a trailing "/*", the only pattern there is.
func (s *Shell) glob(p string) []string {
	dir, ok := strings.CutSuffix(p, "/*")
	if !ok {
		return []string{p}
	}
	names := s.m.Tree.Names(dir)
	return slices.DeleteFunc(names, func(n string) bool { return path.Dir(n) != path.Clean(dir) })
}

// number returns the i-th argument as a number, 0 where it is none.
func number(args []string, i int) int {
	if i >= len(args) {
		return 0
	}
	n, err := strconv.Atoi(args[i])
	if err != nil {
		return 0
	}
	return n
}

func runShell(ctx context.Context, s *Shell, args []string) (int, error) {
	for i, a := range args {
		if strings.HasPrefix(a, "-") && strings.Contains(a, "c") && i+1 < len(args) {
			return s.script(ctx, args[i+1])
		}
		if !strings.HasPrefix(a, "-") {
			text, err := s.m.Tree.Read(s.path(a))
			if err != nil {
				return 127, s.complain("sh: %s: %v", a, err)
			}
			return s.script(ctx, string(text))
		}
	}
	return s.script(ctx, string(s.stdin))
}

func echo(_ context.Context, s *Shell, args []string) (int, error) {
	end := "\n"
	if len(args) > 0 && args[0] == "-n" {
		args, end = args[1:], ""
	}
	return 0, s.print(strings.Join(args, " ") + end)
}

func exit(_ context.Context, s *Shell, args []string) (int, error) {
	s.exited = true
	return number(args, 0), nil
}

// sleep takes seconds, a Go duration, or infinity.
func sleep(ctx context.Context, s *Shell, args []string) (int, error) {
	d := time.Duration(math.MaxInt64)
	if len(args) > 0 && args[0] != "infinity" {
		seconds, err := strconv.ParseFloat(args[0], 64)
		if d = time.Duration(seconds * float64(time.Second)); err != nil {
			if d, err = time.ParseDuration(args[0]); err != nil {
				return s.verdict("sleep", err)
			}
		}
	}
	return 0, s.m.Clock.Sleep(ctx, d)
}

func printEnv(ctx context.Context, s *Shell, args []string) (int, error) {
	if len(args) > 0 && !strings.Contains(args[0], "=") {
		return s.command(ctx, args)
	}
	for _, k := range slices.Sorted(maps.Keys(s.env)) {
		if err := s.print(k + "=" + s.env[k] + "\n"); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func export(_ context.Context, s *Shell, args []string) (int, error) {
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok {
			s.env[k] = v
		}
	}
	return 0, nil
}

func changeDir(_ context.Context, s *Shell, args []string) (int, error) {
	dir := s.u.home
	if len(args) > 0 {
		dir = s.path(args[0])
	}
	if _, err := s.m.Tree.Stat(dir); err != nil {
		return s.verdict("cd: "+dir, err)
	}
	s.dir = dir
	return 0, nil
}

func cat(_ context.Context, s *Shell, args []string) (int, error) {
	if len(args) == 0 {
		return 0, s.print(string(s.stdin))
	}
	for _, a := range args {
		b, err := s.m.Tree.Read(s.path(a))
		if err != nil {
			return s.verdict("cat: "+a, err)
		}
		if err := s.print(string(b)); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func list(_ context.Context, s *Shell, args []string) (int, error) {
	dir := s.dir
	if len(args) > 0 {
		dir = s.path(args[len(args)-1])
	}
	if _, err := s.m.Tree.Stat(dir); err != nil {
		return s.verdict("ls: "+dir, err)
	}
	for _, name := range s.m.Tree.Names(dir) {
		if path.Dir(name) != path.Clean(dir) {
			continue
		}
		if err := s.print(path.Base(name) + "\n"); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func chmod(_ context.Context, s *Shell, args []string) (int, error) {
	if len(args) < 2 {
		return 1, s.complain("chmod: missing operand")
	}
	mode, err := strconv.ParseUint(args[0], 8, 32)
	if args[0] == "+x" {
		mode, err = 0o755, nil
	}
	if err != nil {
		return s.verdict("chmod", err)
	}
	return s.files(args[1:], func(p string) error { return s.m.Tree.Chmod(p, uint32(mode)) })
}

func link(_ context.Context, s *Shell, args []string) (int, error) {
	symbolic := len(args) > 0 && strings.HasPrefix(args[0], "-s")
	if symbolic {
		args = args[1:]
	}
	if len(args) != 2 {
		return 1, s.complain("ln: two names are needed")
	}
	if symbolic {
		return s.verdict("ln", s.m.Tree.Symlink(args[0], s.path(args[1])))
	}
	return s.verdict("ln", s.m.Tree.Link(s.path(args[0]), s.path(args[1])))
}

func test(_ context.Context, s *Shell, args []string) (int, error) {
	if n := len(args); n > 0 && args[n-1] == "]" {
		args = args[:n-1]
	}
	holds := false
	switch {
	case len(args) == 3 && args[1] == "=":
		holds = args[0] == args[2]
	case len(args) == 3 && args[1] == "!=":
		holds = args[0] != args[2]
	case len(args) == 2 && args[0] == "-n":
		holds = args[1] != ""
	case len(args) == 2 && args[0] == "-z":
		holds = args[1] == ""
	case len(args) == 2 && slices.Contains([]string{"-e", "-f", "-d"}, args[0]):
		_, err := s.m.Tree.Stat(s.path(args[1]))
		holds = err == nil
	default:
		return 2, s.complain("test: not understood: %q", args)
	}
	if holds {
		return 0, nil
	}
	return 1, nil
}

func kill(_ context.Context, s *Shell, args []string) (int, error) {
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			continue
		}
		if err := s.m.Kill(number([]string{a}, 0)); err != nil {
			return s.verdict("kill: "+a, err)
		}
	}
	return 0, nil
}

func addUser(_ context.Context, s *Shell, args []string) (int, error) {
	if len(args) == 0 {
		return 2, s.complain("useradd: no name")
	}
	passwd, err := s.m.Tree.Read("/etc/passwd")
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return s.verdict("useradd", err)
	}
	name, uid := args[len(args)-1], 1000+strings.Count(string(passwd), "\n")
	line := fmt.Sprintf("%s:x:%d:%d::/home/%s:/bin/sh\n", name, uid, uid, name)
	return s.verdict("useradd", s.m.Tree.Append("/etc/passwd", []byte(line)))
}

func fork(_ context.Context, s *Shell, args []string) (int, error) {
	for range number(args, 0) {
		if _, err := s.m.Spawn("fork"); err != nil {
			return s.verdict("fork", err)
		}
	}
	return 0, nil
}

func fill(_ context.Context, s *Shell, args []string) (int, error) {
	if len(args) != 2 {
		return 2, s.complain("fill: want a path and mebibytes")
	}
	_, err := s.m.Tree.Fill(s.path(args[0]), int64(number(args, 1))<<20)
	return s.verdict("fill: "+args[0], err)
}

func lines(ctx context.Context, s *Shell, args []string) (int, error) {
	for i := range number(args, 0) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err := s.print(strings.TrimSpace(fmt.Sprintf("%s %d", strings.Join(args[1:], " "), i+1)) + "\n"); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func check(_ context.Context, s *Shell, args []string) (int, error) {
	for _, p := range s.m.Processes() {
		if len(p.Args) == 2 && p.Args[0] == "serve" && len(args) == 1 && p.Args[1] == args[0] {
			return 0, nil
		}
	}
	return 1, s.complain("check: connection refused")
}

func probe(ctx context.Context, s *Shell, args []string) (int, error) {
	if len(args) == 0 {
		return 2, s.complain("probe: no verb")
	}
	var reply strings.Builder
	if err := probewire.Write(&reply, fake.AnswerProbe(ctx, s.m, probewire.Request{Verb: args[0], Args: args[1:]})); err != nil {
		return s.verdict("probe", err)
	}
	return 0, s.print(reply.String())
}

func aptGet(_ context.Context, s *Shell, args []string) (int, error) {
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "-") })
	const lists = "/var/lib/apt/lists"
	switch verb := append(args, "")[0]; verb {
	case "update":
		if err := s.m.Tree.MkdirAll(lists, 0o755); err != nil {
			return s.verdict("apt-get", err)
		}
		return s.verdict("apt-get", s.m.Tree.Write(lists+"/debian", []byte("lists\n"), 0o644))
	case "install":
		for _, name := range args[1:] {
			if err := s.m.Tree.MkdirAll("/usr/share/doc/"+name, 0o755); err != nil {
				return s.verdict("apt-get", err)
			}
			if err := s.print("Setting up " + name + "\n"); err != nil {
				return 0, err
			}
		}
		return 0, nil
	case "clean", "autoremove":
		return 0, nil
	}
	return 100, s.complain("E: invalid operation")
}
