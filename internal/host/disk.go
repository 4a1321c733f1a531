package host

import (
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
)

// The reserve is what new work leaves free on the host's disk: what runs already
// needs some, and a full disk breaks it in the middle.
const (
	reserveShare = 20      // one in so many bytes of the disk
	reserveMost  = 2 << 30 // bytes
)

// Disk is how full the host's disk is; zero where that is not known.
func (h *Host) disk() agent.Disk {
	if h.opt.Disk == nil {
		return agent.Disk{}
	}
	total, free, err := h.opt.Disk()
	if err != nil {
		h.log.Warn("the host's disk cannot be looked at", "error", err)
		return agent.Disk{}
	}
	return agent.Disk{TotalBytes: total, FreeBytes: free, ReserveBytes: min(total/reserveShare, reserveMost)}
}

// wantDisk refuses new work on a host near its disk's end.
func (h *Host) wantDisk() error {
	d := h.disk()
	if !d.Low() {
		return nil
	}
	return errs.New(errs.Exhausted, "the host's disk has %d MB left, of which %d MB are kept for what runs", d.FreeBytes>>20, d.ReserveBytes>>20).
		WithCode("host_disk_full").WithRemedy("remove unused templates and sandboxes, or enlarge the disk")
}
