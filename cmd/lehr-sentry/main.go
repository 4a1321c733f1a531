// Command lehr-sentry is the file that runs every sandbox: gVisor's boot
// command (the sentry), its umount command, and nothing else; no gofer, since
// the engine hands images and writable layers over as open files. The engine
// starts it; a person never does. Its SHA-256 is what a snapshot fits.
//
// It must be built with CGO_ENABLED=0 and with
//
//	-ldflags "-X gvisor.dev/gvisor/runsc/version.version=<version>"
//
// because a restore compares that string, and an unset one hides a difference.
package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

var processName = []byte("lehr-sentry\x00")

const (
	releaseFirst = 2 * time.Second // between two looks at the heap
	releaseLast  = time.Minute     // where it is large for a reason
	releaseStep  = 64 << 20        // what makes a collection worth its time

	heapShare  = 4        // a sentry's own heap may take 1/heapShare of the sandbox's memory
	heapLeast  = 96 << 20 // below this the collector would run all the time
	totalFlag  = "--total-memory"
	internally = "internal use only"
)

func main() {
	// The engine executes it by descriptor, whose number would be its name. That
	// it may fail changes nothing but a column in ps.
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_NAME, uintptr(unsafe.Pointer(&processName[0])), 0)
	if limit := heapLimit(os.Args[1:]); limit > 0 {
		debug.SetMemoryLimit(limit)
		go releaseHeap()
	}
	cli.Run(nil, map[util.SubCommand]string{
		new(sentrycmd.Boot):   internally,
		new(sentrycmd.Umount): internally,
	}, nil)
}

// heapLimit returns the soft limit of the sentry's Go heap for a boot command
// line, 0 for none. The sentry's environment is empty, so GOMEMLIMIT cannot
// say it; the memory size that the engine passes can. Without a limit the heap
// may double between collections, which in a small sandbox is an early
// out-of-memory kill.
func heapLimit(args []string) int64 {
	for i, arg := range args {
		value, ok := strings.CutPrefix(arg, totalFlag+"=")
		if !ok && arg == totalFlag && i+1 < len(args) {
			value, ok = args[i+1], true
		}
		if !ok {
			continue
		}
		total, err := strconv.ParseInt(value, 10, 64)
		if err != nil || total <= 0 {
			return 0
		}
		return max(total/heapShare, heapLeast)
	}
	return 0
}

// releaseHeap gives memory back to the host some seconds after the heap was much
// larger for a moment: a sentry holds each file whole while it makes a tar of the
// writable layer, and allocates nothing afterwards, so that no collection would
// come by itself. The engine waits for it before it lowers the sandbox's memory
// limit again.
func releaseHeap() {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	heap := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64() + sample[1].Value.Uint64()
	}
	floor, wait := heap(), releaseFirst
	for {
		time.Sleep(wait)
		if heap() < floor+releaseStep {
			wait = releaseFirst
			continue
		}
		debug.FreeOSMemory()
		wait = min(2*wait, releaseLast)
	}
}
