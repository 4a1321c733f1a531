package guestd

import (
	"bufio"
	"bytes"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// metrics is the answer of GET /metrics, in bytes and percent.
type metrics struct {
	Timestamp int64   `json:"ts"`
	CPUs      int     `json:"cpu_count"`
	CPUUsed   float64 `json:"cpu_used_pct"` // of all CPUs together, 0 to 100, since the last call
	MemTotal  uint64  `json:"mem_total"`
	MemUsed   uint64  `json:"mem_used"`
	MemCache  uint64  `json:"mem_cache"`
	DiskUsed  uint64  `json:"disk_used"`
	DiskTotal uint64  `json:"disk_total"`
}

// metrics reports what the sandbox sees of itself: its own limits and what its
// kernel counts. Disk is the writable layer.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	m := metrics{Timestamp: time.Now().Unix(), CPUs: runtime.NumCPU(), CPUUsed: s.meter.used(readCPUTimes())}
	mem := memInfo()
	m.MemTotal = mem["MemTotal"]
	m.MemCache = mem["Cached"]
	m.MemUsed = m.MemTotal - min(m.MemTotal, mem["MemFree"]+mem["Cached"]+mem["Buffers"])
	var disk unix.Statfs_t
	if unix.Statfs("/", &disk) == nil {
		m.DiskTotal = disk.Blocks * uint64(disk.Bsize)
		m.DiskUsed = m.DiskTotal - min(m.DiskTotal, disk.Bfree*uint64(disk.Bsize))
	}
	writeJSON(w, http.StatusOK, m)
}

// memInfo reads /proc/meminfo, in bytes.
func memInfo() map[string]uint64 {
	info := map[string]uint64{}
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return info
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err == nil {
			info[name] = kib << 10
		}
	}
	return info
}

// cpuTimes are what all CPUs together have done since the start, in ticks.
type cpuTimes struct{ busy, total uint64 }

func readCPUTimes() cpuTimes {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuTimes{}
	}
	return parseCPUTimes(string(text))
}

// parseCPUTimes reads the first line of /proc/stat; what it cannot read is
// nothing.
func parseCPUTimes(stat string) (times cpuTimes) {
	line, _, _ := strings.Cut(stat, "\n")
	name, rest, _ := strings.Cut(line, " ")
	if name != "cpu" {
		return cpuTimes{}
	}
	for i, field := range strings.Fields(rest) {
		n, err := strconv.ParseUint(field, 10, 48)
		if err != nil {
			return cpuTimes{}
		}
		if i >= 8 {
			break // time of guests, which is in the first two already
		}
		times.total += n
		if i != 3 && i != 4 { // idle, iowait
			times.busy += n
		}
	}
	return times
}

// cpuMeter turns times into a share of the time since the call before; the
// first is since the start.
type cpuMeter struct {
	mu    sync.Mutex
	last  cpuTimes
	share float64
}

// used returns the share in percent. When no time has passed, or the times have
// begun anew, it is that of the call before.
func (m *cpuMeter) used(now cpuTimes) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.total > m.last.total && now.busy >= m.last.busy {
		m.share = 100 * float64(now.busy-m.last.busy) / float64(now.total-m.last.total)
	}
	m.last = now
	return m.share
}
