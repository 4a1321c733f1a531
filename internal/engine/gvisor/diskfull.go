package gvisor

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// diskFull names the host's disk where err says that it has no room; otherwise
// it returns nil. A sentry that writes into a file of ours reports in words,
// which are the kernel's.
func diskFull(err error, op string) error {
	if err == nil {
		return nil
	}
	for _, no := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, no) || strings.Contains(err.Error(), no.Error()) {
			return errs.Wrap(err, errs.Exhausted, op, "the host's disk is full").WithCode("host_disk_full").
				WithRemedy("remove unused templates and sandboxes, or enlarge the disk")
		}
	}
	return nil
}
