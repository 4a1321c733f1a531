package gvisor

import (
	"fmt"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// The two containers of every sandbox. Their names are the same everywhere: a
// restore matches containers by name.
const (
	rootContainer  = "pause"    // holds the sandbox open; a program of ours
	guestContainer = "template" // what the user sees

	typeAnnotation    = "io.kubernetes.cri.container-type"
	sandboxAnnotation = "io.kubernetes.cri.sandbox-id"
	nameAnnotation    = "io.kubernetes.cri.container-name"
)

// pauseBinary is the path of the pause program in its image.
const pauseBinary = "/pause"

// shmMB bounds /dev/shm for small sandboxes; larger ones get half of memory.
const shmMB = 64

// capabilities of the first process: Docker's default set, without raw sockets,
// and with SYS_ADMIN, with which the guest daemon takes a new identity after a
// restore and which it takes from every command it starts. They are capabilities
// towards the sentry's kernel, never the host's.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID",
	"CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT",
}

// openFiles is RLIMIT_NOFILE in the guest; package managers and databases ask
// for more than the usual 1024.
const openFiles = 1 << 20

// fileSize is RLIMIT_FSIZE in the guest, in bytes: a file of holes takes no
// disk, but the sentry holds each file whole when it writes the layer out. It is
// a little more than the disk, so that a full disk is found first.
func fileSize(r lehr.Resources) uint64 {
	const more = 1 << 20
	return uint64(r.DiskMB)<<20 + more
}

// pauseSpec describes the root container. Its program makes the control group of
// the template's container, in the sentry's kernel, and limits its processes:
// the sentry offers no call for that, and the guest may not do it.
func pauseSpec(slot engine.SlotID, r lehr.Resources) *specs.Spec {
	group := filepath.Join(cgroupMount, guestContainer)
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args:         []string{pauseBinary, group, filepath.Join(group, pidsMax), strconv.FormatInt(guestProcesses(r), 10)},
			Cwd:          "/",
			Capabilities: &specs.LinuxCapabilities{},
		},
		Root:   &specs.Root{Path: "/", Readonly: true},
		Mounts: []specs.Mount{{Destination: cgroupMount, Type: "cgroup", Source: "cgroup"}},
		Linux:  &specs.Linux{},
		Annotations: map[string]string{
			typeAnnotation:    "sandbox",
			sandboxAnnotation: string(slot),
			nameAnnotation:    rootContainer,
		},
	}
}

// guestSpec describes the container with the template in it.
func guestSpec(slot engine.SlotID, spec engine.StartSpec, r lehr.Resources) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: spec.Hostname,
		Process: &specs.Process{
			Args: spec.Init,
			Env:  spec.Env,
			Cwd:  "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: openFiles, Hard: openFiles},
				{Type: "RLIMIT_FSIZE", Soft: fileSize(r), Hard: fileSize(r)},
			},
		},
		Root:   &specs.Root{Path: "/"},
		Mounts: guestMounts(spec.Guest.Path, r),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.CgroupNamespace},
			},
		},
		Annotations: map[string]string{
			typeAnnotation:    "container",
			sandboxAnnotation: string(slot),
			nameAnnotation:    guestContainer,
		},
	}
}

// guestMounts returns what lies over the root image. /tmp and /dev/shm have
// sizes of their own: the default is half of the host's memory.
func guestMounts(guestImage string, r lehr.Resources) []specs.Mount {
	half := r.MemoryMB / 2
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{
			"nosuid", "noexec", "nodev", "mode=1777", size(max(half, shmMB)),
		}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: cgroupMount, Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", size(half)}},
		{Destination: filepath.Clean(engine.GuestMount), Type: "erofs", Source: guestImage, Options: []string{"ro"}},
	}
}

// cgroupMount is where the sentry's own control groups are in the guest.
const cgroupMount = "/sys/fs/cgroup"

// pidsMax is the control file that limits the processes of a group.
const pidsMax = "pids.max"

func size(mb int32) string { return fmt.Sprintf("size=%dm", mb) }
