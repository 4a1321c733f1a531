package build

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// dies ends by a signal when d has passed.
func dies(d time.Duration) agenttest.Script {
	return after(d, func(_ context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
		return agent.Exit{Code: 139, Signal: 11}, out(lehr.StreamStderr, []byte("panic: boom\n"))
	})
}

// Fault 12 of the original: a START could never fail and its output was thrown
// away.
func TestStart(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		recipe  []string
		check   string
		play    map[string]agenttest.Script
		code    string
		message string
	}{
		{
			name: "runs on", recipe: []string{"START serve"}, check: "probe",
		},
		{
			name: "puts itself into the background", recipe: []string{"START daemon"}, check: "probe",
			play: map[string]agenttest.Script{"daemon": exits(0, "daemonised\n", "")},
		},
		{
			name: "fails at once although the check passes", recipe: []string{"START bad"}, check: "probe",
			play: map[string]agenttest.Script{"bad": exits(127, "", "bad: not found\n")},
			code: CodeStartFailed, message: "recipe step 1 failed: bad: not found",
		},
		{
			name: "fails a moment later although the check passes", recipe: []string{"START bad"}, check: "probe",
			play: map[string]agenttest.Script{"bad": dies(200 * time.Millisecond)},
			code: CodeStartFailed, message: "recipe step 1 failed: panic: boom",
		},
		{
			name: "dies during the healthcheck", recipe: []string{"START bad"}, check: "probe",
			play: map[string]agenttest.Script{"bad": dies(time.Minute), "probe": exits(1, "", "")},
			code: CodeStartFailed,
		},
		{
			name: "dies during a later step", recipe: []string{"START bad", "RUN slow"}, check: "probe",
			play: map[string]agenttest.Script{"bad": dies(time.Second), "slow": runs(time.Minute)},
			code: CodeStartFailed, message: "recipe step 1 failed: panic: boom",
		},
		{
			name: "cannot be run", recipe: []string{"START bad"}, check: "probe",
			play: map[string]agenttest.Script{"bad": refuses("command_not_found")}, code: CodeStartFailed,
		},
		{
			name: "fails without a healthcheck", recipe: []string{"START bad"},
			play: map[string]agenttest.Script{"bad": dies(100 * time.Millisecond)}, code: CodeStartFailed,
		},
		{
			name: "the second of two fails", recipe: []string{"START serve", "START bad"}, check: "probe",
			play: map[string]agenttest.Script{"bad": exits(1, "", "")}, code: CodeStartFailed, message: "recipe step 2 failed: exit code 1",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				if tt.play == nil {
					tt.play = map[string]agenttest.Script{}
				}
				w.host().Run = serving(tt.play)
				w.work(w.svc, WorkerOptions{Embedded: true})
				p := w.request(tt.recipe...)
				p.Healthcheck = tt.check
				b := w.build(p)
				if tt.code != "" {
					w.wantEnd(b, lehr.BuildFailed, tt.code, lehr.FaultUser)
					if !strings.Contains(b.Error.Message, tt.message) || b.Attempt != 1 {
						t.Errorf("attempt %d, message %q, want one attempt and %q", b.Attempt, b.Error.Message, tt.message)
					}
				} else {
					w.wantEnd(b, lehr.BuildSuccess, "", "")
				}
				for _, s := range b.Steps {
					if s.Status == lehr.StepRunning {
						t.Errorf("step %d is still %q after the end", s.Step, s.Status)
					}
				}
				w.wantNothingLeft()
			})
		})
	}
}

// START, later steps and the healthcheck run in one fresh sandbox of the
// flattened image, and are let live when the build is done with them.
func TestStartRunsInAFreshSandbox(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		var mu sync.Mutex
		boxes := map[string]lehr.SandboxID{}
		lingers := map[string]bool{}
		play := map[string]agenttest.Script{}
		for _, name := range []string{"prepare", "later", "probe"} {
			play[name] = exits(0, "", "")
		}
		inner := serving(play)
		w.host().Run = func(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
			name := r.Args[len(r.Args)-1]
			mu.Lock()
			boxes[name], lingers[name] = r.SandboxID, r.Linger
			mu.Unlock()
			return inner(ctx, r, out)
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		p := w.request("RUN prepare", "START serve", "RUN later")
		p.Healthcheck = "probe"
		b := w.build(p)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if boxes["prepare"] == boxes["serve"] || boxes["serve"] != boxes["later"] || boxes["later"] != boxes["probe"] {
			t.Errorf("sandboxes = %v, want prepare alone and the others together", boxes)
		}
		if !lingers["serve"] || lingers["later"] {
			t.Errorf("lingering = %v, want serve only", lingers)
		}
		calls := w.host().Calls()
		flatten, snap := slices.Index(calls, "FlattenRootfs"), slices.Index(calls, "CreateSnapshot")
		if flatten < 0 || snap < flatten || slices.Index(calls[flatten:snap], "CreateSandbox") < 0 {
			t.Errorf("calls = %v, want flatten, create, snapshot in this order", calls)
		}
		for _, s := range b.Steps {
			if s.Status != lehr.StepSuccess {
				t.Errorf("step %d is %q, want %q", s.Step, s.Status, lehr.StepSuccess)
			}
		}
	})
}

// START without a healthcheck leaves files only: the image is flattened again
// after its processes were ended, with a warning.
func TestStartWithoutHealthcheckIsEnded(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = serving(map[string]agenttest.Script{})
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.build(w.request("START serve", "RUN fill"))
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if b.Artifact.Type != lehr.TypeBase || b.Artifact.SnapshotDigest != "" {
			t.Errorf("artifact = %+v, want a base image", b.Artifact)
		}
		flattened := 0
		for _, call := range w.host().Calls() {
			if call == "FlattenRootfs" {
				flattened++
			}
		}
		if flattened != 2 {
			t.Errorf("flattened %d times, want 2", flattened)
		}
		if log := strings.Join(w.lines(b.ID), "\n"); !strings.Contains(log, "warning: START without a healthcheck") {
			t.Errorf("no warning in the log:\n%s", log)
		}
		w.wantNothingLeft()
	})
}

func TestOutputOfStartIsInTheLog(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = shell(map[string]agenttest.Script{"serve": func(ctx context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
			if err := out(lehr.StreamStdout, []byte("listening on 80\n")); err != nil {
				return agent.Exit{}, err
			}
			<-ctx.Done()
			return agent.Exit{}, context.Cause(ctx)
		}})
		w.work(w.svc, WorkerOptions{Embedded: true})
		p := w.request("START serve")
		p.Healthcheck = "probe"
		b := w.build(p)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if lines := w.lines(b.ID); !slices.Contains(lines, "stdout: listening on 80") || b.Steps[0].StdoutTail != "listening on 80\n" {
			t.Errorf("log %q, tail %q, want the output of START", lines, b.Steps[0].StdoutTail)
		}
	})
}

// A fault while the version is made leaves no part of it behind.
func TestFailedPublishLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"FlattenRootfs", "CreateSnapshot"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.host().Run = serving(map[string]agenttest.Script{})
				broken := true
				w.host().Hook = func(_ context.Context, called string, _ lehr.SandboxID) error {
					if called == method && broken {
						broken = false
						return errs.New(errs.Internal, "write error")
					}
					return nil
				}
				w.work(w.svc, WorkerOptions{Embedded: true})
				b := w.build(w.healthy())
				w.wantEnd(b, lehr.BuildSuccess, "", "")
				if b.LostAttempts != 1 {
					t.Errorf("%d lost attempts, want 1", b.LostAttempts)
				}
				w.wantNothingLeft()
			})
		})
	}
}
