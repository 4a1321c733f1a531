// Package program is what every main of Lehr shares: its version and the
// context that ends with the first signal.
package program

import (
	"context"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// version is set by the linker: -X github.com/lehr-dev/lehr/internal/program.version=…
var version = ""

// Version returns the version of this program: what the linker was told, else
// the revision that Go recorded, else "devel".
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

// Platform returns operating system and architecture, as "linux/amd64".
func Platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// Context returns a context that SIGTERM ends, and SIGINT too unless the
// program takes interrupts itself.
func Context(interrupts bool) (context.Context, context.CancelFunc) {
	signals := []os.Signal{syscall.SIGTERM}
	if interrupts {
		signals = append(signals, os.Interrupt)
	}
	return signal.NotifyContext(context.Background(), signals...)
}

// KeepDescriptors makes every descriptor but the standard ones close when this
// program starts another. What a careless parent left open must reach neither
// the agent nor a sandbox, and some programs (mmdebstrap with dash) fail when
// their own descriptors get two digits. Call it first in main.
func KeepDescriptors() error {
	const afterStandard = 3
	return unix.CloseRange(afterStandard, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}
