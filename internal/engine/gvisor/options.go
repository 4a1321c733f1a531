package gvisor

import (
	"log/slog"
	"os"
	"path/filepath"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Options configure an engine.
type Options struct {
	// StateDir holds everything that outlives this process: a record, a control
	// socket and a log per slot. One engine uses it at a time; it is made when
	// missing. Writable layers are unnamed files on its file system, so it
	// needs the disk space of all sandboxes.
	StateDir string

	// Sentry is the path of the lehr-sentry file. It is opened once: replacing
	// the file later changes nothing for this engine.
	Sentry string

	// Network gives sandboxes their network. Nil: sandboxes have a loopback
	// interface only, and Dial goes through the sentry's control socket.
	Network Network

	// CgroupParent is the control group, one path element, under which every
	// slot has its own. Default "lehr".
	CgroupParent string

	// Log takes what the engine has to say. Default: discarded.
	Log *slog.Logger
}

const defaultCgroupParent = "lehr"

// check completes o and refuses what cannot work.
func (o Options) check() (Options, error) {
	if o.CgroupParent == "" {
		o.CgroupParent = defaultCgroupParent
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !filepath.IsAbs(o.StateDir) {
		return o, errs.New(errs.Invalid, "state folder %q is not an absolute path", o.StateDir).WithField("state_dir")
	}
	if o.Sentry == "" {
		return o, errs.New(errs.Invalid, "no sentry file is given").WithField("sentry")
	}
	if os.Geteuid() != 0 {
		return o, errs.New(errs.Unavailable, "the gVisor engine needs root").
			WithRemedy("run the agent as root")
	}
	return o, nil
}

// checkResources refuses a shape outside the bounds of the platform.
func checkResources(r lehr.Resources) error {
	least, most := lehr.MinResources, lehr.MaxResources
	for _, f := range []struct {
		field            string
		got, least, most int32
	}{
		{"vcpus", r.VCPUs, least.VCPUs, most.VCPUs},
		{"memory_mb", r.MemoryMB, least.MemoryMB, most.MemoryMB},
		{"disk_mb", r.DiskMB, least.DiskMB, most.DiskMB},
	} {
		if f.got < f.least || f.got > f.most {
			return errs.New(errs.Invalid, "%d is outside %d to %d", f.got, f.least, f.most).WithField(f.field)
		}
	}
	return nil
}
