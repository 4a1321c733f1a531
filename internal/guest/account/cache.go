package account

import (
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxFile bounds what is read of /etc/passwd and /etc/group, in bytes.
const maxFile = 1 << 20

// settled is how old a change must be for a second one to show in the file's
// time, whatever the clock of its file system.
const settled = 2 * time.Second

// cachedFile is a file of colon-separated lines. It is parsed once for every
// version of it; system calls are what costs in a sandbox, and an unchanged
// file takes one.
type cachedFile struct {
	path   string
	fields int // that a line has at least

	mu      sync.Mutex
	version version
	lines   [][]string
}

// version tells one content of a file from another.
type version struct {
	device, inode uint64
	size          int64
	modified      time.Time
}

// entries returns the file's lines, which are not to be changed. An unreadable
// file has none; broken lines are left out.
func (c *cachedFile) entries() [][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.path)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	now := versionOf(info)
	if now == c.version {
		return c.lines
	}
	data, err := readRegular(c.path)
	if err != nil {
		return nil
	}
	c.lines, c.version = parse(data, c.fields), version{}
	if time.Since(now.modified) > settled {
		c.version = now
	}
	return c.lines
}

func (c *cachedFile) namesByID() map[string]string {
	names := map[string]string{}
	for _, e := range c.entries() {
		if _, ok := names[e[2]]; !ok {
			names[e[2]] = e[0]
		}
	}
	return names
}

func versionOf(info fs.FileInfo) version {
	v := version{size: info.Size(), modified: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		v.device, v.inode = sys.Dev, sys.Ino
	}
	return v
}

func parse(data []byte, fields int) [][]string {
	var lines [][]string
	for line := range strings.Lines(string(data)) {
		e := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(e) >= fields && e[0] != "" {
			lines = append(lines, e)
		}
	}
	return lines
}

// readRegular reads a bounded regular file; a FIFO or device in its place
// neither blocks nor feeds us.
func readRegular(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, syscall.EINVAL
	}
	return io.ReadAll(io.LimitReader(file, maxFile))
}
