package process

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lehr-dev/lehr/internal/errs"
)

// stdio holds both ends of what a process reads and writes until it has been
// started, then ours.
type stdio struct {
	in     *os.File // nil: standard input is empty
	out    []source
	theirs [3]*os.File
}

// source is where one stream of output comes from.
type source struct {
	stream Stream
	file   *os.File
}

func newStdio(spec Spec) (*stdio, error) {
	s := &stdio{}
	err := s.open(spec)
	if err != nil {
		s.closeOurs()
		s.closeTheirs()
		return nil, err
	}
	return s, nil
}

func (s *stdio) open(spec Spec) (err error) {
	if spec.Terminal != nil {
		ours, theirs, err := openTerminal(spec.User, *spec.Terminal)
		if err != nil {
			return err
		}
		s.in, s.out = ours, []source{{Terminal, ours}}
		s.theirs = [3]*os.File{theirs, theirs, theirs}
		return nil
	}
	if spec.Stdin {
		s.in, s.theirs[0], err = pipe(false)
	} else {
		s.theirs[0], err = emptyInput()
	}
	if err != nil {
		return err
	}
	for i, stream := range []Stream{Stdout, Stderr} {
		ours, theirs, err := pipe(true)
		if err != nil {
			return err
		}
		s.out, s.theirs[i+1] = append(s.out, source{stream, ours}), theirs
	}
	return nil
}

// emptyInput returns an input at its end. A root file system without /dev/null
// gets a pipe nobody writes to.
func emptyInput() (*os.File, error) {
	if null, err := os.Open(os.DevNull); err == nil {
		return null, nil
	}
	ours, theirs, err := pipe(false)
	if err != nil {
		return nil, err
	}
	return theirs, ours.Close()
}

func (s *stdio) closeTheirs() {
	for _, f := range s.theirs {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (s *stdio) closeOurs() {
	if s.in != nil {
		_ = s.in.Close()
	}
	for _, out := range s.out {
		_ = out.file.Close()
	}
}

// program finds what to run. A command given as a path is taken at its word:
// looks before the leap cost as much as the leap.
func program(spec Spec) (path string, err error) {
	switch {
	case spec.Command == "":
		return "", errs.New(errs.Invalid, "no command was given").WithCode("command_not_found").WithField("cmd")
	case strings.Contains(spec.Command, "/"):
		return from(spec.Dir, spec.Command), nil
	}
	err = spec.User.Do(func() error {
		path, err = search(spec)
		return err
	})
	if err != nil {
		return "", diagnose(spec, spec.Command, err)
	}
	return path, nil
}

// diagnose finds out, as the user, why path could not be started: the kernel
// has one error for a missing directory, program or interpreter.
func diagnose(spec Spec, path string, cause error) error {
	exists := false
	err := spec.User.Do(func() error {
		_, absent := os.Lstat(path)
		exists = absent == nil
		return checkDir(spec.Dir)
	})
	if err != nil {
		return err
	}
	if exists && errors.Is(cause, os.ErrNotExist) {
		return errs.New(errs.Invalid, "%s: cannot execute: its interpreter does not exist", spec.Command).
			WithCode("command_not_executable").WithField("cmd")
	}
	return startError(spec.Command, cause)
}

func checkDir(dir string) error {
	// The trailing dot asks for the right to enter, not only to see.
	_, err := os.Stat(dir + "/.")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOTDIR):
		return dirError("cwd '%s' is not a directory", dir)
	case errors.Is(err, os.ErrPermission):
		return dirError("cwd '%s' may not be entered by the user", dir)
	}
	return dirError("cwd '%s' does not exist", dir)
}

func dirError(format, dir string) error {
	return errs.New(errs.Invalid, format, dir).WithCode("workdir_missing").WithField("cwd")
}

// search looks for spec.Command through PATH. Like a shell it goes on past what
// it may not run, and then reports that rather than "not found".
func search(spec Spec) (string, error) {
	var failure error = syscall.ENOENT
	for _, dir := range filepath.SplitList(searchPath(spec.Env)) {
		path := filepath.Join(from(spec.Dir, dir), spec.Command)
		err := runnable(path)
		if err == nil {
			return path, nil
		}
		if errors.Is(err, os.ErrPermission) {
			failure = err
		}
	}
	return "", failure
}

func from(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func runnable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() || info.Mode().Perm()&0o111 == 0 {
		return syscall.EACCES
	}
	return nil
}

// defaultSearch is where programs are looked for without a PATH.
const defaultSearch = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

// searchPath returns the PATH of env.
func searchPath(env []string) string {
	for _, pair := range env {
		if v, ok := strings.CutPrefix(pair, "PATH="); ok {
			return v
		}
	}
	return defaultSearch
}

func fork(path string, spec Spec, stdio *stdio) (int, error) {
	files := make([]uintptr, len(stdio.theirs))
	for i, f := range stdio.theirs {
		files[i] = f.Fd()
	}
	return syscall.ForkExec(path, append([]string{spec.Command}, spec.Args...), &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   spec.Env,
		Files: files,
		Sys: &syscall.SysProcAttr{
			Setsid: true,
			// Of the child's descriptors, 0 is the terminal.
			Setctty: spec.Terminal != nil,
			Credential: &syscall.Credential{
				Uid: spec.User.UID, Gid: spec.User.GID, Groups: spec.User.Groups,
			},
		},
	})
}

// startError tells the failures a shell reports as 127 and 126 from those of
// the sandbox.
func startError(command string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return errs.New(errs.Invalid, "%s: command not found", command).
			WithCode("command_not_found").WithField("cmd")
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM),
		errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return errs.Wrap(err, errs.Exhausted, "process.Start", "the sandbox's limits allow no further process")
	case errors.Is(err, syscall.E2BIG):
		return errs.New(errs.Invalid, "%s: arguments and environment are too long", command).
			WithCode("command_not_executable").WithField("cmd")
	case errors.Is(err, syscall.ENOEXEC):
		return errs.New(errs.Invalid, "%s: cannot execute: wrong format", command).
			WithCode("command_not_executable").WithField("cmd")
	}
	return errs.New(errs.Invalid, "%s: cannot execute: %w", command, plain(err)).
		WithCode("command_not_executable").WithField("cmd")
}

// plain strips the path a *fs.PathError repeats.
func plain(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
