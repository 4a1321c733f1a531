package corpus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// runSelf runs this program again from another path and returns its output.
func runSelf(path, id string, env Env) (string, error) {
	input, err := json.Marshal(env)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(path, "try", id)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	var report Report
	if err == nil && json.Unmarshal(out, &report) == nil && report.Got == Breached {
		return env.Secret, nil
	}
	return string(out), err
}

// mounts are file systems that would bring the host in.
func mounts() []Attempt {
	with := func(source, kind string, flags uintptr, data string) func(Env) error {
		return func(env Env) error {
			dir, err := os.MkdirTemp("", "")
			if err != nil {
				return err
			}
			if source == "canary" {
				source = filepath.Dir(env.Canary)
			}
			return unix.Mount(source, dir, kind, flags, data)
		}
	}
	const host = "the host's files"
	return number("mount", []Attempt{
		{What: host, How: "ext4 of the disk, by name", Want: Refused, try: every(with("/dev/vda", "ext4", 0, ""), with("/dev/sda1", "ext4", 0, ""))},
		{What: host, How: "a bind mount of their path", Want: Refused, try: call(with("canary", "", unix.MS_BIND, ""))},
		{What: host, How: "9p, virtiofs and NFS", Want: Refused, try: every(
			with("hostfs", "9p", 0, "trans=fd,rfdno=0,wfdno=1"), with("hostfs", "virtiofs", 0, ""), with("127.0.0.1:/", "nfs", 0, "addr=127.0.0.1"))},
		{What: "a file that the sentry holds", How: "EROFS of its descriptors", Want: Refused, try: sentryImages},
		{What: host, How: "overlay over /proc/1/root", Want: Refused, try: call(with("overlay", "overlay", 0, "lowerdir=/proc/1/root:/"))},
		{What: "the sentry's kernel", How: "tmpfs, proc, sysfs, cgroup, devpts, mqueue anew", Want: Refused, try: every(
			with("x", "tmpfs", 0, ""), with("x", "proc", 0, ""), with("x", "sysfs", 0, ""), with("x", "cgroup", 0, ""),
			with("x", "cgroup2", 0, ""), with("x", "devpts", 0, ""), with("x", "mqueue", 0, ""))},
		{What: "the host's kernel", How: "devtmpfs, debugfs, tracefs, securityfs, bpf, fuse", Want: Refused, try: every(
			with("x", "devtmpfs", 0, ""), with("x", "debugfs", 0, ""), with("x", "tracefs", 0, ""), with("x", "securityfs", 0, ""),
			with("x", "bpf", 0, ""), with("x", "fuse", 0, "fd=0,rootmode=40000,user_id=0,group_id=0"))},
		{What: "the guest daemon's program", How: "/.lehr remounted writable", Want: Refused, try: call(func(Env) error {
			return unix.Mount("", "/.lehr", "", unix.MS_REMOUNT, "")
		})},
		{What: "the guest daemon's program", How: "/.lehr unmounted", Want: Refused, try: every(
			func(Env) error { return unix.Unmount("/.lehr", unix.MNT_DETACH) },
			func(Env) error { return unix.Unmount("/.lehr", unix.MNT_FORCE) })},
		{What: "the process limit", How: "/sys/fs/cgroup remounted writable", Want: Refused, try: call(func(Env) error {
			return unix.Mount("", "/sys/fs/cgroup", "", unix.MS_REMOUNT, "")
		})},
		{What: host, How: "fsopen, open_tree, mount_setattr", Want: Refused, try: every(
			func(Env) error { _, err := unix.Fsopen("tmpfs", 0); return err },
			func(env Env) error { _, err := unix.OpenTree(unix.AT_FDCWD, filepath.Dir(env.Canary), 0); return err },
			func(Env) error {
				return unix.MountSetattr(unix.AT_FDCWD, "/.lehr", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
			})},
		{What: "binfmt_misc", How: "mount and register", Want: Refused, try: every(
			with("binfmt_misc", "binfmt_misc", 0, ""), put("/proc/sys/fs/binfmt_misc/register", ":x:M::x::/bin/sh:"))},
		{What: "release_agent", How: "a cgroup of version 1, its agent", Want: Refused, try: call(releaseAgent)},
		{What: host, How: "all of it again in a user namespace", Want: Contained, try: look(mountInUserNamespace)},
	})
}

// sentryImages asks the sentry to mount descriptors that it may hold.
func sentryImages(Env) (Want, string) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return Refused, err.Error()
	}
	for fd := range 64 {
		if err = unix.Mount("none", dir, "erofs", unix.MS_RDONLY, fmt.Sprintf("ifd=%d", fd)); err == nil {
			return Breached, fmt.Sprintf("descriptor %d of the sentry", fd)
		}
	}
	return Refused, err.Error()
}

func releaseAgent(Env) error {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return err
	}
	if err := unix.Mount("cgroup", dir, "cgroup", 0, "memory"); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "release_agent"), []byte("/x"), 0)
}

// mountInUserNamespace takes a user and a mount namespace, where it has every
// capability, and mounts what it can.
func mountInUserNamespace(env Env) (string, error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNS); err != nil {
		return "", err
	}
	var seen strings.Builder
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return "", err
	}
	for _, m := range [][3]string{
		{"/dev/vda", "ext4", ""},
		{"hostfs", "9p", "trans=fd,rfdno=0,wfdno=1"},
		{"none", "erofs", "ifd=3"},
		{"overlay", "overlay", "lowerdir=/proc/1/root:/"},
		{"proc", "proc", ""},
		{"none", "tmpfs", ""},
	} {
		if err := unix.Mount(m[0], dir, m[1], 0, m[2]); err != nil {
			continue
		}
		for _, path := range []string{env.Canary, "/1/root" + env.Canary} {
			b, _ := os.ReadFile(dir + path)
			seen.Write(b)
		}
	}
	return seen.String(), nil
}

// put writes text to a file of the kernel.
func put(path, text string) func(Env) error {
	return func(Env) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
}

// settings are the switches of the host's kernel.
func settings() []Attempt {
	const what = "a setting of the host's kernel"
	sysctl := func(name, text string) Attempt {
		return Attempt{What: what, How: "a write to " + name, Want: Contained, try: call(put("/proc/sys/"+name, text))}
	}
	return number("setting", []Attempt{
		{What: "the host's kernel", How: "sysrq: crash", Want: Refused, try: call(put("/proc/sysrq-trigger", "c"))},
		sysctl("kernel/core_pattern", "|/bin/sh"),
		sysctl("kernel/modprobe", "/tmp/x"),
		sysctl("kernel/hotplug", "/tmp/x"),
		sysctl("kernel/sysrq", "1"),
		sysctl("kernel/panic_on_oops", "1"),
		sysctl("kernel/randomize_va_space", "0"),
		sysctl("kernel/yama/ptrace_scope", "0"),
		sysctl("kernel/hostname", "escaped"),
		sysctl("kernel/ns_last_pid", "1"),
		sysctl("vm/overcommit_memory", "1"),
		sysctl("fs/suid_dumpable", "2"),
		sysctl("net/ipv4/ip_forward", "1"),
		{What: "the host's out-of-memory order", How: "oom_score_adj -1000 of oneself and of 1", Want: Contained, try: every(
			put("/proc/self/oom_score_adj", "-1000"), put("/proc/1/oom_score_adj", "-1000"))},
		{What: "the process limit", How: "a write to pids.max", Want: Refused, try: every(
			put("/sys/fs/cgroup/pids.max", "max"), put("/sys/fs/cgroup/template/pids.max", "max"),
			put("/sys/fs/cgroup/cgroup.procs", "0"), func(Env) error { return os.Mkdir("/sys/fs/cgroup/new", 0o755) })},
		{What: "the kernel's event helper", How: "/sys/kernel/uevent_helper", Want: Refused, try: call(put("/sys/kernel/uevent_helper", "/tmp/x"))},
		{What: "a device's power", How: "/sys/power/state, /sys/power/disk", Want: Refused, try: every(
			put("/sys/power/state", "mem"), put("/sys/power/disk", "reboot"))},
	})
}
