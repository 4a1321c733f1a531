package initd

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// The files an identity is made of. Their contents are mounted over what the
// image has and never enter the writable layer; where the image has none, an
// empty file does, as a place to mount on.
const (
	fileHostname   = "/etc/hostname"
	fileHosts      = "/etc/hosts"
	fileResolver   = "/etc/resolv.conf"
	fileMachineID  = "/etc/machine-id"
	fileDBusID     = "/var/lib/dbus/machine-id"
	fileBootID     = "/proc/sys/kernel/random/boot_id" // gVisor restores it with the memory
	identityMemory = "size=4m,mode=0755"               // of the tmpfs that holds them
)

// Identity is what distinguishes this sandbox from others of its image or
// snapshot.
type Identity struct {
	Hostname   string // "": left as it is
	Hosts      string // content of /etc/hosts; "": left as it is
	ResolvConf string // content of /etc/resolv.conf; "": left as it is
	MachineID  string // 32 hex digits; given to systems that have a machine id
	BootID     string // a UUID; given to systems that have a boot id
}

// Host applies identities to this sandbox. It is safe for concurrent use.
type Host struct {
	mu    sync.Mutex
	files map[string]*os.File // mounted over the path; survive a restore
}

// NewHost returns a Host that has nothing applied.
func NewHost() *Host { return &Host{files: map[string]*os.File{}} }

// NewMachineID returns the machine id of the sandbox named id, the same at each
// call, or a random one when id is empty.
func NewMachineID(id string) string {
	sum := digest("machine", id)
	return hex.EncodeToString(sum[:16])
}

// NewBootID returns the boot id of the sandbox named id as a version 4 UUID,
// the same at each call, or a random one when id is empty. A sandbox that is
// paused and resumed has not booted in between and keeps it; a clone has
// another name and so another boot id.
func NewBootID(id string) string {
	sum := digest("boot", id)
	sum[6] = sum[6]&0x0f | 0x40
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func digest(purpose, id string) [sha256.Size]byte {
	sum := sha256.Sum256([]byte("lehr " + purpose + " id\x00" + id))
	if id == "" {
		// Read never fails; without entropy it ends the program.
		_, _ = rand.Read(sum[:])
	}
	return sum
}

// Apply gives the sandbox an identity; the last one wins. Errors: Internal,
// with what was applied before the failure left in place.
func (h *Host) Apply(id Identity) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if id.Hostname != "" {
		if err := unix.Sethostname([]byte(id.Hostname)); err != nil {
			return errs.Wrap(err, errs.Internal, "initd.Apply", "the host name could not be set")
		}
	}
	return h.write(h.contents(id))
}

// contents returns what is to be written where.
func (h *Host) contents(id Identity) map[string]string {
	contents := map[string]string{}
	if id.Hostname != "" {
		contents[fileHostname] = id.Hostname + "\n"
	}
	if id.Hosts != "" {
		contents[fileHosts] = id.Hosts
	}
	if id.ResolvConf != "" {
		contents[fileResolver] = id.ResolvConf
	}
	ids := map[string]string{fileMachineID: id.MachineID, fileDBusID: id.MachineID, fileBootID: id.BootID}
	for path, value := range ids {
		if value != "" && (h.files[path] != nil || isRegular(path)) {
			contents[path] = value + "\n"
		}
	}
	return contents
}

// write puts contents into the mounted files, mounting those that are not yet.
func (h *Host) write(contents map[string]string) error {
	var missing []string
	for path := range contents {
		if !h.covers(path) {
			missing = append(missing, path)
		}
	}
	if err := h.mount(missing); err != nil {
		return errs.Wrap(err, errs.Internal, "initd.Apply", "the identity files could not be mounted")
	}
	for path, content := range contents {
		if err := rewrite(h.files[path], content); err != nil {
			return errs.Wrap(err, errs.Internal, "initd.Apply", path+" could not be written")
		}
	}
	return nil
}

// covers reports whether our file is what path shows; root in the sandbox may
// have unmounted it.
func (h *Host) covers(path string) bool {
	file := h.files[path]
	if file == nil {
		return false
	}
	ours, err := file.Stat()
	if err != nil {
		return false
	}
	shown, err := os.Stat(path)
	return err == nil && os.SameFile(ours, shown)
}

// rewrite replaces a file's content in place. It is padded over before it is
// cut, so that a concurrent reader never finds it empty.
func rewrite(file *os.File, content string) error {
	if _, err := file.WriteAt([]byte(content), 0); err != nil {
		return err
	}
	return file.Truncate(int64(len(content)))
}

// mount covers each path with a file of a fresh tmpfs. The tmpfs itself is
// visible only while this runs: the files' own mounts and our descriptors keep
// it alive, and its directory leaves no trace.
func (h *Host) mount(paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	dir, err := scratchDir()
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, identityMemory); err != nil {
		return os.NewSyscallError("mount tmpfs", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // nothing is left to do about it
	for _, path := range paths {
		if err := h.cover(dir, path); err != nil {
			return err
		}
	}
	return nil
}

// scratchDir makes a directory to mount on, outside the writable layer where
// the sandbox has such a place.
func scratchDir() (dir string, err error) {
	for _, parent := range []string{"/dev/shm", "/dev", "/"} {
		if dir, err = os.MkdirTemp(parent, ".lehr-"); err == nil {
			return dir, nil
		}
	}
	return "", err
}

func (h *Host) cover(dir, path string) error {
	source := filepath.Join(dir, filepath.Base(filepath.Dir(path))+"-"+filepath.Base(path))
	file, err := os.OpenFile(source, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	err = placeholder(path)
	if err == nil {
		err = unix.Mount(source, path, "", unix.MS_BIND, "")
	}
	if err != nil {
		_ = file.Close()
		return &os.PathError{Op: "mount", Path: path, Err: err}
	}
	if old := h.files[path]; old != nil {
		_ = old.Close()
	}
	h.files[path] = file
	return nil
}

// placeholder makes sure that there is a file to mount on. A symbolic link is
// followed, also to a file that is not there.
func placeholder(path string) error {
	for range 16 {
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	return file.Close()
}

func isRegular(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}
