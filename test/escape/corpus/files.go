package corpus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// files are ways to files of the host.
func files() []Attempt {
	const host = "a file of the host"
	return number("file", []Attempt{
		{What: host, How: "its path", Want: Refused, Bites: true, try: look(read(""))},
		{What: host, How: "its path below /proc/1/root", Want: Refused, try: look(read("/proc/1/root"))},
		{What: host, How: "its path below /proc/1/cwd, up and up", Want: Refused, try: look(read("/proc/1/cwd/../../.."))},
		{What: host, How: "its path below the root of every process", Want: Refused, Bites: true, try: look(readBelow("/proc/[0-9]*/root"))},
		{What: host, How: "its path below every open descriptor", Want: Refused, try: look(readBelow("/proc/[0-9]*/fd/*"))},
		{What: host, How: "its path below every task's root", Want: Refused, try: look(readBelow("/proc/1/task/*/root"))},
		{What: host, How: "openat with .. beyond the root", Want: Refused, Bites: true, try: look(dotdot)},
		{What: host, How: "a symbolic link through /proc/self/root", Want: Refused, Bites: true, try: look(throughLink)},
		{What: host, How: "chroot twice and up", Want: Contained, try: look(chrootTwice)},
		{What: host, How: "pivot_root", Want: Refused, try: call(pivot)},
		{What: host, How: "name_to_handle_at of the root", Want: Refused, try: call(nameToHandle)},
		{What: host, How: "open_by_handle_at of inode 2", Want: Refused, try: call(openByHandle)},
		{What: "the sentry's program", How: "the program of every process", Want: Contained, try: call(sentryProgram)},
		{What: "the sentry's program", How: "/proc/self/exe rewritten while it runs", Want: Refused, try: call(writeTo("/proc/1/exe"))},
		{What: "the guest daemon's program", How: "a write to /.lehr/lehr-init", Want: Refused, try: call(writeTo("/.lehr/lehr-init"))},
		{What: "the guest daemon's program", How: "a new file, a rename, a removal in /.lehr", Want: Refused, try: every(
			func(Env) error { return os.WriteFile("/.lehr/new", nil, 0o600) },
			func(Env) error { return os.Rename("/.lehr/lehr-init", "/.lehr/other") },
			func(Env) error { return os.Remove("/.lehr/lehr-init") },
			func(Env) error { return os.Rename("/.lehr", "/.gone") },
		)},
		{What: "the operator's secret", How: "the daemon's environment", Want: Refused, try: look(readFile("/proc/1/environ"))},
		{What: "the operator's secret", How: "/proc/gvisor/spec_environ holds a digest at most", Want: Contained, try: specEnviron},
		{What: "root of the host", How: "a setuid program made and run", Want: Contained, try: look(setuid)},
		{What: "a hidden program", How: "execution from memory (memfd)", Want: Contained, try: look(memfdExec)},
		{What: "the host's processes", How: "the list in /proc", Want: Contained, try: hostProcesses},
	})
}

func readFile(path string) func(Env) (string, error) {
	return func(Env) (string, error) {
		b, err := os.ReadFile(path)
		return string(b), err
	}
}

func read(below string) func(Env) (string, error) {
	return func(env Env) (string, error) { return readFile(below + env.Canary)(env) }
}

func readBelow(pattern string) func(Env) (string, error) {
	return func(env Env) (string, error) {
		places, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		var all strings.Builder
		failure := errors.New("no such place")
		for _, place := range places {
			b, err := os.ReadFile(place + env.Canary)
			all.Write(b)
			if failure = errors.Join(failure, err); err == nil {
				failure = nil
				break
			}
		}
		if failure != nil {
			failure = fmt.Errorf("none of %d places", len(places))
		}
		return all.String(), failure
	}
}

func dotdot(env Env) (string, error) {
	root, err := os.Open("/")
	if err != nil {
		return "", err
	}
	defer root.Close()
	fd, err := unix.Openat(int(root.Fd()), strings.Repeat("../", 30)+strings.TrimPrefix(env.Canary, "/"), unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "file")
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func throughLink(env Env) (string, error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/proc/self/root"+env.Canary, link); err != nil {
		return "", err
	}
	return readFile(link)(env)
}

// chrootTwice is the classic way out of a chroot: a directory kept open above
// the new root.
func chrootTwice(env Env) (string, error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	top, err := os.Open("/")
	if err != nil {
		return "", err
	}
	defer top.Close()
	if err := unix.Chroot(dir); err != nil {
		return "", err
	}
	if err := unix.Fchdir(int(top.Fd())); err != nil {
		return "", err
	}
	for range 30 {
		if err := os.Chdir(".."); err != nil {
			return "", err
		}
	}
	if err := unix.Chroot("."); err != nil {
		return "", err
	}
	return readFile(env.Canary)(env)
}

func pivot(Env) error {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return err
	}
	return unix.PivotRoot(dir, dir)
}

func nameToHandle(Env) error {
	_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0)
	return err
}

func openByHandle(Env) error {
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	defer root.Close()
	const inode32Gen = 1
	for _, inode := range []byte{2, 1, 128} {
		if _, e := unix.OpenByHandleAt(int(root.Fd()), unix.NewFileHandle(inode32Gen, []byte{inode, 0, 0, 0, 0, 0, 0, 0}), unix.O_RDONLY); e == nil {
			return nil
		} else {
			err = e
		}
	}
	return err
}

func sentryProgram(Env) error {
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return err
	}
	for _, p := range programs {
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		b, _ := io.ReadAll(io.LimitReader(f, 64<<20))
		f.Close()
		if bytes.Contains(b, []byte("gvisor.dev/gvisor/pkg/sentry/kernel")) {
			return nil
		}
	}
	return errors.New("no process runs it")
}

func writeTo(path string) func(Env) error {
	return func(Env) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("x"), 0)
		return err
	}
}

// specEnviron is breached where the environment that the sandbox was started
// with holds more than the digest of the secret.
func specEnviron(env Env) (Want, string) {
	b, err := os.ReadFile("/proc/gvisor/spec_environ")
	if err != nil {
		return Refused, err.Error()
	}
	for pair := range bytes.SplitSeq(b, []byte{0}) {
		name, value, _ := bytes.Cut(pair, []byte("="))
		if bytes.Contains(name, []byte("SECRET")) || env.Secret != "" && bytes.Contains(value, []byte(env.Secret)) {
			return Breached, string(name)
		}
	}
	return Contained, fmt.Sprintf("%d bytes without a secret", len(b))
}

func setuid(env Env) (string, error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile("/tmp/suid", self, 0o755); err != nil {
		return "", err
	}
	defer os.Remove("/tmp/suid")
	if err := os.Chmod("/tmp/suid", 0o4755); err != nil {
		return "", err
	}
	return runSelf("/tmp/suid", "file-01", env)
}

func memfdExec(env Env) (string, error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	fd, err := unix.MemfdCreate("program", 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "program")
	defer f.Close()
	if _, err := f.Write(self); err != nil {
		return "", err
	}
	return runSelf(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), "file-01", env)
}

// hostProcesses is breached where the number of the host's process names one
// that is not the sandbox's.
func hostProcesses(env Env) (Want, string) {
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return Refused, err.Error()
	}
	for _, p := range list {
		b, _ := os.ReadFile(p)
		for _, word := range []string{"lehr-sentry", "lehr up", "lehr\x00up"} {
			if bytes.Contains(b, []byte(word)) {
				return Breached, string(b)
			}
		}
	}
	return Contained, fmt.Sprintf("%d processes, all of the sandbox", len(list))
}
