package lehr

import "time"

// Resources is the shape of a sandbox. VCPUs counts virtual processors,
// MemoryMB and DiskMB are mebibytes.
type Resources struct {
	VCPUs    int32
	MemoryMB int32
	DiskMB   int32
}

// DefaultResources is what a build gets that asks for nothing.
var DefaultResources = Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 5120}

// MinResources and MaxResources bound every request, inclusively; a host may
// allow less.
var (
	MinResources = Resources{VCPUs: 1, MemoryMB: 128, DiskMB: 64}
	MaxResources = Resources{VCPUs: 64, MemoryMB: 512 << 10, DiskMB: 1 << 20}
)

// Limits are the time limits of a build; zero means the build's own limit,
// which is never zero.
type Limits struct {
	Run         time.Duration // one RUN step
	PrePost     time.Duration // one pre- or post-build step
	Healthcheck time.Duration // the healthcheck phase
	Build       time.Duration // the whole build
}

// DefaultLimits apply to what a request leaves unset.
var DefaultLimits = Limits{
	Run:         10 * time.Minute,
	PrePost:     10 * time.Minute,
	Healthcheck: 10 * time.Minute,
	Build:       time.Hour,
}
