package build

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/build/plan"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/failpoint"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// BuildLogEntry is the outcome of one step, as builds show it.
type BuildLogEntry = lehr.StepResult

// partialAge is how long output without a line end, such as a question, waits
// for one before it is shown.
const partialAge = time.Second

// stepRun is one step while it runs.
type stepRun struct {
	a     *attempt
	step  plan.Step
	at    spot
	begun time.Time
	entry BuildLogEntry
	out   stepOutput
}

func (a *attempt) newStep(s plan.Step) *stepRun {
	at := spot{phase: s.Phase, step: int32(s.N)}
	return &stepRun{
		a: a, step: s, at: at, begun: a.o.Clock.Now(), out: stepOutput{log: a.log, at: at},
		entry: BuildLogEntry{Attempt: a.fence.Attempt, Step: at.step, Phase: s.Phase, Cmd: s.Cmd},
	}
}

// runStep runs one step to its end and records it.
func (a *attempt) runStep(ctx context.Context, s plan.Step) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := a.newStep(s)
	a.enter(r.at)
	if s.Kind == plan.KindStart {
		return a.begin(ctx, r)
	}
	if s.Skip != "" {
		a.say(ctx, r.at, "%s: left out, %s", s.Cmd, s.Skip)
		r.entry.CacheReason = s.Skip
	}
	if !s.Acts() {
		return r.put(ctx, lehr.StepSuccess)
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	err := r.act(ctx)
	if hitErr := a.hit(ctx, failpoint.StepAfterEnd); err == nil {
		err = hitErr
	}
	if err := r.close(ctx, err); err != nil {
		return err
	}
	return a.hit(ctx, failpoint.StepAfterRecord)
}

// open records that the step begins.
func (r *stepRun) open(ctx context.Context) error {
	if err := r.put(ctx, lehr.StepRunning); err != nil {
		return err
	}
	r.a.say(ctx, r.at, "%s", r.step.Cmd)
	return r.a.hit(ctx, failpoint.StepBeforeStart)
}

// close records how the step ended and returns err. Output is durable before
// the result, and the result also after a cancel.
func (r *stepRun) close(ctx context.Context, err error) error {
	row, cancel := r.a.rowContext(ctx)
	defer cancel()
	r.out.flush(row)
	status := lehr.StepSuccess
	switch {
	case ctx.Err() != nil:
		status = lehr.StepCancelled
	case err != nil:
		status = lehr.StepFailed
	}
	if err == nil {
		r.a.say(row, r.at, "done after %v", r.elapsed().Round(time.Millisecond))
	}
	r.a.log.flush(row)
	if putErr := r.put(row, status); err == nil {
		err = putErr
	}
	return err
}

func (r *stepRun) elapsed() time.Duration { return r.a.o.Clock.Now().Sub(r.begun) }

func (r *stepRun) put(ctx context.Context, status lehr.StepStatus) error {
	r.entry.Status, r.entry.OK = status, status == lehr.StepSuccess
	r.entry.Elapsed = r.elapsed()
	r.entry.StdoutTail, r.entry.StderrTail = r.out.tails()
	return r.a.row(ctx, func(ctx context.Context) error { return r.a.o.Store.Queue().PutStep(ctx, r.a.fence, r.entry) })
}

// act does what the step says in the sandbox.
func (r *stepRun) act(ctx context.Context) error {
	if r.step.MakeDir != "" {
		return r.makeDir(ctx)
	}
	if err := r.writeFile(ctx); err != nil {
		return err
	}
	exit, err := r.a.exec(ctx, r.command(), &r.out)
	if err != nil {
		return r.a.callFault(ctx, r.at, err)
	}
	r.entry.Exit = &exit.Code
	if err := r.judge(ctx, exit); err != nil {
		return err
	}
	return r.removeFile(ctx)
}

// command is the step's command with its proxies, which ENV may override.
func (r *stepRun) command() agent.Exec {
	env := recipe.Vars(slices.Clone(r.step.Env))
	for _, p := range r.step.Proxy {
		if _, ok := env.Get(p.Name); !ok {
			env = append(env, p)
		}
	}
	return agent.Exec{
		Args: r.step.Argv, Env: env, User: r.step.User, Workdir: r.step.Workdir, Timeout: r.step.Timeout,
	}
}

// exec runs a command in the attempt's sandbox and streams its output.
func (a *attempt) exec(ctx context.Context, e agent.Exec, out *stepOutput) (agent.Exit, error) {
	e.SandboxID = a.sandbox
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { out.flushPartials(ctx, a) })
	defer watch.Wait()
	defer cancel()
	exit, err := a.host.Exec(ctx, e, func(stream lehr.LogStream, b []byte) error {
		out.write(ctx, stream, b)
		return nil
	})
	if err == nil && ctx.Err() != nil {
		return exit, context.Cause(ctx) // a killed command's status is not its own
	}
	return exit, err
}

// judge turns an exit that is no success into the user's fault.
func (r *stepRun) judge(ctx context.Context, exit agent.Exit) error {
	switch {
	case exit.TimedOut && r.step.Timeout >= r.a.buildLimit():
		return errBuildTimeout // the step has no limit of its own
	case exit.TimedOut:
		return userFault(ctx, r.at, CodeStepTimeout, fmt.Sprintf("it exceeded its time limit of %v", r.step.Timeout))
	case exit.Code == 0:
		return nil
	}
	stdout, stderr := r.out.tails()
	full, hostsDisk := r.a.diskFull(ctx, stdout+stderr)
	switch {
	case hostsDisk != nil:
		return platformFault(ctx, r.at, CodePlatform, hostsDisk)
	case full:
		return userFault(ctx, r.at, CodeDiskFull,
			fmt.Sprintf("no space left on the sandbox's disk of %d MB: %s", r.a.build.Spec.Resources.DiskMB, exitReason(exit, stderr)))
	}
	if strings.Contains(stderr, "fork") && strings.Contains(stderr, "Resource temporarily unavailable") {
		return userFault(ctx, r.at, CodePids, "too many processes: "+exitReason(exit, stderr))
	}
	return userFault(ctx, r.at, CodeStepFailed, exitReason(exit, stderr))
}

// reasonBytes and reasonLines bound the part of stderr in an error's message.
const (
	reasonBytes = 1 << 10
	reasonLines = 10
)

// exitReason is the end of stderr, or the exit status where there is none.
func exitReason(exit agent.Exit, stderr string) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	lines = lines[max(0, len(lines)-reasonLines):]
	text := strings.Join(lines, "\n")
	if over := len(text) - reasonBytes; over > 0 {
		text = "…" + strings.ToValidUTF8(text[over:], "")
	}
	switch {
	case text != "":
		return text
	case exit.Signal != 0:
		return fmt.Sprintf("ended by signal %d", exit.Signal)
	}
	return fmt.Sprintf("exit code %d", exit.Code)
}

// The file that finds out whether the disk is full: a failed build's sandbox is
// destroyed, so it need not be removed.
const (
	diskProbe      = "/.lehr-disk-probe"
	diskProbeBytes = 1 << 20
	diskProbeLimit = 5 * time.Second
)

// diskFull decides whether a failed command met the end of its disk. What it
// wrote says so (ENOSPC has one text in every libc), or else a small write
// fails with it: a command may hide the reason, and one that removed its files
// when it failed leaves nothing but the text. Either way the fault is the
// user's, so a command that only pretends gains nothing. Where it is the host's
// disk that is full, which the host says, hosts is its error.
func (a *attempt) diskFull(ctx context.Context, output string) (full bool, hosts error) {
	ctx, cancel := context.WithTimeout(ctx, diskProbeLimit)
	defer cancel()
	err := a.host.WriteFile(ctx, agent.File{SandboxID: a.sandbox, User: "0", Path: diskProbe},
		bytes.NewReader(make([]byte, diskProbeBytes)))
	if errs.CodeOf(err) == codeHostDiskFull {
		return false, err
	}
	return errs.CodeOf(err) == CodeDiskFull || strings.Contains(output, "No space left on device"), nil
}

// makeDir makes the directory of WORKDIR for its user. Where the user may not,
// root does and hands it over; what exists stays as it is.
func (r *stepRun) makeDir(ctx context.Context) error {
	dir := agent.File{SandboxID: r.a.sandbox, User: r.step.User, Path: r.step.MakeDir}
	err := r.a.host.MakeDir(ctx, dir)
	if errs.IsKind(err, errs.PermissionDenied) {
		dir.User = "0"
		if err = r.a.host.MakeDir(ctx, dir); err == nil {
			return r.helper(ctx, "chown", r.step.User, r.step.MakeDir)
		}
	}
	if err == nil || errs.IsKind(err, errs.Exists) {
		return nil
	}
	return r.fileFault(ctx, err)
}

// helper runs a small program of the image as root.
func (r *stepRun) helper(ctx context.Context, argv ...string) error {
	exit, err := r.a.exec(ctx, agent.Exec{Args: argv, Env: r.step.Env, User: "0", Workdir: "/", Timeout: r.step.Timeout}, &r.out)
	if err != nil {
		return r.a.callFault(ctx, r.at, err)
	}
	return r.judge(ctx, exit)
}

// writeFile writes the step's inline script, executable for everyone.
func (r *stepRun) writeFile(ctx context.Context) error {
	f := r.step.File
	if f == nil {
		return nil
	}
	file := agent.File{SandboxID: r.a.sandbox, User: "0", Path: f.Path}
	if err := r.a.host.WriteFile(ctx, file, strings.NewReader(f.Data)); err != nil {
		return r.fileFault(ctx, err)
	}
	return r.helper(ctx, "chmod", fmt.Sprintf("%04o", f.Mode), f.Path)
}

func (r *stepRun) removeFile(ctx context.Context) error {
	if r.step.File == nil {
		return nil
	}
	return r.helper(ctx, "rm", "-f", r.step.File.Path)
}

// fileFault explains a failed file call: what the path or the disk says is the
// user's fault.
func (r *stepRun) fileFault(ctx context.Context, err error) error {
	switch {
	case errs.CodeOf(err) == CodeDiskFull:
		return userFault(ctx, r.at, CodeDiskFull, safeMessage(err))
	case errs.IsKind(err, errs.Invalid), errs.IsKind(err, errs.NotFound) && errs.CodeOf(err) != "sandbox_not_found",
		errs.IsKind(err, errs.PermissionDenied):
		return userFault(ctx, r.at, CodeStepFailed, safeMessage(err))
	}
	return r.a.callFault(ctx, r.at, err)
}
