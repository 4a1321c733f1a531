package corpus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// devices are ways to the machine's devices and memory.
func devices() []Attempt {
	block := func(major, minor uint32) func(Env) (Want, string) { return node(unix.S_IFBLK, major, minor) }
	char := func(major, minor uint32) func(Env) (Want, string) { return node(unix.S_IFCHR, major, minor) }
	return number("device", []Attempt{
		{What: "the host's disk (virtio)", How: "mknod of 254:0, read", Want: Refused, try: block(254, 0)},
		{What: "the host's disk (SCSI)", How: "mknod of 8:0, read", Want: Refused, try: block(8, 0)},
		{What: "the host's disk (NVMe)", How: "mknod of 259:0, read", Want: Refused, try: block(259, 0)},
		{What: "a loop device", How: "mknod of 7:0, read", Want: Refused, try: block(7, 0)},
		{What: "the disk of the canary", How: "mknod of its numbers, read", Want: Refused, try: canaryDisk},
		{What: "the host's memory", How: "mknod of /dev/mem, read", Want: Refused, try: char(1, 1)},
		{What: "the host kernel's memory", How: "mknod of /dev/kmem, read", Want: Refused, try: char(1, 2)},
		{What: "the host's ports", How: "mknod of /dev/port, read", Want: Refused, try: char(1, 4)},
		{What: "the host kernel's log", How: "mknod of /dev/kmsg, read", Want: Refused, try: char(1, 11)},
		{What: "virtual machines", How: "mknod of /dev/kvm", Want: Refused, try: char(10, 232)},
		{What: "the watchdog", How: "mknod of /dev/watchdog", Want: Refused, try: char(10, 130)},
		{What: "vhost-vsock", How: "mknod of 10:241", Want: Refused, try: char(10, 241)},
		{What: "loop devices", How: "mknod of /dev/loop-control", Want: Refused, try: char(10, 237)},
		{What: "device mapper", How: "mknod of 10:236", Want: Refused, try: char(10, 236)},
		{What: "a network device", How: "/dev/net/tun, TUNSETIFF", Want: Refused, try: call(tun)},
		{What: "the host's devices", How: "block devices in /dev", Want: Contained, try: blockDevices},
		{What: "the host kernel's memory", How: "/proc/kcore", Want: Refused, try: look(head("/proc/kcore"))},
		{What: "the host kernel's addresses", How: "/proc/kallsyms", Want: Contained, try: addresses("/proc/kallsyms")},
		{What: "the host kernel's addresses", How: "/proc/modules", Want: Contained, try: addresses("/proc/modules")},
		{What: "the machine's firmware", How: "/sys/firmware, /sys/kernel/debug, /sys/kernel/security", Want: Refused, try: every(
			list("/sys/firmware"), list("/sys/kernel/debug"), list("/sys/kernel/security"))},
		{What: "the terminal of another", How: "TIOCSTI", Want: Refused, try: call(terminalInput)},
		{What: "the host's pages", How: "/proc/self/pagemap, /proc/kpageflags", Want: Refused, try: every(
			list("/proc/self/pagemap"), list("/proc/kpageflags"))},
	})
}

// node makes a device file and reads from it. It is refused where either fails.
func node(kind, major, minor uint32) func(Env) (Want, string) {
	return call(func(Env) error {
		dir, err := os.MkdirTemp("", "")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		var failures []error
		// /tmp and /dev have their own options; the root has none.
		for _, place := range []string{dir, "/", "/dev", "/dev/shm"} {
			path := filepath.Join(place, "node")
			err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(major, minor)))
			if err == nil {
				_, err = head(path)(Env{})
				_ = os.Remove(path)
			}
			if err == nil {
				return nil
			}
			failures = append(failures, err)
		}
		return errors.Join(failures...)
	})
}

// canaryDisk looks for the numbers of the disk that the canary is on: outside
// they are known, inside the path says nothing.
func canaryDisk(env Env) (Want, string) {
	var st unix.Stat_t
	if err := unix.Stat(env.Canary, &st); err != nil {
		return Refused, err.Error()
	}
	return node(unix.S_IFBLK, unix.Major(st.Dev), unix.Minor(st.Dev))(env)
}

// head reads the first bytes of a file without waiting for them.
func head(path string) func(Env) (string, error) {
	return func(Env) (string, error) {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return "", fmt.Errorf("open: %w", err)
		}
		defer unix.Close(fd)
		b := make([]byte, 4096)
		n, err := unix.Read(fd, b)
		if err != nil {
			return "", fmt.Errorf("read: %w", err)
		}
		return string(b[:n]), nil
	}
}

// addresses is breached where a file lists kernel addresses that are not hidden.
func addresses(path string) func(Env) (Want, string) {
	return func(Env) (Want, string) {
		b, err := os.ReadFile(path)
		if err != nil {
			return Refused, err.Error()
		}
		for line := range strings.Lines(string(b)) {
			for _, word := range strings.Fields(line) {
				word = strings.TrimPrefix(word, "0x")
				if len(word) == 16 && strings.HasPrefix(word, "ffff") {
					return Breached, line
				}
			}
		}
		return Contained, fmt.Sprintf("%d bytes without an address", len(b))
	}
}

func list(path string) func(Env) error {
	return func(Env) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			_, err := head(path)(Env{})
			return err
		}
		entries, err := os.ReadDir(path)
		if err == nil && len(entries) == 0 {
			err = errors.New("it is empty")
		}
		return err
	}
}

func blockDevices(Env) (Want, string) {
	var found []string
	err := filepath.WalkDir("/dev", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type()&os.ModeDevice != 0 && d.Type()&os.ModeCharDevice == 0 {
			found = append(found, path)
		}
		return nil
	})
	if len(found) > 0 || err != nil {
		return Breached, fmt.Sprint(found, err)
	}
	return Contained, "none"
}

func tun(Env) error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	request, err := unix.NewIfreq("tun9")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request)
}

func terminalInput(Env) error {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	letter := byte('x')
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.TIOCSTI, uintptr(unsafe.Pointer(&letter)))
	return number0(errno)
}

// number0 is the error of an error number.
func number0(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
