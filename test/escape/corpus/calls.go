package corpus

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// raw makes one system call of that number.
func raw(number uintptr, args ...uintptr) func(Env) error {
	return func(Env) error {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		return number0(errno)
	}
}

// buffer is a pointer to zeroes that lives as long as the process.
func buffer() uintptr { return uintptr(unsafe.Pointer(&make([]byte, 4096)[0])) }

// tracing is looking into other processes.
func tracing() []Attempt {
	hostPID := func(f func(pid int) error) func(Env) (Want, string) {
		return call(func(env Env) error { return f(env.PID) })
	}
	first := func(f func(pid int) error) func(Env) (Want, string) {
		return call(func(Env) error { return f(1) })
	}
	return number("trace", []Attempt{
		{What: "the guest daemon", How: "ptrace attach", Want: Refused, try: first(unix.PtraceAttach)},
		{What: "the guest daemon", How: "ptrace seize", Want: Refused, try: first(unix.PtraceSeize)},
		{What: "the guest daemon's memory", How: "process_vm_readv", Want: Refused, try: first(vmRead)},
		{What: "the guest daemon's memory", How: "process_vm_writev", Want: Refused, try: first(vmWrite)},
		{What: "the guest daemon's memory", How: "/proc/1/mem, maps, auxv", Want: Refused, try: every(
			writeTo("/proc/1/mem"), list("/proc/1/mem"), list("/proc/1/maps"), list("/proc/1/auxv"))},
		{What: "the guest daemon's descriptors", How: "pidfd_getfd", Want: Refused, try: first(pidfdGet)},
		{What: "the guest daemon's descriptors", How: "/proc/1/fd, each opened", Want: Refused, try: call(func(Env) error {
			err := errors.New("none are shown")
			for fd := range 32 {
				var f *os.File
				if f, err = os.OpenFile(fmt.Sprintf("/proc/1/fd/%d", fd), os.O_RDWR, 0); err == nil {
					name, _ := os.Readlink(fmt.Sprintf("/proc/1/fd/%d", fd))
					if f.Close(); name != "/dev/null" {
						return nil
					}
					err = errors.New("the null device")
				}
			}
			return err
		})},
		{What: "a process of the host", How: "ptrace attach", Want: Refused, try: hostPID(unix.PtraceAttach)},
		{What: "a process of the host", How: "signals", Want: Refused, try: hostPID(func(pid int) error { return unix.Kill(pid, 0) })},
		{What: "a process of the host", How: "SIGKILL", Want: Refused, try: hostPID(func(pid int) error { return unix.Kill(pid, unix.SIGKILL) })},
		{What: "a process of the host", How: "process_vm_readv", Want: Refused, try: hostPID(vmRead)},
		{What: "a process of the host", How: "pidfd_open", Want: Refused, try: hostPID(func(pid int) error { _, err := unix.PidfdOpen(pid, 0); return err })},
		{What: "a process of the host", How: "setpriority, sched_setaffinity, prlimit", Want: Refused, try: every(
			func(env Env) error { return unix.Setpriority(unix.PRIO_PROCESS, env.PID, 19) },
			func(env Env) error { return unix.SchedSetaffinity(env.PID, &unix.CPUSet{1}) },
			func(env Env) error { return unix.Prlimit(env.PID, unix.RLIMIT_NOFILE, &unix.Rlimit{}, nil) })},
		{What: "a process of the host", How: "kcmp", Want: Refused, try: hostPID(func(pid int) error {
			return raw(unix.SYS_KCMP, uintptr(pid), uintptr(pid), 0)(Env{})
		})},
	})
}

func vmRead(pid int) error {
	b := make([]byte, 8)
	local := []unix.Iovec{{Base: &b[0], Len: 8}}
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
	return err
}

func vmWrite(pid int) error {
	b := make([]byte, 8)
	local := []unix.Iovec{{Base: &b[0], Len: 8}}
	_, err := unix.ProcessVMWritev(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
	return err
}

func pidfdGet(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	_, err = unix.PidfdGetfd(fd, 3, 0)
	return err
}

// namespaces are new ones and those of others. A new one is the sentry's own
// affair: nothing of the host is in it.
func namespaces() []Attempt {
	fresh := func(name string, flag int) Attempt {
		return Attempt{What: "a namespace of the host", How: "unshare " + name, Want: Contained, try: look(func(env Env) (string, error) {
			runtime.LockOSThread() // never unlocked: the process ends
			if err := unix.Unshare(flag); err != nil {
				return "", err
			}
			text, _ := readBelow("/proc/[0-9]*/root")(env)
			return text, nil
		})}
	}
	return number("namespace", []Attempt{
		fresh("mount", unix.CLONE_NEWNS),
		fresh("uts", unix.CLONE_NEWUTS),
		fresh("ipc", unix.CLONE_NEWIPC),
		fresh("pid", unix.CLONE_NEWPID),
		fresh("network", unix.CLONE_NEWNET),
		fresh("user", unix.CLONE_NEWUSER),
		fresh("cgroup", unix.CLONE_NEWCGROUP),
		fresh("time", unix.CLONE_NEWTIME),
		{What: "the daemon's namespaces", How: "setns into each of process 1", Want: Refused, try: call(func(Env) error {
			var failure error
			for _, name := range []string{"mnt", "pid", "uts", "ipc", "user", "net"} {
				f, err := os.Open("/proc/1/ns/" + name)
				if err != nil {
					failure = err
					continue
				}
				if failure = unix.Setns(int(f.Fd()), 0); failure == nil && name == "user" {
					return nil
				}
			}
			return fmt.Errorf("the last was: %w", orDone(failure))
		})},
		{What: "a namespace of the host", How: "setns by the pidfd of a process of the host", Want: Refused, try: call(func(env Env) error {
			fd, err := unix.PidfdOpen(env.PID, 0)
			if err != nil {
				return err
			}
			return unix.Setns(fd, unix.CLONE_NEWNS)
		})},
		{What: "root outside", How: "uid_map of the whole range", Want: Contained, try: call(uidMap)},
		{What: "more rights", How: "clone of user, mount, pid and network together, then the way to a file", Want: Contained, try: look(cloneAll)},
	})
}

func orDone(err error) error {
	if err == nil {
		return errors.New("in the same namespace as before")
	}
	return err
}

// uidMap takes a user namespace and maps host ids that its maker does not have.
func uidMap(Env) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = mapAll()
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = cmd.Wait() // it has no arguments and says so
	return nil
}

func cloneAll(env Env) (string, error) {
	return runSelfIn("file-04", env, unix.CLONE_NEWUSER|unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWNET)
}

// calls are system calls that reach into the host's kernel where they are served.
func calls() []Attempt {
	one := func(what, how string, f func(Env) error) Attempt {
		return Attempt{What: what, How: how, Want: Refused, try: call(f)}
	}
	list := []Attempt{
		one("the host's kernel", "bpf: a program", raw(unix.SYS_BPF, 5, buffer(), 120)),
		one("the host's kernel", "bpf: a map", raw(unix.SYS_BPF, 0, buffer(), 120)),
		one("keys of the host", "add_key", raw(unix.SYS_ADD_KEY, buffer(), buffer(), buffer(), 1, 0xfffffffd)),
		one("keys of the host", "keyctl: the persistent keyring of root", raw(unix.SYS_KEYCTL, 22, 0, 0xfffffffe)),
		one("keys of the host", "request_key", raw(unix.SYS_REQUEST_KEY, buffer(), buffer(), 0, 0)),
		one("counters of the host", "perf_event_open", raw(unix.SYS_PERF_EVENT_OPEN, buffer(), 0, 0, ^uintptr(0), 0)),
		one("the host's kernel", "userfaultfd", raw(unix.SYS_USERFAULTFD, 0)),
		one("another kernel", "kexec_load", raw(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0)),
		one("another kernel", "kexec_file_load", raw(unix.SYS_KEXEC_FILE_LOAD, 0, 0, 0, 0, 0)),
		one("a kernel module", "init_module", raw(unix.SYS_INIT_MODULE, buffer(), 4096, buffer())),
		one("a kernel module", "finit_module", raw(unix.SYS_FINIT_MODULE, 0, buffer(), 0)),
		one("a kernel module", "delete_module", raw(unix.SYS_DELETE_MODULE, buffer(), 0)),
		one("quotas of the host", "quotactl", raw(unix.SYS_QUOTACTL, 0x80000700, 0, 0, buffer())),
		one("events of the host's files", "fanotify_init", raw(unix.SYS_FANOTIFY_INIT, 0, 0)),
		one("memory of the host", "swapon", raw(unix.SYS_SWAPON, buffer(), 0)),
		one("memory of the host", "swapoff", raw(unix.SYS_SWAPOFF, buffer())),
		one("accounts of the host", "acct", func(Env) error { return unix.Acct("/tmp/acct") }),
		one("pages of another", "move_pages", raw(unix.SYS_MOVE_PAGES, 1, 1, buffer(), buffer(), buffer(), 0)),
		one("pages of another", "migrate_pages", raw(unix.SYS_MIGRATE_PAGES, 1, 8, buffer(), buffer())),
		one("the host's terminals", "vhangup", raw(unix.SYS_VHANGUP)),
		one("memory without an owner", "memfd_secret", raw(unix.SYS_MEMFD_SECRET, 0)),
		{What: "the host's kernel", How: "io_uring_setup", Want: Contained, try: call(raw(unix.SYS_IO_URING_SETUP, 8, buffer()))},
		{What: "the host kernel's log", How: "syslog: read all", Want: Contained, try: look(kernelLog)},
		{What: "layout of memory", How: "personality: no randomisation", Want: Contained, try: call(raw(unix.SYS_PERSONALITY, 0x0040000))},
		{What: "processors of the host", How: "a realtime scheduler", Want: Contained, try: call(func(Env) error {
			return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 99}, 0)
		})},
		{What: "memory of the host", How: "mlockall", Want: Contained, try: call(func(Env) error { return unix.Mlockall(unix.MCL_CURRENT) })},
		{What: "more rights", How: "capabilities raised and kept", Want: Refused, try: every(raiseCapabilities, func(Env) error {
			return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_SYS_ADMIN, 0, 0)
		})},
		{What: "the machine", How: "reboot", Want: Refused, Alone: true, try: call(raw(unix.SYS_REBOOT, 0xfee1dead, 672274793, 0x01234567, 0))},
		{What: "shared memory of the host", How: "its key", Want: Refused, Bites: true, try: look(sharedMemory)},
	}
	if runtime.GOARCH == "amd64" {
		const iopl, ioperm, modifyLDT = 172, 173, 154
		list = append(list,
			one("the host's ports", "iopl", raw(iopl, 3)),
			one("the host's ports", "ioperm", raw(ioperm, 0x70, 2, 1)),
			Attempt{What: "segments", How: "modify_ldt", Want: Contained, try: call(raw(modifyLDT, 1, buffer(), 16))},
		)
	}
	return number("call", list)
}

func kernelLog(Env) (string, error) {
	b := make([]byte, 1<<16)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	return string(b[:max(0, n)]), err
}

func raiseCapabilities(Env) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	bit := uint32(1) << unix.CAP_SYS_ADMIN
	data[0].Permitted |= bit
	data[0].Effective |= bit
	return unix.Capset(&header, &data[0])
}

func sharedMemory(env Env) (string, error) {
	id, err := unix.SysvShmGet(env.Memory, 0, 0)
	if err != nil {
		return "", err
	}
	b, err := unix.SysvShmAttach(id, 0, unix.SHM_RDONLY)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.SysvShmDetach(b) }()
	return strings.TrimRight(string(b), "\x00"), nil
}

// clocks are the host's times and names.
func clocks() []Attempt {
	const clock = "the host's clock"
	return number("clock", []Attempt{
		{What: clock, How: "settimeofday", Want: Refused, try: call(func(Env) error { return unix.Settimeofday(&unix.Timeval{Sec: 1}) })},
		{What: clock, How: "clock_settime", Want: Refused, try: call(func(Env) error {
			return raw(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&unix.Timespec{Sec: 1})))(Env{})
		})},
		{What: clock, How: "adjtimex", Want: Refused, try: call(func(Env) error {
			_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_SETOFFSET, Time: unix.Timeval{Sec: 1000}})
			return err
		})},
		{What: clock, How: "clock_adjtime", Want: Refused, try: call(func(Env) error {
			_, err := unix.ClockAdjtime(unix.CLOCK_REALTIME, &unix.Timex{Modes: unix.ADJ_SETOFFSET, Time: unix.Timeval{Sec: 1000}})
			return err
		})},
		{What: "the host's name", How: "sethostname", Want: Refused, try: call(func(Env) error { return unix.Sethostname([]byte("escaped")) })},
		{What: "the host's domain", How: "setdomainname", Want: Refused, try: call(func(Env) error { return unix.Setdomainname([]byte("escaped")) })},
	})
}
