package gvisor

import (
	"context"
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/runsc/boot"

	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/errs"
)

// maxHostname is what Linux allows.
const maxHostname = 64

// setHostname starts to give the sandbox its host name; done waits until it has
// it. The sentry takes one from the root container's spec only, which is older
// than the name; so a second pause program, in the namespace that both
// containers share, sets it. After a restore it replaces the name that the
// snapshot was taken under.
func (s *slot) setHostname(ctx context.Context, name string) (done func() error, err error) {
	if name == "" {
		return func() error { return nil }, nil
	}
	if len(name) > maxHostname {
		return nil, errs.New(errs.Invalid, "the host name is longer than %d bytes", maxHostname).WithField("hostname")
	}
	admin := auth.CapabilitySetOf(linux.CAP_SYS_ADMIN)
	args := &control.ExecArgs{
		Argv:             []string{pauseBinary, name},
		WorkingDirectory: "/",
		ContainerID:      string(s.id),
		Capabilities:     &auth.TaskCapabilities{PermittedCaps: admin, EffectiveCaps: admin, BoundingCaps: admin},
	}
	var pid int32
	if err := s.ctl.call(ctx, boot.ContMgrExecuteAsync, args, &pid); err != nil {
		return nil, err
	}
	return func() error {
		var status uint32
		if err := s.ctl.call(ctx, boot.ContMgrWaitPID, &boot.WaitPIDArgs{PID: pid, CID: string(s.id)}, &status); err != nil {
			return err
		}
		if status != 0 {
			return fmt.Errorf("setting the host name: the program %s", describe(unix.WaitStatus(status)))
		}
		return nil
	}, nil
}
