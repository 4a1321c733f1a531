package doctor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/lehr-dev/lehr/internal/hostnet"
)

// madeUp is a machine on which everything is as it should be; files are by
// absolute path.
func madeUp(files map[string]string) machine {
	all := map[string]string{
		"/proc/self/status":                       "Name:\tlehr\nCapEff:\t000001ffffffffff\n",
		"/proc/self/mounts":                       "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n",
		"/sys/fs/cgroup/cgroup.controllers":       "cpuset cpu io memory hugetlb pids\n",
		"/proc/sys/kernel/seccomp/actions_avail":  "kill_process kill_thread trap errno trace log allow\n",
		"/proc/sys/kernel/yama/ptrace_scope":      "1\n",
		"/proc/filesystems":                       "nodev\ttmpfs\n\text4\n\terofs\n",
		"/proc/meminfo":                           "MemTotal:  8000000 kB\nMemAvailable:  4000000 kB\n",
		"/etc/resolv.conf":                        "nameserver 192.0.2.53\n",
		"/etc/apt/sources.list.d/debian.sources":  "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n",
		"/etc/apt/sources.list.d/other.list":      "deb [signed-by=/k] https://other.example/apt stable main\n",
		"/var/lib/file":                           "x",
		"/var/lib/lehr-is-not-here-but-this-is/x": "x",
	}
	for path, text := range files {
		all[path] = text
	}
	system := fstest.MapFS{}
	for path, text := range all {
		if text != "" { // empty: the file is missing
			system[path[1:]] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	inside := func(path string) string {
		if path == "/" {
			return "."
		}
		return path[1:]
	}
	return machine{
		system: "linux", architecture: "amd64",
		readFile: func(path string) ([]byte, error) { return system.ReadFile(inside(path)) },
		glob: func(pattern string) ([]string, error) {
			found, err := system.Glob(inside(pattern))
			for i := range found {
				found[i] = "/" + found[i]
			}
			return found, err
		},
		stat:       func(path string) (os.FileInfo, error) { return system.Stat(inside(path)) },
		fileSystem: func(string) (fileSystem, error) { return fileSystem{free: 100 << 30}, nil },
		tryWrite:   func(string) error { return nil },
		program:    func(name string) (string, error) { return "/usr/bin/" + name, nil },
		kernel:     func() (string, error) { return "6.1.0-18-amd64", nil },
		openFiles:  func() (uint64, error) { return 1 << 20, nil },
		listen:     func(context.Context, string) error { return nil },
		network:    func() hostnet.Support { return hostnet.Support{} },
		blocker:    func() (string, error) { return "", nil },
	}
}

// options look at everything.
var options = Options{DataDir: "/var/lib/lehr", Listen: "127.0.0.1:7070"}

func TestEverythingIsAsItShouldBe(t *testing.T) {
	t.Parallel()
	checks := run(context.Background(), options, madeUp(nil))
	for _, c := range checks {
		if !c.OK || c.Remedy != "" || c.Detail == "" {
			t.Errorf("%s = %+v, want OK with a detail and no remedy", c.Name, c)
		}
	}
	if !Ready(checks) {
		t.Error("Ready() = false, want true")
	}
}

func TestEachFindingHasReasonAndRemedy(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	file := func(path, text string) func(*machine) {
		return func(m *machine) { m.readFile = madeUp(map[string]string{path: text}).readFile }
	}
	tests := []struct {
		check    string
		optional bool
		spoil    func(*machine)
		detail   string // part of what is found
	}{
		{"platform", false, func(m *machine) { m.system = "darwin" }, "darwin/amd64"},
		{"platform", false, func(m *machine) { m.architecture = "386" }, "linux/386"},
		{"root", false, func(m *machine) { m.userID = 1000 }, "user 1000"},
		{"root", false, file("/proc/self/status", "CapEff:\t00000000a80425fb\n"), "CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN"},
		{"root", false, file("/proc/self/status", ""), "could not be read"},
		{"kernel", false, func(m *machine) { m.kernel = func() (string, error) { return "4.19.0", nil } }, "4.19.0"},
		{"kernel", false, func(m *machine) { m.kernel = func() (string, error) { return "5.9.16", nil } }, "5.9.16"},
		{"kernel", false, func(m *machine) { m.kernel = func() (string, error) { return "unknown", nil } }, "unknown"},
		{"network namespaces", false, func(m *machine) {
			m.network = func() hostnet.Support { return hostnet.Support{Namespace: broken} }
		}, "broken"},
		{"veth", false, func(m *machine) {
			m.network = func() hostnet.Support { return hostnet.Support{Device: broken} }
		}, "broken"},
		{"nftables", false, func(m *machine) {
			m.network = func() hostnet.Support { return hostnet.Support{Rules: broken} }
		}, "broken"},
		{"forwarding", true, func(m *machine) { m.blocker = func() (string, error) { return "inet forward", nil } }, "inet forward"},
		{"forwarding", true, func(m *machine) { m.blocker = func() (string, error) { return "", broken } }, "broken"},
		{"forwarding", true, file("/proc/net/ip_tables_names", "nat\nfilter\n"), "legacy iptables"},
		{"cgroups", false, file("/sys/fs/cgroup/cgroup.controllers", "cpu pids\n"), "version 2 without memory"},
		{"cgroups", false, file("/sys/fs/cgroup/cgroup.controllers", ""), "version 1 without cpu, memory, pids"},
		{"seccomp", false, file("/proc/sys/kernel/seccomp/actions_avail", ""), "no seccomp filters"},
		{"seccomp", false, file("/proc/sys/kernel/seccomp/actions_avail", "allow\n"), "not trap"},
		{"ptrace", false, file("/proc/sys/kernel/yama/ptrace_scope", "3\n"), `"3"`},
		{"memory", false, file("/proc/meminfo", "MemAvailable: 500000 kB\n"), "488 MiB"},
		{"memory", false, file("/proc/meminfo", "MemFree: 1 kB\n"), "could not be read"},
		{"open files", true, func(m *machine) { m.openFiles = func() (uint64, error) { return 1024, nil } }, "1024"},
		{"data folder", false, func(m *machine) { m.tryWrite = func(string) error { return syscall.EROFS } }, "read-only"},
		{"data folder", false, func(m *machine) { m.stat = func(string) (os.FileInfo, error) { return nil, syscall.EACCES } }, "permission"},
		{"disk", false, func(m *machine) {
			m.fileSystem = func(string) (fileSystem, error) { return fileSystem{free: 1 << 30}, nil }
		}, "1.0 GiB"},
		{"disk", false, func(m *machine) {
			m.fileSystem = func(string) (fileSystem, error) { return fileSystem{free: 1 << 30, inMemory: true}, nil }
		}, "tmpfs"},
		{"disk", true, func(m *machine) {
			m.fileSystem = func(string) (fileSystem, error) { return fileSystem{free: 100 << 30, inMemory: true}, nil }
		}, "tmpfs"},
		{"listen address", false, func(m *machine) { m.listen = func(context.Context, string) error { return syscall.EADDRINUSE } }, "in use"},
		{"listen address", false, func(m *machine) { m.listen = func(context.Context, string) error { return syscall.EACCES } }, "permission"},
		{"listen address", false, func(m *machine) { m.listen = func(context.Context, string) error { return broken } }, "broken"},
		{"resolver", true, file("/etc/resolv.conf", ""), "no names"},
		{"resolver", true, file("/etc/resolv.conf", "search example.com\n"), "names none"},
		{"base image", true, func(m *machine) { m.program = func(string) (string, error) { return "", os.ErrNotExist } }, "registry"},
		{"debian mirror", true, func(m *machine) {
			m.glob = func(string) ([]string, error) { return nil, nil }
		}, "no Debian mirror"},
		{"erofs", true, file("/proc/filesystems", "ext4\n"), "EROFS"},
	}
	for _, test := range tests {
		m := madeUp(nil)
		test.spoil(&m)
		checks := run(context.Background(), options, m)
		i := slices.IndexFunc(checks, func(c Check) bool { return c.Name == test.check })
		if i < 0 {
			t.Fatalf("there is no check %q", test.check)
		}
		c := checks[i]
		if c.OK || c.Optional != test.optional || c.Remedy == "" || !strings.Contains(c.Detail, test.detail) {
			t.Errorf("%+v, want not OK, optional %v, a remedy, and %q", c, test.optional, test.detail)
		}
		if Ready(checks) != test.optional {
			t.Errorf("%s: Ready() = %v, want %v", test.check, !test.optional, test.optional)
		}
	}
}

func TestCgroupsOfVersionOne(t *testing.T) {
	t.Parallel()
	m := madeUp(map[string]string{
		"/sys/fs/cgroup/cgroup.controllers": "",
		"/proc/self/mounts": "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n" +
			"cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n",
	})
	if got := cgroups(context.Background(), options, m); !got.OK || !strings.Contains(got.Detail, "version 1") {
		t.Errorf("cgroups() = %+v, want version 1", got)
	}
}

func TestWhatIsNotAskedForIsNotLookedAt(t *testing.T) {
	t.Parallel()
	m := madeUp(nil)
	m.tryWrite = func(string) error { return errors.New("not to be tried") }
	m.listen = func(context.Context, string) error { return errors.New("not to be tried") }
	if checks := run(context.Background(), Options{}, m); !Ready(checks) {
		t.Errorf("Ready() = false, want true: %+v", checks)
	}
}

func TestRunAfterItsTime(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	checks := run(ctx, options, madeUp(nil))
	if Ready(checks) || len(checks) == 0 || checks[0].Remedy == "" {
		t.Errorf("run(ended context) = %+v, want checks that were not made", checks)
	}
}

func TestMirrorsIn(t *testing.T) {
	t.Parallel()
	tests := []struct{ text, want string }{
		{"", ""},
		{"# deb http://mirror.example/debian bookworm main\n", ""},
		{"deb http://mirror.example/debian/ bookworm main\n", "http://mirror.example/debian"},
		{"deb [arch=amd64 signed-by=/a] http://user:secret@mirror.example/debian bookworm main", "http://mirror.example/debian"},
		{"deb-src http://mirror.example/debian bookworm main\n", ""},
		{"Types: deb\nURIs: http://a.example/debian https://b.example/x/debian/\n", "http://a.example/debian https://b.example/x/debian"},
		{"deb http://mirror.example/debian-security bookworm-security main\n", ""},
		{"deb cdrom:[Debian]/ bookworm main\n", ""},
	}
	for _, test := range tests {
		if got := mirrorsIn([]byte(test.text)); !slices.Equal(got, strings.Fields(test.want)) {
			t.Errorf("mirrorsIn(%q) = %q, want %q", test.text, got, test.want)
		}
	}
}

func FuzzMirrorsIn(f *testing.F) {
	f.Add([]byte("deb http://mirror.example/debian bookworm main\nURIs: http://[::1/debian"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, mirror := range mirrorsIn(text) {
			if !strings.HasSuffix(mirror, "/debian") || strings.Contains(mirror, " ") {
				t.Errorf("mirrorsIn(%q) names %q", text, mirror)
			}
		}
	})
}

// TestThisMachine runs the real checks; a machine that runs the tests as root
// is one that can be a host.
func TestThisMachine(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	checks := Run(context.Background(), Options{DataDir: filepath.Join(dir, "not", "yet"), Listen: taken.Addr().String()})
	for _, c := range checks {
		t.Logf("%-20s ok=%-5v optional=%-5v %s | %s", c.Name, c.OK, c.Optional, c.Detail, c.Remedy)
		if c.Detail == "" || c.OK != (c.Remedy == "") {
			t.Errorf("%+v: a detail always, a remedy where it is not OK", c)
		}
		if c.Name == "listen address" && c.OK {
			t.Error("a taken address is reported free")
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIP-ENV: whether the machine can be a host is seen by root only")
	}
	for _, c := range checks {
		if !c.OK && !c.Optional && c.Name != "listen address" {
			t.Errorf("%s = %+v, want OK", c.Name, c)
		}
	}
}
