package guestd

import (
	"bufio"
	"bytes"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// metrics is the answer of GET /metrics, in bytes and percent.
type metrics struct {
	Timestamp int64   `json:"ts"`
	CPUs      int     `json:"cpu_count"`
	CPUUsed   float64 `json:"cpu_used_pct"` // of one CPU, since the sandbox started
	MemTotal  uint64  `json:"mem_total"`
	MemUsed   uint64  `json:"mem_used"`
	MemCache  uint64  `json:"mem_cache"`
	DiskUsed  uint64  `json:"disk_used"`
	DiskTotal uint64  `json:"disk_total"`
}

// metrics reports what the sandbox sees of itself. Kernels that do not account
// CPU time (gVisor's /proc/stat) show none; the host knows better.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	m := metrics{Timestamp: time.Now().Unix(), CPUs: runtime.NumCPU(), CPUUsed: cpuUsed()}
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

// cpuUsed is the share of busy time in /proc/stat's first line, times the
// number of CPUs.
func cpuUsed() float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	var total, idle uint64
	for i, f := range fields[min(1, len(fields)):] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0
		}
		total += n
		if i == 3 || i == 4 { // idle, iowait
			idle += n
		}
	}
	if total == 0 {
		return 0
	}
	return 100 * float64(runtime.NumCPU()) * float64(total-idle) / float64(total)
}
