package doctor

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/hostnet"
)

// machine is what the checks see of a machine; tests make one up.
type machine struct {
	system, architecture string
	userID               int

	readFile   func(path string) ([]byte, error)
	glob       func(pattern string) ([]string, error)
	stat       func(path string) (os.FileInfo, error)
	fileSystem func(path string) (fileSystem, error)
	tryWrite   func(dir string) error
	program    func(name string) (path string, err error)
	kernel     func() (release string, err error)
	openFiles  func() (limit uint64, err error)
	listen     func(ctx context.Context, address string) error
	network    func() hostnet.Support
	blocker    func() (chain string, err error)
}

// fileSystem is what a path is on.
type fileSystem struct {
	free     uint64 // bytes that can be used
	inMemory bool   // tmpfs or ramfs
}

// thisMachine returns the machine the process runs on.
func thisMachine() machine {
	return machine{
		system: runtime.GOOS, architecture: runtime.GOARCH, userID: os.Geteuid(),
		readFile: os.ReadFile, glob: filepath.Glob, stat: os.Stat,
		fileSystem: statFileSystem, tryWrite: tryWrite, program: exec.LookPath,
		kernel: kernelRelease, openFiles: openFileLimit, listen: tryListen,
		network: sync.OnceValue(hostnet.Probe), blocker: hostnet.ForwardBlocker,
	}
}

// statFileSystem asks the kernel.
func statFileSystem(path string) (fileSystem, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return fileSystem{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	inMemory := s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC
	return fileSystem{free: s.Bavail * uint64(s.Bsize), inMemory: inMemory}, nil
}

// tryWrite makes a file in a folder, syncs it and removes it.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".lehr-doctor-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString("doctor"); err != nil {
		return err
	}
	return f.Sync()
}

// kernelRelease returns what uname says.
func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// openFileLimit returns the hard limit, to which the agent raises its own.
func openFileLimit() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	return l.Max, nil
}

// tryListen listens on an address for a moment.
func tryListen(ctx context.Context, address string) error {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}
