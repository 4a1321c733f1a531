package hostnet

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// maxUpstreams is how many resolvers of a file are asked, as in glibc.
	maxUpstreams = 3
	// maxResolvConf bounds what is read of the file.
	maxResolvConf = 64 << 10
)

// upstreams are the resolvers that a resolv.conf names. The file is read again
// when its time, size or identity changes. list may be called concurrently.
type upstreams struct {
	path string

	mu      sync.Mutex
	read    os.FileInfo // of what was read last
	servers []netip.AddrPort
}

// list returns the resolvers to ask, in order; at least one.
func (u *upstreams) list() ([]netip.AddrPort, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	info, err := os.Stat(u.path)
	if err != nil {
		return nil, fmt.Errorf("find the host's resolvers: %w", err)
	}
	if u.read != nil && os.SameFile(info, u.read) && info.Size() == u.read.Size() && info.ModTime().Equal(u.read.ModTime()) {
		return u.servers, nil
	}
	file, err := os.Open(u.path)
	if err != nil {
		return nil, fmt.Errorf("find the host's resolvers: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxResolvConf))
	if err != nil {
		return nil, fmt.Errorf("find the host's resolvers: %w", err)
	}
	u.servers, u.read = ParseResolvConf(text), info
	// A file written this moment may be written again within the same tick.
	if time.Since(info.ModTime()) < time.Second {
		u.read = nil
	}
	return u.servers, nil
}

// ParseResolvConf returns the resolvers that the text of a resolv.conf names,
// at most three, with their port; where it names none, the one that glibc
// takes then: 127.0.0.1.
func ParseResolvConf(text []byte) []netip.AddrPort {
	var out []netip.AddrPort
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() && len(out) < maxUpstreams {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil && addr != gateway {
			out = append(out, netip.AddrPortFrom(addr, resolverPort))
		}
	}
	if len(out) == 0 {
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), resolverPort))
	}
	return out
}
