package gvisor

import (
	"crypto/sha256"
	"debug/buildinfo"
	"flag"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// engineName is the name of this engine in records and in Info.
const engineName = "gvisor"

// readInfo describes the engine that runs the given sentry file.
func readInfo(sentry *os.File) (engine.Info, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(sentry, 0, 1<<62)); err != nil {
		return engine.Info{}, errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot read the sentry file "+sentry.Name())
	}
	features, err := cpuFeatures()
	if err != nil {
		return engine.Info{}, errs.Wrap(err, errs.Unavailable, "gvisor.Open", "cannot read the processor's features")
	}
	return engine.Info{
		Name:        engineName,
		Version:     gvisorVersion(sentry),
		Digest:      lehr.DigestFrom(sum),
		CPUFeatures: features,
		Platform:    runtime.GOOS + "/" + runtime.GOARCH,
	}, nil
}

// gvisorVersion returns the version of the gVisor module in the sentry file,
// "unknown" for a file that does not say.
func gvisorVersion(sentry *os.File) string {
	build, err := buildinfo.Read(sentry)
	if err != nil {
		return "unknown"
	}
	for _, module := range build.Deps {
		if module.Path == "gvisor.dev/gvisor" {
			return module.Version
		}
	}
	return "unknown"
}

// cpuFeatures digests the feature flags of the first processor. Programs in a
// snapshot have chosen their code by them.
func cpuFeatures() (lehr.Digest, error) {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || (name != "flags" && name != "Features") {
			continue
		}
		flags := strings.Fields(value)
		slices.Sort(flags)
		return lehr.DigestOf([]byte(strings.Join(flags, " "))), nil
	}
	return "", errs.New(errs.Unavailable, "no feature flags in /proc/cpuinfo")
}

// newFlagSet returns a flag set for gVisor's configuration that prints nothing.
func newFlagSet() *flag.FlagSet {
	flags := flag.NewFlagSet(engineName, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return flags
}
