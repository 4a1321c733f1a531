package build

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// The codes of failed builds. The user's faults come first.
const (
	CodeStepFailed        = "step_failed"        // a step ended with another status than 0
	CodeStepTimeout       = "step_timeout"       // a step's time limit ended it
	CodeBuildTimeout      = "build_timeout"      // the build's time limit ended it
	CodeStartFailed       = "start_failed"       // a START process ended with a non-zero status or by a signal
	CodeHealthcheckFailed = "healthcheck_failed" // retries or time used up
	CodeOOM               = "oom"                // the sandbox exceeded its memory
	CodeDiskFull          = "disk_full"          // the sandbox's disk is full
	CodePids              = "pids"               // too many processes
	CodeGuestLost         = "guest_lost"         // the recipe ended the guest daemon
	CodeBaseMissing       = "base_missing"       // the base was removed after the build was created
	CodeRecipeInvalid     = "recipe_invalid"     // the recipe does not fit the base as it is now
	CodeBaseNotFound      = "base_not_found"     // at create: neither a template nor an image
	CodeBaseInvalid       = "base_invalid"       // the registry's image cannot be used
	CodeRegistryDenied    = "registry_denied"    // the registry does not give the image to this login

	CodeEngine      = "engine"       // a sandbox ended for no nameable reason
	CodeSandboxLost = "sandbox_lost" // a sandbox is gone without a trace
	CodeHostLost    = "host_lost"    // the host does not answer
	// CodeRegistryUnreachable: the registry of the base does not answer.
	CodeRegistryUnreachable = "registry_unreachable"
	CodeProbeFailed         = "probe_failed" // probes could not be run
	CodeUnplaced            = "unplaced"     // no host could take the build for long
	CodeTooLarge            = "too_large"    // no host is large enough for the build, even an empty one
	CodePanic               = "panic"        // a fault in Lehr
	CodePlatform            = "platform"     // everything else that is not the recipe's fault
)

// What a host says when a guest daemon stands still, and when its own disk is
// full.
const (
	codeGuestSilent  = "guest_silent"
	codeHostDiskFull = "host_disk_full"
)

// Why an attempt is cut short. They travel as causes of its context.
var (
	errAttemptOver  = errors.New("the attempt is over")
	errLeaseLost    = errors.New("the lease could not be renewed")
	errBuildTimeout = errors.New("the build's time limit ended it")
)

// failure is the end of an attempt by an error of its own. The user's are final;
// the platform's give the build back for another attempt unless final is set.
type failure struct {
	lehr.BuildError
	final bool
	cause error
}

func (f *failure) Error() string { return f.Code + ": " + f.Message }

func (f *failure) Unwrap() error { return f.cause }

// spot is where in a plan something happens.
type spot struct {
	phase lehr.Phase
	step  int32 // 0 where no step is concerned
}

func (p spot) String() string {
	if p.step == 0 {
		return string(p.phase)
	}
	return fmt.Sprintf("%s step %d", p.phase, p.step)
}

// userFault returns a failure that is the recipe's. What ended ctx comes first:
// whatever a cancelled command reports is not its own doing.
func userFault(ctx context.Context, at spot, code, reason string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &failure{BuildError: buildError(at, lehr.FaultUser, code, reason)}
}

// platformFault returns a failure that is not the recipe's, unless ctx has
// ended.
func platformFault(ctx context.Context, at spot, code string, cause error) error {
	var known *failure
	if errors.As(cause, &known) {
		return cause
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &failure{BuildError: buildError(at, lehr.FaultPlatform, code, safeMessage(cause)), cause: cause}
}

// safeMessage is what of err may be shown: the messages of our own errors, not
// their causes.
func safeMessage(err error) string {
	var e *errs.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}

// remedyOf is what the outermost of our own errors says to do.
func remedyOf(err error) string {
	var e *errs.Error
	if errors.As(err, &e) {
		return e.Remedy
	}
	return ""
}

func buildError(at spot, fault lehr.Fault, code, reason string) lehr.BuildError {
	return lehr.BuildError{
		Code: code, Fault: fault, Phase: at.phase, Step: at.step,
		Message: fmt.Sprintf("%s failed: %s", at, reason), Remedy: remedy(code),
	}
}

func remedy(code string) string {
	switch code {
	case CodeStepFailed, CodeStartFailed:
		return "read the step's output in the build's log"
	case CodeStepTimeout:
		return "give the step more time: RUN --timeout=…, or the build's limits"
	case CodeBuildTimeout:
		return "give the build more time: its limit \"build\""
	case CodeHealthcheckFailed:
		return "read the output of what START began, or give it more time: --start-period, --retries"
	case CodeOOM:
		return "build with more memory"
	case CodeDiskFull:
		return "build with a larger disk, or remove what the recipe does not need in the step that makes it"
	case CodePids:
		return "start fewer processes at once"
	case CodeGuestLost:
		return "do not end or stop process 1 or what runs under /.lehr"
	case CodeBaseMissing:
		return "name a base that exists"
	case CodeBaseNotFound:
		return "see lehr templates ls, or look at the image's name"
	case CodeBaseInvalid:
		return "use another image, or another tag of it"
	case CodeRegistryDenied:
		return "give a login that may pull the image"
	case CodeRegistryUnreachable:
		return "is the registry up, and can the host reach it?"
	}
	return "build again; if it happens again, run lehr doctor on the host"
}

// endReason says how a sandbox's end looks as a build's error.
var endReason = map[lehr.SandboxReason]struct {
	code   string
	fault  lehr.Fault
	reason string
}{
	lehr.ReasonOOM:       {CodeOOM, lehr.FaultUser, "out of memory: the sandbox exceeded its %d MB"},
	lehr.ReasonPids:      {CodePids, lehr.FaultUser, "too many processes in the sandbox"},
	lehr.ReasonGuestLost: {CodeGuestLost, lehr.FaultUser, "the sandbox's guest daemon was ended"},
	lehr.ReasonEngine:    {CodeEngine, lehr.FaultPlatform, "the sandbox ended for no nameable reason"},
	lehr.ReasonHostLost:  {CodeHostLost, lehr.FaultPlatform, "the sandbox's host went away"},
	lehr.ReasonTTL:       {CodeSandboxLost, lehr.FaultPlatform, "the sandbox was not renewed in time"},
	lehr.ReasonUser:      {CodeSandboxLost, lehr.FaultPlatform, "the sandbox was ended from outside"},
}

// How long a sandbox that broke off a call may take to say why it ended.
const (
	endPatience = 3 * time.Second
	endAgain    = 50 * time.Millisecond
)

// callFault explains an error of a call into the sandbox: the sandbox's own end
// comes first, then what the error says.
func (a *attempt) callFault(ctx context.Context, at spot, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if reason, why := commandRefused(err); reason {
		return userFault(ctx, at, CodeStepFailed, why)
	}
	if errs.CodeOf(err) == CodeDiskFull {
		return userFault(ctx, at, CodeDiskFull, safeMessage(err))
	}
	if errs.CodeOf(err) == codeGuestSilent {
		return userFault(ctx, at, CodeGuestLost, "the sandbox's guest daemon was stopped")
	}
	box, found, lookErr := a.sandboxEnd(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case lookErr != nil:
		return platformFault(ctx, at, CodeHostLost, lookErr)
	case !found:
		return platformFault(ctx, at, CodeSandboxLost, errs.New(errs.Unavailable, "the sandbox is gone"))
	case box.State.Live():
		return platformFault(ctx, at, CodePlatform, err)
	}
	return a.endFault(at, box)
}

// commandRefused reports whether a command could not be run because of what the
// recipe says.
func commandRefused(err error) (refused bool, why string) {
	switch errs.CodeOf(err) {
	case "command_not_found", "command_not_executable", "user_unknown", "workdir_missing":
		return true, safeMessage(err)
	}
	return false, ""
}

// sandboxEnd looks until the sandbox has ended, for a moment: a broken call may
// be seen before its reason is.
func (a *attempt) sandboxEnd(ctx context.Context) (box agent.Sandbox, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	for {
		var look agent.Sandbox
		look, err = a.host.GetSandbox(ctx, a.sandbox)
		switch {
		case errs.IsKind(err, errs.NotFound):
			return agent.Sandbox{}, false, nil
		case err == nil:
			box, found = look, true
			if !look.State.Live() {
				return box, true, nil
			}
		}
		if a.o.Clock.Sleep(ctx, endAgain) != nil {
			return box, found, endError(found, err)
		}
	}
}

// endError drops the error of a look that was cut short after one that worked.
func endError(found bool, err error) error {
	if found {
		return nil
	}
	return err
}

func (a *attempt) endFault(at spot, box agent.Sandbox) error {
	end, ok := endReason[box.Reason]
	if !ok {
		end = endReason[lehr.ReasonEngine]
	}
	reason := end.reason
	if strings.Contains(reason, "%d") {
		reason = fmt.Sprintf(reason, box.Resources.MemoryMB)
	}
	return &failure{BuildError: buildError(at, end.fault, end.code, reason)}
}
