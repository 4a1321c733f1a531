package host_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/clock"
	"github.com/lehr-dev/lehr/internal/engine"
	"github.com/lehr-dev/lehr/internal/engine/fake"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/host/hosttest"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// create makes a sandbox from the minimal base.
func create(t *testing.T, b *hosttest.Bundle, change ...func(*agent.CreateSandbox)) lehr.SandboxID {
	t.Helper()
	r := hosttest.Request(b.Minimal(t))
	for _, f := range change {
		f(&r)
	}
	sb, err := b.CreateSandbox(t.Context(), r)
	if err != nil {
		t.Fatalf("CreateSandbox() = %v", err)
	}
	if sb.ID != r.ID || sb.State != lehr.SandboxRunning || sb.Resources != r.Resources {
		t.Fatalf("CreateSandbox() = %+v, want %s running", sb, r.ID)
	}
	return r.ID
}

// sh runs a script and returns its standard output and exit status.
func sh(t *testing.T, b *hosttest.Bundle, id lehr.SandboxID, script string) (string, int32) {
	t.Helper()
	var out strings.Builder
	exit, err := b.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"sh", "-c", script}},
		func(s lehr.LogStream, p []byte) error {
			if s == lehr.StreamStdout {
				out.Write(p)
			}
			return nil
		})
	if err != nil {
		t.Fatalf("Exec(%q) = %v", script, err)
	}
	return out.String(), exit.Code
}

func discard(lehr.LogStream, []byte) error { return nil }

func wantCode(t *testing.T, call string, err error, kind errs.Kind, code string) {
	t.Helper()
	if errs.KindOf(err) != kind || errs.CodeOf(err) != code {
		t.Errorf("%s = %v (kind %q, code %q), want kind %q, code %q", call, err, errs.KindOf(err), errs.CodeOf(err), kind, code)
	}
}

// wantNothing checks that no sandbox is left, on the host and below it.
func wantNothing(t *testing.T, b *hosttest.Bundle) {
	t.Helper()
	all, err := b.ListSandboxes(t.Context())
	if left := b.World.Belongings(); err != nil || len(all) > 0 || len(left) > 0 {
		t.Errorf("left behind: sandboxes %v, %q (%v)", all, left, err)
	}
}

// awaitState waits until a sandbox is in a state and returns it.
func awaitState(t *testing.T, a agent.Agent, id lehr.SandboxID, state lehr.SandboxState) agent.Sandbox {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got agent.Sandbox
	found := errors.New("found")
	err := a.WatchSandboxes(ctx, func(s agent.Sandbox) error {
		if s.ID == id {
			got = s
		}
		if s.ID == id && s.State == state {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		t.Fatalf("sandbox %s never became %s, it is %+v (%v)", id, state, got, err)
	}
	return got
}

func TestLifeOfASandbox(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	id := create(t, b, func(r *agent.CreateSandbox) {
		r.Config = lehr.ImageConfig{Env: []lehr.EnvVar{{Name: "A", Value: "image"}, {Name: "B", Value: "kept"}}, User: "app", Workdir: "/srv"}
		r.Env = map[string]string{"A": "two\nlines"}
	})
	if out, _ := sh(t, b, id, `whoami; pwd; echo "$A/$B"; hostname`); out != "app\n/srv\ntwo\nlines/kept\n"+string(id)+"\n" {
		t.Errorf("a command sees %q", out)
	}
	env, err := b.Environment(t.Context(), id)
	if err != nil || !slices.Contains(env, lehr.EnvVar{Name: "HOME", Value: "/home/app"}) || !slices.Contains(env, lehr.EnvVar{Name: "A", Value: "two\nlines"}) {
		t.Errorf("Environment() = %v, %v", env, err)
	}
	if _, err := b.CreateSandbox(t.Context(), agent.CreateSandbox{ID: id, Image: b.Minimal(t), Resources: lehr.DefaultResources}); !errs.IsKind(err, errs.Exists) {
		t.Errorf("CreateSandbox(existing) = %v, want kind exists", err)
	}
	info, err := b.Info(t.Context())
	if want := info.Capacity.MemoryMB - lehr.DefaultResources.MemoryMB; err != nil || info.Free.MemoryMB != want {
		t.Errorf("Info() = %+v, %v, want %d MB free", info, err, want)
	}
	for range 2 {
		if err := b.DestroySandbox(t.Context(), id); err != nil {
			t.Errorf("DestroySandbox() = %v", err)
		}
	}
	wantNothing(t, b)
	_, err = b.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"true"}}, discard)
	wantCode(t, "Exec(destroyed)", err, errs.NotFound, "sandbox_not_found")
}

func TestFiles(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	id := create(t, b)
	f := agent.File{SandboxID: id, Path: "/opt/deep/er/file", User: "app"}
	if err := b.WriteFile(t.Context(), f, strings.NewReader("text")); err != nil {
		t.Fatalf("WriteFile() = %v", err)
	}
	var got bytes.Buffer
	if err := b.ReadFile(t.Context(), f, &got); err != nil || got.String() != "text" {
		t.Errorf("ReadFile() = %q, %v", got.String(), err)
	}
	if err := b.MakeDir(t.Context(), agent.File{SandboxID: id, Path: "/opt/dir"}); err != nil {
		t.Errorf("MakeDir() = %v", err)
	}
	if _, code := sh(t, b, id, "test -d /opt/dir"); code != 0 {
		t.Error("MakeDir() made nothing")
	}
	err := b.ReadFile(t.Context(), agent.File{SandboxID: id, Path: "/none"}, &got)
	wantCode(t, "ReadFile(missing)", err, errs.NotFound, "not_found")
	err = b.ReadFile(t.Context(), agent.File{SandboxID: id}, &got)
	wantCode(t, "ReadFile(no path)", err, errs.Invalid, "invalid")
}

func TestExecErrors(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	id := create(t, b)
	for _, c := range []struct {
		r    agent.Exec
		code string
	}{
		{agent.Exec{Args: []string{"nothing-of-this-name"}}, "command_not_found"},
		{agent.Exec{Args: []string{"/etc/passwd"}}, "command_not_executable"},
		{agent.Exec{Args: []string{"true"}, User: "nobody-known"}, "user_unknown"},
		{agent.Exec{Args: []string{"true"}, Workdir: "/none"}, "workdir_missing"},
		{agent.Exec{}, "invalid"},
		{agent.Exec{Args: []string{"true"}, Timeout: -1}, "invalid"},
		{agent.Exec{Args: []string{"true"}, Stdin: make([]byte, 1<<20+1)}, "invalid"},
	} {
		c.r.SandboxID = id
		_, err := b.Exec(t.Context(), c.r, discard)
		wantCode(t, "Exec("+strings.Join(c.r.Args, " ")+")", err, errs.Invalid, c.code)
	}
	broken := errors.New("the follower is gone")
	_, err := b.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"echo", "x"}}, func(lehr.LogStream, []byte) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("Exec(broken output) = %v, want its error", err)
	}
}

func TestExecEnds(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	id := create(t, b)
	if _, code := sh(t, b, id, "exit 3"); code != 3 {
		t.Errorf("exit 3 = %d", code)
	}
	exit, err := b.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"sleep", "infinity"}, Timeout: time.Millisecond}, discard)
	if err != nil || !exit.TimedOut {
		t.Errorf("Exec(time limit) = %+v, %v, want timed out", exit, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the build was cancelled")
	_, err = b.Exec(ctx, agent.Exec{SandboxID: id, Args: []string{"sh", "-c", "echo started; sleep infinity"}},
		func(lehr.LogStream, []byte) error { cancel(reason); return nil })
	if !errors.Is(err, reason) {
		t.Errorf("Exec(cancelled) = %v, want its cause", err)
	}
	if procs := b.World.Machine(slotOf(t, b)).Processes(); len(procs) > 0 {
		t.Errorf("processes after ended calls = %v, want none", procs)
	}
}

// slotOf returns the only slot's id.
func slotOf(t *testing.T, b *hosttest.Bundle) (slot engine.SlotID) {
	t.Helper()
	all, err := b.Opt.Engine.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("List() = %v, %v, want one slot", all, err)
	}
	return all[0].Slot
}

func TestCreateFails(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	image := b.Minimal(t)
	refused := errs.New(errs.Exhausted, "no room")
	request := func(change func(*agent.CreateSandbox)) agent.CreateSandbox {
		r := hosttest.Request(image)
		change(&r)
		return r
	}
	missing := lehr.DigestOf([]byte("missing"))
	for name, c := range map[string]struct {
		r     agent.CreateSandbox
		fault fake.Fault
		kind  errs.Kind
		code  string
	}{
		"id":       {request(func(r *agent.CreateSandbox) { r.ID = "x" }), fake.Fault{}, errs.Invalid, "invalid"},
		"shape":    {request(func(r *agent.CreateSandbox) { r.Resources.MemoryMB = 0 }), fake.Fault{}, errs.Invalid, "invalid"},
		"image":    {request(func(r *agent.CreateSandbox) { r.Image = missing }), fake.Fault{}, errs.NotFound, "image_missing"},
		"snapshot": {request(func(r *agent.CreateSandbox) { r.Snapshot = missing }), fake.Fault{}, errs.NotFound, "snapshot_missing"},
		"prepare":  {hosttest.Request(image), fake.Fault{Op: fake.OpPrepare, Err: refused}, errs.Exhausted, "exhausted"},
		"start":    {hosttest.Request(image), fake.Fault{Op: fake.OpStart, Err: refused}, errs.Exhausted, "exhausted"},
		"half":     {hosttest.Request(image), fake.Fault{Op: fake.OpStart, Err: refused, Half: true}, errs.Exhausted, "exhausted"},
	} {
		c.fault.Times = 1
		disarm := b.World.Inject(c.fault)
		_, err := b.CreateSandbox(t.Context(), c.r)
		disarm()
		wantCode(t, "CreateSandbox("+name+")", err, c.kind, c.code)
		wantNothing(t, b)
	}
}

func TestCreateInterrupted(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	r := hosttest.Request(b.Minimal(t))
	never := make(chan struct{})
	for name, interrupt := range map[string]func(cancel func()){
		"caller gives up": func(cancel func()) { cancel() },
		"destroyed":       func(func()) { _ = b.DestroySandbox(context.WithoutCancel(t.Context()), r.ID) },
	} {
		disarm := b.World.Inject(fake.Fault{Op: fake.OpStart, Block: never})
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := b.CreateSandbox(ctx, r)
			failed <- err
		}()
		awaitState(t, b, r.ID, lehr.SandboxCreating)
		interrupt(cancel)
		if err := <-failed; err == nil {
			t.Errorf("%s: CreateSandbox() = nil, want an error", name)
		}
		cancel()
		disarm()
		wantNothing(t, b)
	}
}

func TestEndsByItself(t *testing.T) {
	t.Parallel()
	for reason, script := range map[lehr.SandboxReason]string{
		lehr.ReasonOOM:       "eat 100000",
		lehr.ReasonGuestLost: "kill 1",
	} {
		b := hosttest.New(t, hosttest.Options{})
		id := create(t, b)
		_, err := b.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"sh", "-c", script}}, discard)
		wantCode(t, "Exec("+script+")", err, errs.Conflict, "sandbox_ended")
		if err == nil || !strings.Contains(err.Error(), string(reason)) {
			t.Errorf("Exec(%s) = %v, want the reason %s named", script, err, reason)
		}
		if sb := awaitState(t, b, id, lehr.SandboxFailed); sb.Reason != reason {
			t.Errorf("after %s the sandbox is %+v, want reason %s", script, sb, reason)
		}
		if err := b.PauseSandbox(t.Context(), id); errs.CodeOf(err) != "sandbox_ended" {
			t.Errorf("PauseSandbox(ended) = %v", err)
		}
		if err := b.DestroySandbox(t.Context(), id); err != nil {
			t.Errorf("DestroySandbox(ended) = %v", err)
		}
		wantNothing(t, b)
	}
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	now := clock.NewFake(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	b := hosttest.New(t, hosttest.Options{Clock: now})
	id := create(t, b, func(r *agent.CreateSandbox) { r.TTL = time.Minute })
	if err := b.RenewSandbox(t.Context(), id, time.Hour); err != nil {
		t.Fatalf("RenewSandbox() = %v", err)
	}
	now.Advance(59 * time.Minute)
	if sb, err := b.GetSandbox(t.Context(), id); err != nil || sb.State != lehr.SandboxRunning {
		t.Fatalf("a renewed sandbox is %+v, %v", sb, err)
	}
	now.Advance(time.Minute)
	if sb := awaitState(t, b, id, lehr.SandboxKilled); sb.Reason != lehr.ReasonTTL {
		t.Errorf("an expired sandbox is %+v, want reason ttl", sb)
	}
	if err := b.RenewSandbox(t.Context(), id, time.Hour); errs.CodeOf(err) != "sandbox_ended" {
		t.Errorf("RenewSandbox(expired) = %v", err)
	}
	if err := b.DestroySandbox(t.Context(), id); err != nil {
		t.Errorf("DestroySandbox(expired) = %v", err)
	}
	wantNothing(t, b)
}

// A start that takes longer than the time-to-live does not use it up.
func TestTimeToLiveBeginsWithTheSandbox(t *testing.T) {
	t.Parallel()
	now := clock.NewFake(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	b := hosttest.New(t, hosttest.Options{Clock: now})
	points := failpoint.NewSet()
	slow := points.Arm(failpoint.HostCreateAfterStart, failpoint.Pause, 1)
	r := hosttest.Request(b.Minimal(t))
	r.TTL = time.Minute
	made := make(chan error, 1)
	go func() {
		_, err := b.CreateSandbox(failpoint.With(t.Context(), points), r)
		made <- err
	}()
	<-slow.Reached()
	now.Advance(time.Hour)
	slow.Resume()
	if err := <-made; err != nil {
		t.Fatalf("CreateSandbox() = %v, want nil after a slow start", err)
	}
	if sb, err := b.GetSandbox(t.Context(), r.ID); err != nil || !sb.ExpiresAt.Equal(now.Now().Add(time.Minute)) {
		t.Errorf("the sandbox ends at %v, %v, want in a minute", sb.ExpiresAt, err)
	}
	now.Advance(time.Minute)
	if sb := awaitState(t, b, r.ID, lehr.SandboxKilled); sb.Reason != lehr.ReasonTTL {
		t.Errorf("an expired sandbox is %+v, want reason ttl", sb)
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	b := hosttest.New(t, hosttest.Options{})
	id := create(t, b)
	for range 2 {
		if err := b.PauseSandbox(t.Context(), id); err != nil {
			t.Fatalf("PauseSandbox() = %v", err)
		}
	}
	_, err := b.Exec(t.Context(), agent.Exec{SandboxID: id, Args: []string{"true"}}, discard)
	wantCode(t, "Exec(paused)", err, errs.Conflict, "sandbox_paused")
	for range 2 {
		if err := b.ResumeSandbox(t.Context(), id); err != nil {
			t.Fatalf("ResumeSandbox() = %v", err)
		}
	}
	if _, code := sh(t, b, id, "true"); code != 0 {
		t.Errorf("a command after resume = %d", code)
	}
	defer b.World.Inject(fake.Fault{Op: fake.OpPause, Err: errs.New(errs.Internal, "refused")})()
	if err := b.PauseSandbox(t.Context(), id); !errs.IsKind(err, errs.Internal) {
		t.Errorf("PauseSandbox(engine refuses) = %v", err)
	}
	if sb, _ := b.GetSandbox(t.Context(), id); sb.State != lehr.SandboxRunning {
		t.Errorf("after a refused pause the sandbox is %s", sb.State)
	}
}
