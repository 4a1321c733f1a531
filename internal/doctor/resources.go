package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/lehr-dev/lehr/internal/hostnet"
)

// What a machine needs at least: room for one build sandbox of the default
// size beside the agent, for its writable layer and a base image, and for the
// descriptors of some hundred sandboxes.
const (
	minMemory    = 1 << 30
	minDisk      = 8 << 30
	minOpenFiles = 16384
)

// memory checks what is available.
func memory(_ context.Context, _ Options, m machine) Check {
	const remedy = "end other programs, or use a machine with more"
	info, err := m.readFile("/proc/meminfo")
	if err != nil {
		return bad(remedy, "the memory could not be read: %v", err)
	}
	kilobytes, err := strconv.ParseUint(field(info, "MemAvailable:"), 10, 54)
	if err != nil {
		return bad(remedy, "the memory could not be read: %v", err)
	}
	if available := kilobytes << 10; available < minMemory {
		return bad(remedy, "%s available, and one build takes %s", size(available), size(minMemory))
	}
	return good("%s available", size(kilobytes<<10))
}

// openFiles checks the limit of descriptors.
func openFiles(_ context.Context, _ Options, m machine) Check {
	limit, err := m.openFiles()
	if err != nil {
		return optional(bad("run it on Linux", "the limit could not be read: %v", err))
	}
	if limit < minOpenFiles {
		return optional(bad("raise it: LimitNOFILE=1048576 in systemd, or ulimit -Hn 1048576",
			"at most %d: some hundred sandboxes need %d", limit, minOpenFiles))
	}
	return optional(good("up to %d", limit))
}

// dataFolder checks that the data folder can be written.
func dataFolder(_ context.Context, opts Options, m machine) Check {
	if opts.DataDir == "" {
		return optional(good("not looked at: no folder was given"))
	}
	dir, err := existing(m, opts.DataDir)
	if err != nil {
		return bad("give another folder with --data", "%v", err)
	}
	if err := m.tryWrite(dir); err != nil {
		return bad("give a folder you may write with --data, or mount its file system writable", "%s cannot be written: %v", dir, err)
	}
	if dir != filepath.Clean(opts.DataDir) {
		return good("%s will be made in %s", opts.DataDir, dir)
	}
	return good("%s can be written", dir)
}

// disk checks the room for images and writable layers.
func disk(_ context.Context, opts Options, m machine) Check {
	const remedy = "give a folder on a bigger disk with --data"
	if opts.DataDir == "" {
		return optional(good("not looked at: no folder was given"))
	}
	dir, err := existing(m, opts.DataDir)
	if err != nil {
		return bad(remedy, "%v", err)
	}
	fs, err := m.fileSystem(dir)
	switch {
	case err != nil:
		return bad(remedy, "%v", err)
	case fs.free < minDisk && fs.inMemory:
		return bad(remedy, "%s is in memory (tmpfs) with %s free; images and writable layers need %s", dir, size(fs.free), size(minDisk))
	case fs.free < minDisk:
		return bad("free some, or "+remedy, "%s free at %s; images and writable layers need %s", size(fs.free), dir, size(minDisk))
	case fs.inMemory:
		return optional(bad(remedy, "%s is in memory (tmpfs): nothing outlives a boot, and images take memory from sandboxes", dir))
	}
	return good("%s free at %s", size(fs.free), dir)
}

// existing returns path, or the folder above it that exists.
func existing(m machine, path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		info, err := m.stat(dir)
		switch {
		case err == nil && info.IsDir():
			return dir, nil
		case err == nil:
			return "", &os.PathError{Op: "use", Path: dir, Err: syscall.ENOTDIR}
		case !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir):
			return "", err
		}
	}
}

// listenAddress checks that the API's address is free.
func listenAddress(ctx context.Context, opts Options, m machine) Check {
	if opts.Listen == "" {
		return optional(good("not looked at: no address was given"))
	}
	err := m.listen(ctx, opts.Listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return bad("end the program that has it (ss -ltnp shows it; it may be another lehr), or give another with --listen",
			"%s is in use", opts.Listen)
	case errors.Is(err, syscall.EACCES):
		return bad("run as root, or give a port of 1024 or more with --listen", "%s: %v", opts.Listen, err)
	case err != nil:
		return bad("give an address of this machine and a port with --listen, as 127.0.0.1:7070", "%s: %v", opts.Listen, err)
	}
	return good("%s is free", opts.Listen)
}

// resolver looks who resolves names for sandboxes.
func resolver(_ context.Context, _ Options, m machine) Check {
	const remedy = "name a resolver in /etc/resolv.conf: nameserver ADDRESS"
	text, err := m.readFile("/etc/resolv.conf")
	if err != nil {
		return optional(bad(remedy, "no names in sandboxes: %v", err))
	}
	if field(text, "nameserver") == "" {
		return optional(bad(remedy, "/etc/resolv.conf names none; names in sandboxes work only where a resolver listens on 127.0.0.1"))
	}
	var servers []string
	for _, server := range hostnet.ParseResolvConf(text) {
		servers = append(servers, server.Addr().String())
	}
	return optional(good("names of sandboxes are asked from %s", strings.Join(servers, ", ")))
}

// size writes bytes for people.
func size(bytes uint64) string {
	if bytes >= 1<<30 {
		return strconv.FormatFloat(float64(bytes)/(1<<30), 'f', 1, 64) + " GiB"
	}
	return strconv.FormatUint(bytes>>20, 10) + " MiB"
}
