package build

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/build/plan"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// maxProbesLost is how many probes in a row may fail to run before that is a
// fault of the platform.
const maxProbesLost = 3

// errHealthLimit is the cause of a healthcheck phase that ran out of time.
var errHealthLimit = errors.New("the healthcheck's time limit ended it")

// healthcheck is one healthcheck phase. It is owned by its attempt's goroutine.
type healthcheck struct {
	a        *attempt
	h        *plan.Healthcheck
	at       spot
	began    time.Time
	probes   int
	failures int // that count
	lost     int // in a row, that could not be run
	last     string
}

// checkHealth polls until a probe passes. The first probe runs at once, the
// next one an interval after the one before has ended.
func (a *attempt) checkHealth(parent context.Context, h *plan.Healthcheck) error {
	c := &healthcheck{a: a, h: h, at: spot{phase: lehr.PhaseHealthcheck}, began: a.o.Clock.Now()}
	a.enter(c.at)
	if err := a.hit(parent, failpoint.HealthBeforeProbe); err != nil {
		return err
	}
	a.say(parent, c.at, "%s", h.Cmd)
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	if limit := a.build.Spec.Limits.Healthcheck; limit > 0 {
		a.spawn(func() {
			if a.o.Clock.Sleep(ctx, limit) == nil {
				cancel(errHealthLimit)
			}
		})
	}
	err := c.poll(ctx)
	if err == nil {
		return a.hit(parent, failpoint.HealthAfterPass)
	}
	if errors.Is(err, errHealthLimit) && parent.Err() == nil {
		return c.fail(parent, fmt.Sprintf("not healthy within %v", a.build.Spec.Limits.Healthcheck))
	}
	return err
}

func (c *healthcheck) poll(ctx context.Context) error {
	for {
		passed, err := c.probe(ctx)
		if err != nil {
			return err
		}
		if passed {
			c.a.say(ctx, c.at, "healthy after %v, probe %d", c.a.o.Clock.Now().Sub(c.began).Round(time.Millisecond), c.probes)
			return nil
		}
		if err := c.a.o.Clock.Sleep(ctx, c.h.Interval); err != nil {
			return err
		}
	}
}

// probe runs the command once. The error ends the phase.
func (c *healthcheck) probe(ctx context.Context) (passed bool, err error) {
	c.probes++
	began := c.a.o.Clock.Now()
	out := stepOutput{log: c.a.log, at: c.at}
	exit, err := c.a.exec(ctx, agent.Exec{
		Args: c.h.Argv, Env: c.h.Env, User: c.h.User, Workdir: c.h.Workdir, Timeout: c.h.Timeout,
	}, &out)
	out.flush(ctx)
	if refused, why := commandRefused(err); refused {
		return false, c.failed(ctx, began, why)
	}
	if err != nil {
		return false, c.notRun(ctx, err)
	}
	if exit.Code == 0 && !exit.TimedOut {
		return true, nil
	}
	return false, c.failed(ctx, began, probeReason(exit, c.h.Timeout, &out))
}

// probeReason is how a probe ended, with what it said.
func probeReason(exit agent.Exit, timeout time.Duration, out *stepOutput) string {
	how := fmt.Sprintf("exit code %d", exit.Code)
	if exit.TimedOut {
		how = fmt.Sprintf("no answer within %v", timeout)
	}
	stdout, stderr := out.tails()
	if said := strings.TrimSpace(strings.TrimSpace(stdout) + "\n" + strings.TrimSpace(stderr)); said != "" {
		return how + ": " + exitReason(exit, said)
	}
	return how
}

// failed takes note of a probe that ran and did not pass. Within the start
// period it does not count.
func (c *healthcheck) failed(ctx context.Context, began time.Time, reason string) error {
	c.lost, c.last = 0, reason
	if began.Sub(c.began) < c.h.StartPeriod {
		c.a.say(ctx, c.at, "probe %d failed within the start period: %s", c.probes, reason)
		return nil
	}
	c.failures++
	c.a.say(ctx, c.at, "probe %d failed: %s", c.probes, reason)
	if c.h.Retries > 0 && c.failures >= c.h.Retries {
		return c.fail(ctx, fmt.Sprintf("%d probes failed", c.failures))
	}
	return nil
}

// notRun takes note of a probe that could not be run, which says nothing about
// what it asks for. The end of the sandbox ends the phase.
func (c *healthcheck) notRun(ctx context.Context, err error) error {
	fault := c.a.callFault(ctx, c.at, err)
	var f *failure
	if !errors.As(fault, &f) || f.Code != CodePlatform && f.Code != CodeHostLost {
		return fault
	}
	c.lost++
	c.a.say(ctx, c.at, "probe %d could not be run: %s", c.probes, safeMessage(err))
	if c.lost < maxProbesLost {
		return nil
	}
	return platformFault(ctx, c.at, CodeProbeFailed, fmt.Errorf("%d probes in a row could not be run: %w", c.lost, err))
}

func (c *healthcheck) fail(ctx context.Context, reason string) error {
	if c.last != "" {
		reason += "; the last one: " + c.last
	}
	return userFault(ctx, c.at, CodeHealthcheckFailed, reason)
}
