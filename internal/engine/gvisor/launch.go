package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/config"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/jail"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const (
	// nobody is the user and group that a sentry runs as, in a user namespace
	// that holds no other: it opens no file of the host, all it needs is handed
	// to it open.
	nobody = 65534

	sentryName = "lehr-sentry" // argv[0], for people who look at processes

	// pauseMounts says that the root container's only mount is its read-only
	// EROFS root.
	pauseMounts = "erofs:none"

	fileBits = unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC | unix.O_APPEND
)

// newConfig returns gVisor's configuration, the same for every sandbox.
func newConfig(stateDir string) (*config.Config, error) {
	flags := newFlagSet()
	config.RegisterFlags(flags)
	for name, value := range map[string]string{
		"root":              stateDir,
		"platform":          "systrap",
		"network":           "sandbox",
		"overlay2":          "none",   // the writable layer is handed over per container
		"directfs":          "false",  // needs the host's files; without it the sentry runs as nobody
		"host-settings":     "ignore", // the host's settings are the administrator's
		"ignore-cgroups":    "true",   // package jail does them
		"allow-suid":        "true",   // sudo
		"in-sandbox-cgroup": "v2",     // its process limit can be set from outside, v1's cannot
		"traceback":         "single", // bounds what a crash writes into the log
		"metric-server":     "",
	} {
		if err := flags.Set(name, value); err != nil {
			return nil, fmt.Errorf("flag %s: %w", name, err)
		}
	}
	return config.NewFromFlags(flags)
}

// birth is what a sentry is started with.
type birth struct {
	slot    engine.SlotID
	dir     string // of the slot
	sentry  *os.File
	image   string // of the pause program
	shape   lehr.Resources
	network string // namespace path; empty: a new, empty one
	group   *jail.Group
	conf    *config.Config
}

// launch starts a sentry and returns its pid once its control server answers.
// When it fails, or ctx ends first, the process may still run: the caller
// removes the group.
func (b birth) launch(ctx context.Context) (int, error) {
	donated := &donations{}
	defer donated.close()
	ready, started, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer func() { _ = errors.Join(ready.Close(), started.Close()) }()
	cmd, err := b.command(donated, started)
	if err != nil {
		return 0, err
	}
	if err := b.fork(cmd); err != nil {
		return 0, err
	}
	donated.close() // so that the pipe ends with the sentry
	pid := cmd.Process.Pid
	_ = cmd.Process.Release() // the watch of the slot waits for it by pidfd
	stop := context.AfterFunc(ctx, func() { _ = ready.Close() })
	defer stop()
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return pid, cause
		}
		return pid, fmt.Errorf("the sentry ended while it started: %s", logTail(b.dir))
	}
	return pid, nil
}

// command builds the sentry's command line around the files it gets.
func (b birth) command(donated *donations, started *os.File) (*exec.Cmd, error) {
	log, err := os.OpenFile(logPath(b.dir), fileBits, 0o600)
	if err != nil {
		return nil, err
	}
	donated.add("log-fd", log)
	donated.share("panic-log-fd")
	global := donated.flags()
	donated.add("start-sync-fd", started)
	for _, open := range []struct {
		flag string
		make func() (*os.File, error)
	}{
		{"controller-fd", func() (*os.File, error) { return listenControl(b.dir) }},
		{"spec-fd", func() (*os.File, error) { return specFile(pauseSpec(b.slot, b.shape)) }},
		{"io-fds", func() (*os.File, error) { return os.Open(b.image) }},
		{"stdio-fds", openNull},
		{"stdio-fds", openNull},
		{"stdio-fds", openNull},
	} {
		file, err := open.make()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", open.flag, err)
		}
		donated.add(open.flag, file)
	}
	memory := strconv.FormatInt(memoryBytes(b.shape), 10)
	args := append([]string{sentryName}, b.conf.ToFlags()...)
	args = append(args, global...)
	args = append(args, "boot", "--bundle="+b.dir)
	args = append(args, donated.flags()...)
	args = append(args,
		"--setup-root",
		"--apply-caps", // in place: otherwise it would drop them by starting itself again
		"--gofer-mount-confs="+pauseMounts,
		"--cpu-num="+strconv.Itoa(int(b.shape.VCPUs)),
		"--total-memory="+memory,
		"--total-host-memory="+memory, // sizes of tmpfs follow it
		"--product-name=lehr",
		string(b.slot),
	)
	return &exec.Cmd{
		// Through a descriptor: nobody may be unable to walk the file's path. It
		// is the last one and stays open in the sentry, which can read its own
		// program anyway.
		Path:        fmt.Sprintf("/proc/self/fd/%d", firstFD+len(donated.files)),
		Args:        args,
		Env:         []string{},
		SysProcAttr: sentryAttributes(),
		ExtraFiles:  append(slices.Clone(donated.files), b.sentry),
	}, nil
}

// sentryAttributes isolates the sentry itself from the host, as a second wall
// behind the sentry's own.
func sentryAttributes() *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: nobody, HostID: nobody, Size: 1}}
	return &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS |
			unix.CLONE_NEWPID | unix.CLONE_NEWUSER,
		UidMappings: ids,
		GidMappings: ids,
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
		// It builds itself an empty root, then drops these for good.
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP},
	}
}

// fork starts cmd from a thread that visits the slot's network namespace and
// control group.
func (b birth) fork(cmd *exec.Cmd) error {
	return onThread(func() (bool, error) {
		leaveGroup, err := b.group.Enter(cmd.SysProcAttr)
		if err != nil {
			return false, err
		}
		leaveNetwork := func() error { return nil }
		if b.network == "" {
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
		} else if leaveNetwork, err = enterNetwork(b.network); err != nil {
			return leaveGroup() == nil, err
		}
		err = errors.Join(closeOnExec(), cmd.Start())
		left := errors.Join(leaveNetwork(), leaveGroup())
		return left == nil, errors.Join(err, left)
	})
}

// closeOnExec marks every descriptor of this process close-on-exec: those that
// Go opened are, but not what the process was born with or what other code opened.
func closeOnExec() error {
	const first = 3 // exec.Cmd replaces the standard streams
	err := unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	return os.NewSyscallError("close_range", err)
}

// specFile returns an unnamed file with the spec; it exists in memory only.
func specFile(spec *specs.Spec) (*os.File, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("spec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "spec")
	if _, err := file.Write(data); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// openNull is the standard input, output and error of everything: no pipe or
// terminal of ours may end in a sandbox.
func openNull() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }
