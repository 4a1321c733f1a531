package host

import (
	"context"
	"io"
	"path"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// maxStdin bounds what a request gives a command to read.
const maxStdin = 1 << 20

// verdictWait is how long a call whose connection broke waits to hear from the
// engine that the sandbox has ended.
const verdictWait = 3 * time.Second

// withGuest runs f with the guest daemon of a running sandbox, until ctx, the
// sandbox or the host ends, or the daemon stands still.
func (h *Host) withGuest(ctx context.Context, id lehr.SandboxID, f func(ctx context.Context, g Guest) error) error {
	ctx, leave, err := h.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s, err := h.lookup(id)
	if err != nil {
		return err
	}
	if err := h.wantRunning(s); err != nil {
		return err
	}
	h.mu.Lock()
	guest := s.guest
	h.mu.Unlock()
	if guest == nil { // it ended in between
		return h.wantRunning(s)
	}
	ctx, release := join(ctx, s.life)
	defer release()
	heard := hearing{clock: h.clock, running: func() bool { return h.wantRunning(s) == nil }, health: func(ctx context.Context) error {
		_, err := guest.Health(ctx)
		return err
	}}
	return h.ruling(s, heard.run(ctx, func(ctx context.Context) error { return f(ctx, guest) }))
}

// ruling turns a failure into the end of the sandbox where that is the cause. A
// connection that breaks tells it before the engine does, so such a failure
// waits a moment for the engine's word; errors that the sandbox answered with
// do not.
func (h *Host) ruling(s *sandbox, err error) error {
	if err == nil {
		return nil
	}
	var verdict <-chan time.Time
	switch errs.KindOf(err) {
	case errs.Unavailable:
		timer := time.NewTimer(verdictWait)
		defer timer.Stop()
		verdict = timer.C
	case errs.Conflict, errs.NotFound, errs.Internal, errs.Corrupt:
		if errs.CodeOf(err) != string(errs.KindOf(err)) {
			return err // it names its own reason
		}
		now := make(chan time.Time)
		close(now)
		verdict = now
	default:
		return err
	}
	select {
	case <-s.ended:
	case <-h.life.Done():
		return err
	case <-verdict:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.rec.State.Live() {
		return err
	}
	return endedError(&s.rec)
}

// Exec runs one command and streams its output.
func (h *Host) Exec(ctx context.Context, r agent.Exec, out agent.Output) (agent.Exit, error) {
	if err := checkExec(r); err != nil {
		return agent.Exit{}, err
	}
	var exit agent.Exit
	err := h.withGuest(ctx, r.SandboxID, func(ctx context.Context, g Guest) error {
		var err error
		exit, err = g.Exec(ctx, r, out)
		return err
	})
	return exit, err
}

func checkExec(r agent.Exec) error {
	switch {
	case len(r.Args) == 0 || r.Args[0] == "":
		return errs.New(errs.Invalid, "there is no command to run").WithField("args")
	case r.Timeout < 0:
		return errs.New(errs.Invalid, "a time limit cannot be negative").WithField("timeout")
	case len(r.Stdin) > maxStdin:
		return errs.New(errs.Invalid, "standard input has %d bytes, more than %d", len(r.Stdin), maxStdin).WithField("stdin")
	}
	return nil
}

// Environment returns the default environment as the guest daemon sees it.
func (h *Host) Environment(ctx context.Context, id lehr.SandboxID) ([]lehr.EnvVar, error) {
	var env []lehr.EnvVar
	err := h.withGuest(ctx, id, func(ctx context.Context, g Guest) error {
		var err error
		env, err = g.Environment(ctx, id)
		return err
	})
	return env, err
}

// ReadFile streams a file of the sandbox to w.
func (h *Host) ReadFile(ctx context.Context, f agent.File, w io.Writer) error {
	return h.withFile(ctx, f, func(ctx context.Context, g Guest, f agent.File) error { return g.ReadFile(ctx, f, w) })
}

// WriteFile creates or replaces a file of the sandbox from r. A sandbox cannot
// tell whether its own disk is full or the host's; the host can.
func (h *Host) WriteFile(ctx context.Context, f agent.File, r io.Reader) error {
	err := h.withFile(ctx, f, func(ctx context.Context, g Guest, f agent.File) error { return g.WriteFile(ctx, f, r) })
	if errs.CodeOf(err) != "disk_full" {
		return err
	}
	if low := h.wantDisk(); low != nil {
		return low
	}
	return err
}

// MakeDir makes a directory of the sandbox and its missing parents.
func (h *Host) MakeDir(ctx context.Context, f agent.File) error {
	return h.withFile(ctx, f, func(ctx context.Context, g Guest, f agent.File) error { return g.MakeDir(ctx, f) })
}

// withFile calls with the path made absolute.
func (h *Host) withFile(ctx context.Context, f agent.File, call func(context.Context, Guest, agent.File) error) error {
	if f.Path == "" || strings.ContainsRune(f.Path, 0) {
		return errs.New(errs.Invalid, "the path is empty or has a NUL byte").WithField("path")
	}
	s, err := h.lookup(f.SandboxID)
	if err != nil {
		return err
	}
	if !path.IsAbs(f.Path) {
		f.Path = path.Join(s.rec.Workdir, f.Path) // never changes once it is recorded
	}
	return h.withGuest(ctx, f.SandboxID, func(ctx context.Context, g Guest) error { return call(ctx, g, f) })
}
