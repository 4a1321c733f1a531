package build

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/agent/agenttest"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// ends ends the sandbox under the command.
func ends(w *world, reason lehr.SandboxReason) agenttest.Script {
	return func(ctx context.Context, r agent.Exec, _ agent.Output) (agent.Exit, error) {
		w.host().End(r.SandboxID, reason)
		<-ctx.Done()
		return agent.Exit{}, context.Cause(ctx)
	}
}

// refuses cannot run the command.
func refuses(code string) agenttest.Script {
	return func(context.Context, agent.Exec, agent.Output) (agent.Exit, error) {
		return agent.Exit{}, errs.New(errs.Invalid, "x: %s", code).WithCode(code)
	}
}

func TestUserFaultsFailTheBuildOnce(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		script  func(w *world) agenttest.Script
		code    string
		message string
	}{
		{"stderr in the message", func(*world) agenttest.Script { return exits(3, "out\n", "no such thing\n") }, CodeStepFailed, "recipe step 1 failed: no such thing"},
		{"exit code without stderr", func(*world) agenttest.Script { return exits(3, "out\n", "") }, CodeStepFailed, "recipe step 1 failed: exit code 3"},
		{"time limit", func(*world) agenttest.Script { return runs(time.Hour) }, CodeStepTimeout, "recipe step 1 failed: it exceeded its time limit of 10m0s"},
		{"out of memory", func(w *world) agenttest.Script { return ends(w, lehr.ReasonOOM) }, CodeOOM, "recipe step 1 failed: out of memory: the sandbox exceeded its 512 MB"},
		{"too many processes", func(w *world) agenttest.Script { return ends(w, lehr.ReasonPids) }, CodePids, "recipe step 1 failed: too many processes in the sandbox"},
		{"fork refused", func(*world) agenttest.Script {
			return exits(2, "", "sh: 1: Cannot fork: Resource temporarily unavailable\n")
		}, CodePids, ""},
		{"guest daemon ended", func(w *world) agenttest.Script { return ends(w, lehr.ReasonGuestLost) }, CodeGuestLost, ""},
		{"disk full by its text", func(*world) agenttest.Script { return exits(1, "", "cp: No space left on device\n") }, CodeDiskFull, ""},
		{"no shell", func(*world) agenttest.Script { return refuses("command_not_found") }, CodeStepFailed, "recipe step 1 failed: x: command_not_found"},
		{"unknown user", func(*world) agenttest.Script { return refuses("user_unknown") }, CodeStepFailed, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.host().Run = shell(map[string]agenttest.Script{"work": tt.script(w)})
				w.work(w.svc, WorkerOptions{Embedded: true})
				b := w.build(w.request("RUN work", "RUN never"))
				w.wantEnd(b, lehr.BuildFailed, tt.code, lehr.FaultUser)
				if tt.message != "" && b.Error.Message != tt.message {
					t.Errorf("message = %q, want %q", b.Error.Message, tt.message)
				}
				if b.Error.Step != 1 || b.Error.Phase != lehr.PhaseRecipe || b.Error.Remedy == "" {
					t.Errorf("error = %+v, want recipe step 1 and a remedy", b.Error)
				}
				if b.Attempt != 1 || len(b.Steps) != 1 || b.Steps[0].Status != lehr.StepFailed {
					t.Errorf("attempt %d, steps %+v, want one attempt with one failed step", b.Attempt, b.Steps)
				}
				w.wantNothingLeft()
			})
		})
	}
}

func TestDiskFullIsFoundByAWrite(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = shell(map[string]agenttest.Script{"work": exits(1, "", "download failed\n")})
		w.host().Hook = func(_ context.Context, method string, _ lehr.SandboxID) error {
			if method == "WriteFile" {
				return errs.New(errs.Exhausted, "full").WithCode("disk_full")
			}
			return nil
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		w.wantEnd(w.build(w.request("RUN work")), lehr.BuildFailed, CodeDiskFull, lehr.FaultUser)
	})
}

// A platform fault is retried, and the next attempt can succeed.
func TestPlatformFaultIsRetried(t *testing.T) {
	t.Parallel()
	lose := map[string]func(w *world) agenttest.Script{
		"engine died":  func(w *world) agenttest.Script { return ends(w, lehr.ReasonEngine) },
		"agent broken": func(*world) agenttest.Script { return unavailable },
		"sandbox gone": func(w *world) agenttest.Script {
			return func(ctx context.Context, r agent.Exec, _ agent.Output) (agent.Exit, error) {
				w.host().Lose(r.SandboxID)
				<-ctx.Done()
				return agent.Exit{}, context.Cause(ctx)
			}
		},
	}
	for name, script := range lose {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				first := true
				bad := script(w)
				w.host().Run = func(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
					if first {
						first = false
						return bad(ctx, r, out)
					}
					return agent.Exit{}, nil
				}
				w.work(w.svc, WorkerOptions{Workers: 1, Embedded: true})
				b := w.build(w.request("RUN work"))
				w.wantEnd(b, lehr.BuildSuccess, "", "")
				if b.Attempt != 2 || b.LostAttempts != 1 {
					t.Errorf("attempt %d with %d lost, want 2 with 1", b.Attempt, b.LostAttempts)
				}
				w.wantGapless(b.ID)
				w.wantNothingLeft()
			})
		})
	}
}

func unavailable(context.Context, agent.Exec, agent.Output) (agent.Exit, error) {
	return agent.Exit{}, errs.New(errs.Unavailable, "the connection broke")
}

func TestLostAttemptIsRetriedElsewhere(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.hosts = append(w.hosts, agenttest.NewHost())
		w.hosts[0].Run = unavailable
		w.work(w.svc, WorkerOptions{Workers: 1, Embedded: true})
		b := w.build(w.request("RUN work"))
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		if b.HostID != w.hosts[1].ID || b.Attempt != 2 {
			t.Errorf("attempt %d on host %s, want 2 on %s", b.Attempt, b.HostID, w.hosts[1].ID)
		}
	})
}

func TestFiveLostAttemptsFailTheBuild(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = unavailable
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.build(w.request("RUN work"))
		w.wantEnd(b, lehr.BuildFailed, CodePlatform, lehr.FaultPlatform)
		if b.Attempt != lehr.MaxLostAttempts {
			t.Errorf("%d attempts, want %d", b.Attempt, lehr.MaxLostAttempts)
		}
		w.wantNothingLeft()
	})
}

// Fault 16 and 17 of the original: a client's time limit capped --timeout, and
// sub-second limits became none.
func TestTimeLimitsReachTheCommand(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		var got []time.Duration
		w.host().Run = func(_ context.Context, r agent.Exec, _ agent.Output) (agent.Exit, error) {
			got = append(got, r.Timeout)
			return agent.Exit{}, nil
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		p := w.request("RUN a", "RUN --timeout=45m b", "RUN --timeout=250ms c", "RUN --timeout=0s d")
		w.wantEnd(w.build(p), lehr.BuildSuccess, "", "")
		want := []time.Duration{10 * time.Minute, 45 * time.Minute, 250 * time.Millisecond, time.Hour}
		if !slices.Equal(got, want) {
			t.Errorf("time limits = %v, want %v", got, want)
		}
	})
}

func TestBuildLimitEndsTheBuild(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = runs(24 * time.Hour)
		w.work(w.svc, WorkerOptions{Embedded: true})
		p := w.request("RUN --timeout=0s work")
		limit := 3 * time.Minute
		p.Limits.Build = &limit
		begun := time.Now()
		b := w.build(p)
		w.wantEnd(b, lehr.BuildFailed, CodeBuildTimeout, lehr.FaultUser)
		if got := time.Since(begun).Round(10 * time.Second); got != limit {
			t.Errorf("ended after %v, want %v", got, limit)
		}
		w.wantNothingLeft()
	})
}

func TestBuildLimitCoversAllSteps(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = runs(time.Minute)
		w.work(w.svc, WorkerOptions{Embedded: true})
		p := w.request("RUN a", "RUN b", "RUN c", "RUN d")
		limit := 150 * time.Second
		p.Limits.Build = &limit
		b := w.build(p)
		w.wantEnd(b, lehr.BuildFailed, CodeBuildTimeout, lehr.FaultUser)
		if b.Error.Step != 3 || !strings.Contains(b.Error.Message, "recipe step 3 failed") {
			t.Errorf("error = %+v, want it in recipe step 3", b.Error)
		}
		w.wantNothingLeft()
	})
}

// Fault 21 of the original: no output until a phase ends.
func TestFollowerHasLineOneBeforeTheStepEnds(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		release := make(chan struct{})
		w.host().Run = func(ctx context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
			if err := out(lehr.StreamStdout, []byte("line 1\nhalf a")); err != nil {
				return agent.Exit{}, err
			}
			<-release
			return agent.Exit{}, out(lehr.StreamStdout, []byte(" question? \n"))
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.create(w.request("RUN work"))
		var seen []string
		for batch, err := range w.svc.Logs(w.ctx(), LogQuery{TeamID: w.team, BuildID: b.ID, Follow: true}) {
			if err != nil {
				t.Fatalf("Logs() = %v", err)
			}
			for _, l := range batch {
				if l.Stream == lehr.StreamStdout {
					seen = append(seen, l.Text)
				}
				if l.Text == "half a" { // shown although its line has no end
					if got := w.get(b.ID).Steps[0].Status; got != lehr.StepRunning {
						t.Errorf("the step is %q while its output is followed, want %q", got, lehr.StepRunning)
					}
					close(release)
				}
			}
		}
		if want := []string{"line 1", "half a", " question? "}; !slices.Equal(seen, want) {
			t.Errorf("output = %q, want %q", seen, want)
		}
	})
}

// The environment of a command is the plan's, in its order, and nothing of the
// sandbox's default (faults 11 and 15 of the original).
func TestStepsGetTheirContext(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		var got agent.Exec
		w.host().Run = func(_ context.Context, r agent.Exec, _ agent.Output) (agent.Exit, error) {
			got = r
			return agent.Exit{}, nil
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		w.host().Minimal.Env = []lehr.EnvVar{{Name: "PATH", Value: "/bin"}, {Name: "A", Value: "x\ny"}}
		p := w.request("ENV B=2", "WORKDIR /srv", "USER 1000:1000", "RUN work")
		b := w.build(p)
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		want := []lehr.EnvVar{{Name: "PATH", Value: "/bin"}, {Name: "A", Value: "x\ny"}, {Name: "B", Value: "2"}}
		if !slices.Equal(got.Env, want) || got.User != "1000:1000" || got.Workdir != "/srv" {
			t.Errorf("command = %+v, want env %v, user 1000:1000 in /srv", got, want)
		}
	})
}

func TestInlineScriptIsExecutableAndRemoved(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		var ran []string
		w.host().Run = func(_ context.Context, r agent.Exec, _ agent.Output) (agent.Exit, error) {
			ran = append(ran, strings.Join(r.Args, " "))
			return agent.Exit{}, nil
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.build(w.request("RUN <<EOF\n#!/usr/bin/python3\nprint(1)\nEOF"))
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		want := []string{"chmod 0755 /dev/pipes/EOF", "/bin/sh -c /dev/pipes/EOF", "rm -f /dev/pipes/EOF"}
		if !slices.Equal(ran, want) {
			t.Errorf("commands = %q, want %q", ran, want)
		}
	})
}

func TestWorkdirOfAnotherUserIsMadeByRoot(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		var ran []string
		w.host().Run = func(_ context.Context, r agent.Exec, _ agent.Output) (agent.Exit, error) {
			ran = append(ran, strings.Join(r.Args, " "))
			return agent.Exit{}, nil
		}
		denied := false
		w.host().Hook = func(_ context.Context, method string, _ lehr.SandboxID) error {
			if method == "MakeDir" && !denied {
				denied = true
				return errs.New(errs.PermissionDenied, "not yours")
			}
			return nil
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		w.wantEnd(w.build(w.request("USER 1000", "WORKDIR /srv")), lehr.BuildSuccess, "", "")
		if want := []string{"chown 1000 /srv"}; !slices.Equal(ran, want) {
			t.Errorf("commands = %q, want %q", ran, want)
		}
	})
}

func TestPanicFailsThatBuildOnly(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = func(_ context.Context, r agent.Exec, _ agent.Output) (agent.Exit, error) {
			if slices.Contains(r.Args, "explode") {
				panic("kaboom")
			}
			return agent.Exit{}, nil
		}
		w.work(w.svc, WorkerOptions{Workers: 1, Embedded: true})
		bad, good := w.create(w.request("RUN explode")), w.create(w.request("RUN work"))
		w.wantEnd(w.wait(bad.ID), lehr.BuildFailed, CodePanic, lehr.FaultPlatform)
		w.wantEnd(w.wait(good.ID), lehr.BuildSuccess, "", "")
		w.wantNothingLeft()
	})
}

func TestChattyStepIsKeptUpToTheCap(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		chunk := []byte(strings.Repeat(strings.Repeat("x", 1023)+"\n", 64))
		w.host().Run = func(_ context.Context, _ agent.Exec, out agent.Output) (agent.Exit, error) {
			for range 17 << 4 {
				if err := out(lehr.StreamStdout, chunk); err != nil {
					return agent.Exit{}, err
				}
			}
			return agent.Exit{}, nil
		}
		w.work(w.svc, WorkerOptions{Embedded: true})
		b := w.build(w.request("RUN work"))
		w.wantEnd(b, lehr.BuildSuccess, "", "")
		lines := w.lines(b.ID)
		if last := lines[len(lines)-1]; !strings.Contains(last, "log truncated") {
			t.Errorf("last line = %q, want the truncation mark", last)
		}
		w.wantGapless(b.ID)
	})
}

// Two workers run two builds at the same time.
func TestWorkersRunSideBySide(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.host().Run = runs(time.Minute)
		w.work(w.svc, WorkerOptions{Workers: 2, Embedded: true})
		a, b, c := w.create(w.request("RUN a")), w.create(w.request("RUN b")), w.create(w.request("RUN c"))
		time.Sleep(time.Second)
		synctest.Wait()
		for id, want := range map[lehr.BuildID]lehr.BuildStatus{a.ID: lehr.BuildRunning, b.ID: lehr.BuildRunning, c.ID: lehr.BuildPending} {
			if got := w.get(id).Status; got != want {
				t.Errorf("status = %q, want %q", got, want)
			}
		}
		w.wantEnd(w.wait(c.ID), lehr.BuildSuccess, "", "")
	})
}
