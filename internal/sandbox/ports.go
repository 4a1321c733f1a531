package sandbox

import (
	"context"
	"strconv"
	"strings"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Ports returns who dials into a running sandbox, whosever it is. Errors:
// NotFound, also for a build's own sandbox, which nobody reaches from outside;
// Conflict with code "sandbox_ended", "sandbox_paused" or "sandbox_not_running";
// Unavailable where its host cannot be reached now.
func (s *Service) Ports(ctx context.Context, id lehr.SandboxID) (agent.Ports, error) {
	box, host, err := s.running(ctx, "", id)
	if err == nil && box.BuildID != "" {
		return nil, errs.New(errs.NotFound, "sandbox %s does not exist", id)
	}
	return host, err
}

// ExposedPort returns the lowest TCP port that the sandbox's template EXPOSEs;
// 0 where it exposes none.
func (s *Service) ExposedPort(ctx context.Context, box lehr.Sandbox) (uint16, error) {
	v, err := s.o.Store.Templates().Version(ctx, box.VersionID)
	if err != nil {
		return 0, err
	}
	return lowestPort(v.Config.Exposed), nil
}

// lowestPort reads entries as "8080/tcp"; what comes from an image's own
// configuration may be anything.
func lowestPort(exposed []string) uint16 {
	lowest := uint16(0)
	for _, e := range exposed {
		number, protocol, _ := strings.Cut(e, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 || protocol != "" && !strings.EqualFold(protocol, "tcp") {
			continue
		}
		if lowest == 0 || uint16(n) < lowest {
			lowest = uint16(n)
		}
	}
	return lowest
}
