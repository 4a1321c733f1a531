package failpoint_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lehr-dev/lehr/internal/failpoint"
)

// childVar makes the test binary the process that a failpoint kills.
const childVar = "LEHR_FAILPOINT_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) == "" {
		os.Exit(m.Run())
	}
	if err := failpoint.Install(os.Getenv); err != nil {
		os.Exit(3)
	}
	for range 2 {
		if err := failpoint.Hit(context.Background(), failpoint.StepAfterEnd); err != nil {
			os.Exit(4)
		}
	}
	os.Exit(5)
}

func TestOff(t *testing.T) {
	t.Parallel()
	for _, p := range failpoint.All() {
		if err := failpoint.Hit(t.Context(), p); err != nil {
			t.Errorf("Hit(%s) = %v, want nil", p, err)
		}
	}
}

func TestAllIsUnique(t *testing.T) {
	t.Parallel()
	all := failpoint.All()
	slices.Sort(all)
	if n := len(slices.Compact(slices.Clone(all))); n != len(all) || n == 0 {
		t.Errorf("All() has %d points, %d distinct", len(all), n)
	}
}

func TestErrorCounts(t *testing.T) {
	t.Parallel()
	set := failpoint.NewSet()
	armed := set.Arm(failpoint.PublishBeforeCommit, failpoint.Error, 2)
	ctx := failpoint.With(t.Context(), set)
	for i, want := range []bool{true, true, false} {
		err := failpoint.Hit(ctx, failpoint.PublishBeforeCommit)
		if got := errors.Is(err, failpoint.ErrInjected); got != want {
			t.Errorf("pass %d: Hit() = %v, want injected %v", i, err, want)
		}
	}
	if got := armed.Hits(); got != 2 {
		t.Errorf("Hits() = %d, want 2", got)
	}
	if err := failpoint.Hit(ctx, failpoint.StepAfterEnd); err != nil {
		t.Errorf("Hit(another point) = %v, want nil", err)
	}
	if err := failpoint.Hit(t.Context(), failpoint.PublishBeforeCommit); err != nil {
		t.Errorf("Hit(another context) = %v, want nil", err)
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	set := failpoint.NewSet()
	set.Arm(failpoint.StepAfterEnd, failpoint.Panic, 0)
	defer func() {
		if text, _ := recover().(string); !strings.Contains(text, "step.after-end") {
			t.Errorf("panic = %q, want the name of the point", text)
		}
	}()
	_ = failpoint.Hit(failpoint.With(t.Context(), set), failpoint.StepAfterEnd)
	t.Error("Hit() returned, want a panic")
}

func TestPause(t *testing.T) {
	t.Parallel()
	set := failpoint.NewSet()
	armed := set.Arm(failpoint.StepAfterEnd, failpoint.Pause, 0)
	ctx, cancel := context.WithCancelCause(failpoint.With(t.Context(), set))
	done := make(chan error, 1)
	pass := func() { done <- failpoint.Hit(ctx, failpoint.StepAfterEnd) }
	go pass()
	<-armed.Reached()
	cause := errors.New("enough")
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("paused Hit() = %v, want %v", err, cause)
	}
	ctx = failpoint.With(t.Context(), set)
	go pass()
	set.Disarm(failpoint.StepAfterEnd)
	if err := <-done; err != nil {
		t.Errorf("resumed Hit() = %v, want nil", err)
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		value string
		want  syscall.Signal
		code  int
	}{
		{value: "step.after-end=kill", want: syscall.SIGKILL},
		{value: "step.before-start=kill,step.after-end=error", code: 4},
		{value: "", code: 5},
		{value: "no.such=kill", code: 3},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"=1", failpoint.EnvVar+"="+test.value)
		var exit *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &exit) {
			t.Fatalf("%q: Run() = %v, want an exit error", test.value, err)
		}
		status := exit.Sys().(syscall.WaitStatus)
		if test.want != 0 && (!status.Signaled() || status.Signal() != test.want) {
			t.Errorf("%q: %v, want signal %v", test.value, exit, test.want)
		}
		if test.want == 0 && status.ExitStatus() != test.code {
			t.Errorf("%q: %v, want exit status %d", test.value, exit, test.code)
		}
	}
}

// A folder arms the points of running processes, once each.
func TestFolder(t *testing.T) {
	t.Parallel()
	f := failpoint.NewFolder(t.TempDir())
	run := func() *os.ProcessState {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"=1", f.Env())
		_ = cmd.Run()
		return cmd.ProcessState
	}
	if got := run().ExitCode(); got != 5 {
		t.Errorf("nothing armed: exit status %d, want 5", got)
	}
	if err := f.Arm(failpoint.StepAfterEnd, failpoint.Kill); err != nil {
		t.Fatal(err)
	}
	if f.Reached(failpoint.StepAfterEnd) {
		t.Error("Reached() before anyone passed, want false")
	}
	if status := run().Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("armed: %v, want SIGKILL", status)
	}
	if !f.Reached(failpoint.StepAfterEnd) || f.Disarm(failpoint.StepAfterEnd) {
		t.Error("after the hit the point is not reached, or armed still")
	}
	if got := run().ExitCode(); got != 5 {
		t.Errorf("the second time: exit status %d, want 5", got)
	}
	if err := f.Arm(failpoint.StepAfterEnd, failpoint.Error); err != nil {
		t.Fatal(err)
	}
	if got := run().ExitCode(); got != 4 {
		t.Errorf("an error: exit status %d, want 4", got)
	}
}

// A process that pauses at a point of a folder goes on when it is resumed.
func TestFolderPause(t *testing.T) {
	t.Parallel()
	f := failpoint.NewFolder(t.TempDir())
	if err := f.Arm(failpoint.StepAfterEnd, failpoint.Pause); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"=1", f.Env())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for !f.Reached(failpoint.StepAfterEnd) {
		runtime.Gosched()
	}
	if err := f.Resume(failpoint.StepAfterEnd); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 5 {
		t.Errorf("resumed: exit status %d, want 5", got)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"x", "nope=kill", "step.after-end", "step.after-end=burn", "step.after-end=kill:0", "step.after-end=kill:x"} {
		if _, err := failpoint.Parse(s); err == nil {
			t.Errorf("Parse(%q) = nil error, want one", s)
		}
	}
}

func BenchmarkHitOff(b *testing.B) {
	ctx := b.Context()
	for b.Loop() {
		_ = failpoint.Hit(ctx, failpoint.StepAfterEnd)
	}
}
