package guestd_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/guest/guestclient"
	"github.com/lehr-dev/lehr/internal/guest/initd"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// envSandbox points the tests of this file at a daemon that is process 1 of a
// sandbox already ("host:port"), instead of at one in namespaces of its own.
const envSandbox = "LEHR_TEST_SANDBOX"

// The daemon as process 1: it gives the sandbox an identity that never enters
// the root file system, buries orphans, shrugs off signals and can end
// everybody else.
func TestProcessOne(t *testing.T) {
	client, pid := sandbox(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	health, err := client.Health(ctx)
	must(t, err)
	if health.Protocol != wire.Protocol || health.Version == "" {
		t.Errorf("Health = %+v, want protocol %d and a version", health, wire.Protocol)
	}
	for _, id := range []string{"first", "second"} {
		identity(ctx, t, client, id)
		if pid != 0 {
			below(t, pid)
		}
	}
	run(ctx, t, client, "kill -TERM 1; kill -HUP 1; kill -QUIT 1; kill -USR1 1; kill -ALRM 1; kill -ABRT 1", "")
	// The inner shell's child is handed to process 1 when that shell ends.
	run(ctx, t, client, "sh -c 'sleep 0.01 & :'; sleep 0.3; ps -o comm | grep -c '^sleep$' || true", "0\n")
	run(ctx, t, client, "setsid sleep 1000 >/dev/null 2>&1 </dev/null &", "")
	must(t, client.EndProcesses(ctx))
	run(ctx, t, client, "ps -o comm | grep -c '^sleep$' || true", "0\n")
	must(t, client.Sync(ctx))
}

// identity gives the sandbox an identity and checks what its users see.
func identity(ctx context.Context, t *testing.T, client *guestclient.Client, id string) {
	t.Helper()
	must(t, client.Init(ctx, guestclient.InitRequest{
		SandboxID: id, Hostname: id, Hosts: "127.0.0.1 localhost " + id + "\n", ResolvConf: "nameserver 10.0.0.1 # " + id + "\n",
		DefaultWorkdir: "/", EnvVars: map[string]string{"WHO": id, "HOME": "/root"},
	}))
	run(ctx, t, client, "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; echo $WHO",
		id+"\n"+id+"\n127.0.0.1 localhost "+id+"\nnameserver 10.0.0.1 # "+id+"\n"+id+"\n")
	var out output
	_, err := client.Exec(ctx, sh("cat /etc/machine-id"), out.add)
	must(t, err)
	run(ctx, t, client, "cat /proc/sys/kernel/random/boot_id", initd.NewBootID(id)+"\n")
	if got := strings.TrimSpace(out.stdout.String()); len(got) != 32 || strings.Trim(got, "0") == "" {
		t.Errorf("machine id = %q, want 32 digits that are not the image's", got)
	}
	run(ctx, t, client, "umount /etc/resolv.conf 2>/dev/null || echo stays; ls -d /.lehr-* /dev/.lehr-* /dev/shm/.lehr-* 2>/dev/null || true", "stays\n")
	otherUser(ctx, t, client, id)
}

// below looks under a mount at the root file system, which has only places for
// them. It takes an identity anew each time, for it takes the mount away.
func below(t *testing.T, pid int) {
	t.Helper()
	out, err := enter(pid, "umount /etc/resolv.conf && wc -c </etc/resolv.conf")
	if err != nil || out != "0\n" {
		t.Errorf("under the mounts: %q, %v, want an empty file", out, err)
	}
}

// enter runs a script in the daemon's namespaces with all capabilities, as an
// engine can.
func enter(pid int, script string) (string, error) {
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(pid), "-m", "-n", "-p", "-r", "/bin/sh", "-c", script).CombinedOutput()
	return string(out), err
}

// TestCommandsLackSysAdmin proves that no command has the daemon's capability,
// neither root's nor one through a setuid program, and that the daemon kept it.
func TestCommandsLackSysAdmin(t *testing.T) {
	client, _ := sandbox(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, user := range []string{"root", "al"} {
		req := guestclient.ExecRequest{Cmd: []string{"/bin/sh", "-c", "cat /proc/self/status; mount -t tmpfs tmpfs /tmp 2>/dev/null && echo mounted || true"}, User: user}
		var out output
		_, err := client.Exec(ctx, req, out.add)
		must(t, err)
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			if got := capabilitySet(t, out.stdout.String(), set); got&(1<<unix.CAP_SYS_ADMIN) != 0 {
				t.Errorf("%s of a command of %s = %x, want it without CAP_SYS_ADMIN", set, user, got)
			}
		}
		if strings.Contains(out.stdout.String(), "mounted") {
			t.Errorf("%s mounted a file system", user)
		}
	}
	// The daemon's own mounts: it can still take an identity.
	identity(ctx, t, client, "third")
}

func capabilitySet(t *testing.T, status, name string) uint64 {
	t.Helper()
	_, rest, _ := strings.Cut(status, name+":")
	line, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		t.Fatalf("%s in %q: %v", name, status, err)
	}
	return set
}

// otherUser runs a command as a user with a home and groups of its own.
func otherUser(ctx context.Context, t *testing.T, client *guestclient.Client, id string) {
	t.Helper()
	req := guestclient.ExecRequest{Cmd: []string{"/bin/sh", "-c", "id -un; id -G; echo $HOME; cat /root/x || touch /tmp/" + id}, User: "al"}
	var out output
	_, err := client.Exec(ctx, req, out.add)
	must(t, err)
	if got, want := out.stdout.String(), "al\n1000 2000\n/home/al\n"; got != want {
		t.Errorf("as al: %q, want %q", got, want)
	}
}

func run(ctx context.Context, t *testing.T, client *guestclient.Client, script, want string) {
	t.Helper()
	var out output
	exit, err := client.Exec(ctx, sh(script), out.add)
	must(t, err)
	if exit.Code != 0 || out.stdout.String() != want {
		t.Errorf("%s: %+v, %q, %q; want code 0, %q", script, exit, out.stdout.String(), out.stderr.String(), want)
	}
}

// sandbox returns a client of a daemon that is process 1, and its number here,
// which is 0 where the sandbox is somebody else's.
func sandbox(t *testing.T) (*guestclient.Client, int) {
	t.Helper()
	if addr := os.Getenv(envSandbox); addr != "" {
		client := guestclient.New(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}, secret)
		t.Cleanup(client.Close)
		return client, 0
	}
	if os.Getuid() != 0 {
		t.Skip("SKIP-ENV: namespaces need root")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("SKIP-ENV: the test's root file system is made of busybox")
	}
	root := rootfs(t)
	cmd := exec.Command("/init")
	sum := sha256.Sum256([]byte(secret))
	cmd.Env = []string{wire.EnvOperatorSHA256 + "=" + hex.EncodeToString(sum[:])}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:     root,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		// Unlike a clone flag, this makes the mounts private first.
		Unshareflags: unix.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	started := make(chan error, 1)
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		// The death signal is tied to the thread that starts the child.
		runtime.LockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		<-stop
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	must(t, <-started)
	t.Cleanup(func() { close(stop); <-ended })
	netns := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/net"
	client := guestclient.New(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialIn(ctx, netns, network)
	}, secret)
	t.Cleanup(client.Close)
	setup(t, client, cmd.Process.Pid)
	return client, cmd.Process.Pid
}

// setup mounts what a sandbox has; engines do it for real ones.
func setup(t *testing.T, client *guestclient.Client, pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := client.Health(ctx)
	must(t, err)
	must(t, client.Init(ctx, guestclient.InitRequest{SandboxID: "setup", DefaultWorkdir: "/"}))
	out, err := enter(pid, "mount -t proc proc /proc && mount -t tmpfs tmpfs /dev && ip link set lo up")
	if err != nil {
		t.Fatalf("mounting what a sandbox has: %v: %s", err, out)
	}
}

// dialIn connects to the daemon inside a network namespace.
func dialIn(ctx context.Context, netns, network string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread, moved for good, ends with the goroutine.
		runtime.LockOSThread()
		ns, err := os.Open(netns)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		// The kernel brings loopback's address with the interface; until then
		// the daemon is out of reach.
		if err := loopbackUp(); err != nil {
			done <- result{err: err}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", strconv.Itoa(wire.Port)))
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// rootfs makes a small root file system with the daemon in it.
func rootfs(t *testing.T) string {
	t.Helper()
	// A bind mount needs a mount point outside the test's own directory tree
	// to be cleaned up with it; plain files are enough here.
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "proc", "tmp", "dev", "root", "home/al"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.Chmod(root, 0o755))
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o1777))
	must(t, os.Chmod(filepath.Join(root, "root"), 0o700))
	copyFile(t, "/bin/busybox", filepath.Join(root, "bin/busybox"))
	for _, name := range strings.Fields("sh cat echo sleep id ls mount umount hostname ps kill setsid wc grep ip touch") {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
	}
	for name, content := range map[string]string{
		"etc/passwd":     "root:x:0:0:root:/root:/bin/sh\nal:x:1000:1000::/home/al:/bin/sh\n",
		"etc/group":      "root:x:0:\nal:x:1000:\nextra:x:2000:al\n",
		"etc/hostname":   "image\n",
		"etc/machine-id": strings.Repeat("0", 32) + "\n",
		"root/x":         "not al's\n",
	} {
		must(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
	}
	must(t, os.Symlink("../run/systemd/resolve/stub.conf", filepath.Join(root, "etc/resolv.conf")))
	build := exec.Command("go", "build", "-o", filepath.Join(root, "init"), "github.com/lehr-dev/lehr/cmd/lehr-init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return root
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	must(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, errors.Join(err, out.Close()))
}
