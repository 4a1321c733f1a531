package build

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// probes plays a healthcheck: one function per probe, the last one for the
// rest; it records when each began.
type probes struct {
	began []time.Duration
	start time.Time
	play  []agenttest.Script
}

func (p *probes) script(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
	if p.start.IsZero() {
		p.start = time.Now()
	}
	p.began = append(p.began, time.Since(p.start))
	n := min(len(p.began), len(p.play))
	return p.play[n-1](ctx, r, out)
}

// after runs f when d has passed.
func after(d time.Duration, f agenttest.Script) agenttest.Script {
	return func(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
		if exit, err := runs(d)(ctx, r, out); err != nil || exit.TimedOut {
			return exit, err
		}
		return f(ctx, r, out)
	}
}

// healthCase is a healthcheck with what becomes of it.
type healthCase struct {
	name    string
	check   string
	play    []agenttest.Script
	code    string // of the failure, empty: success
	fault   lehr.Fault
	message string          // part of it
	began   []time.Duration // of the probes
}

func healthCases() []healthCase {
	bad, good := exits(7, "", "not yet\n"), exits(0, "ok\n", "")
	second := time.Second
	return []healthCase{
		{
			name: "first probe at once", check: "probe", play: []agenttest.Script{good},
			began: []time.Duration{0},
		},
		{
			name: "interval counts from the end of a probe", check: "--interval=5s probe",
			play: []agenttest.Script{after(2*second, bad), after(2*second, bad), good}, began: []time.Duration{0, 7 * second, 14 * second},
		},
		{
			name: "retries", check: "--retries=3 probe", play: []agenttest.Script{bad},
			code: CodeHealthcheckFailed, fault: lehr.FaultUser, message: "healthcheck failed: 3 probes failed; the last one: exit code 7: not yet",
			began: []time.Duration{0, 3 * second, 6 * second},
		},
		{
			name: "failures within the start period do not count", check: "--start-period=10s --interval=4s --retries=1 probe",
			play: []agenttest.Script{bad}, code: CodeHealthcheckFailed, fault: lehr.FaultUser,
			began: []time.Duration{0, 4 * second, 8 * second, 12 * second},
		},
		{
			name: "a long probe is cut at its timeout and its time is no deadline of the others", check: "--interval=3s --timeout=10s --retries=3 probe",
			play: []agenttest.Script{runs(time.Hour)}, code: CodeHealthcheckFailed, fault: lehr.FaultUser,
			message: "no answer within 10s", began: []time.Duration{0, 13 * second, 26 * second},
		},
		{
			name: "without retries only the phase's limit ends it", check: "--interval=1m probe", play: []agenttest.Script{bad},
			code: CodeHealthcheckFailed, fault: lehr.FaultUser, message: "not healthy within 2m0s; the last one: exit code 7: not yet",
		},
		{
			name: "a hanging probe is cut by the phase's limit", check: "--timeout=1h probe", play: []agenttest.Script{runs(24 * time.Hour)},
			code: CodeHealthcheckFailed, fault: lehr.FaultUser, message: "not healthy within 2m0s", began: []time.Duration{0},
		},
		{
			name: "a probe that cannot be run is not counted", check: "--retries=1 probe",
			play: []agenttest.Script{unavailable, unavailable, good},
		},
		{
			name: "a missing program is the recipe's fault", check: "--retries=1 probe", play: []agenttest.Script{refuses("command_not_found")},
			code: CodeHealthcheckFailed, fault: lehr.FaultUser, message: "command_not_found",
		},
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	for _, tt := range healthCases() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				p := &probes{play: tt.play}
				w.host().Run = serving(map[string]agenttest.Script{"probe": p.script})
				w.work(w.svc, WorkerOptions{Embedded: true})
				params := w.request("START serve")
				params.Healthcheck = tt.check
				limit := 2 * time.Minute
				params.Limits.Healthcheck = &limit
				b := w.build(params)
				if tt.code == "" {
					w.wantEnd(b, lehr.BuildSuccess, "", "")
				} else {
					w.wantEnd(b, lehr.BuildFailed, tt.code, tt.fault)
				}
				if b.Error != nil && !strings.Contains(b.Error.Message, tt.message) {
					t.Errorf("message = %q, want it to hold %q", b.Error.Message, tt.message)
				}
				if tt.began != nil && !slices.Equal(p.began, tt.began) {
					t.Errorf("probes began at %v, want %v", p.began, tt.began)
				}
				w.wantNothingLeft()
			})
		})
	}
}

// Three probes in a row that could not be run are the platform's fault and the
// build is tried again.
func TestProbesThatCannotBeRunAreThePlatformsFault(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		p := &probes{play: []agenttest.Script{unavailable, unavailable, unavailable, exits(0, "", "")}}
		w.host().Run = serving(map[string]agenttest.Script{"probe": p.script})
		w.work(w.svc, WorkerOptions{Embedded: true})
		params := w.request("START serve")
		params.Healthcheck = "--retries=1 probe"
		b := w.build(params)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if b.LostAttempts != 1 {
			t.Errorf("%d lost attempts, want 1", b.LostAttempts)
		}
	})
}

// Faults 11 and 15 of the original: probes ran without the recipe's ENV,
// WORKDIR and USER.
func TestProbeRunsInTheRecipesContext(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		var got agent.Exec
		w.host().Run = serving(map[string]agenttest.Script{"a  'b c'": func(_ context.Context, r agent.Exec, _ agent.Output) (agent.Exit, error) {
			got = r
			return agent.Exit{}, nil
		}})
		w.work(w.svc, WorkerOptions{Embedded: true})
		params := w.request("ENV PORT=80", "USER 1000", "WORKDIR /srv", "START serve")
		params.Healthcheck = "--timeout=2s a  'b c'"
		b := w.build(params)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if !slices.Contains(got.Env, lehr.EnvVar{Name: "PORT", Value: "80"}) || got.User != "1000" || got.Workdir != "/srv" || got.Timeout != 2*time.Second {
			t.Errorf("probe = %+v, want PORT=80, user 1000, /srv, 2s", got)
		}
		v, err := w.store.Templates().Version(w.ctx(), b.Artifact.Version)
		if err != nil || v.Type != lehr.TypeSnapshot || v.SnapshotDigest == "" || v.ImageDigest == "" || v.EngineDigest == "" {
			t.Errorf("version = %+v, %v, want a snapshot with image and engine", v, err)
		}
	})
}

func TestHealthcheckWithoutStartStartsTheCommand(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = serving(map[string]agenttest.Script{})
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.build(w.request("CMD [\"serve\"]", "HEALTHCHECK CMD probe"))
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if b.Artifact.Type != lehr.TypeSnapshot || len(b.Steps) != 3 || b.Steps[2].Cmd != `START ["serve"]` {
			t.Errorf("artifact %+v, steps %+v, want a snapshot with an implicit START", b.Artifact, b.Steps)
		}
		if b.Spec.Healthcheck != "CMD probe" {
			t.Errorf("healthcheck = %q, want the recipe's own", b.Spec.Healthcheck)
		}
	})
}
