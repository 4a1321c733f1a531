package sandbox

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// maxStdin bounds the standard input that travels with a command.
const maxStdin = 1 << 20

// ExecParams is one command in a sandbox.
type ExecParams struct {
	TeamID    lehr.TeamID // empty: any team
	SandboxID lehr.SandboxID
	Args      []string // empty: the template's default start command
	Env       map[string]string
	User      string
	Workdir   string
	Timeout   time.Duration // 0: none
	Stdin     []byte        // at most 1 MiB
}

// FileParams names a file of a sandbox.
type FileParams struct {
	TeamID    lehr.TeamID // empty: any team
	SandboxID lehr.SandboxID
	User      string
	Path      string
}

// Exec runs a command and streams its output to out as it arrives; out's error
// ends it. The exit is data. The end of ctx kills the command.
func (s *Service) Exec(ctx context.Context, p ExecParams, out agent.Output) (agent.Exit, error) {
	if len(p.Stdin) > maxStdin {
		return agent.Exit{}, errs.New(errs.Invalid, "%d bytes, want at most %d", len(p.Stdin), maxStdin).WithField("stdin")
	}
	if p.Timeout < 0 {
		return agent.Exit{}, errs.New(errs.Invalid, "%v is negative", p.Timeout).WithField("timeout")
	}
	box, host, err := s.running(ctx, p.TeamID, p.SandboxID)
	if err != nil {
		return agent.Exit{}, err
	}
	if len(p.Args) == 0 {
		if p.Args, err = s.startCommand(ctx, box); err != nil {
			return agent.Exit{}, err
		}
	}
	return host.Exec(ctx, agent.Exec{
		SandboxID: p.SandboxID, Args: p.Args, Env: envVars(p.Env), User: p.User, Workdir: p.Workdir,
		Timeout: p.Timeout, Stdin: p.Stdin,
	}, out)
}

// startCommand is the default start command of the sandbox's template.
func (s *Service) startCommand(ctx context.Context, box lehr.Sandbox) ([]string, error) {
	v, err := s.o.Store.Templates().Version(ctx, box.VersionID)
	if err != nil {
		return nil, err
	}
	argv := slices.Concat(v.Config.Entrypoint, v.Config.Cmd)
	if len(argv) == 0 {
		return nil, errs.New(errs.Invalid, "template %s has no default start command", box.Template).WithField("cmd").
			WithCode("no_command").WithRemedy("name a command, or give the recipe a CMD")
	}
	return argv, nil
}

// ReadFile streams a file out of a sandbox.
func (s *Service) ReadFile(ctx context.Context, f FileParams, w io.Writer) error {
	_, host, err := s.running(ctx, f.TeamID, f.SandboxID)
	if err != nil {
		return err
	}
	return host.ReadFile(ctx, agent.File{SandboxID: f.SandboxID, User: f.User, Path: f.Path}, w)
}

// WriteFile streams a file into a sandbox; missing parents are made.
func (s *Service) WriteFile(ctx context.Context, f FileParams, r io.Reader) error {
	_, host, err := s.running(ctx, f.TeamID, f.SandboxID)
	if err != nil {
		return err
	}
	return host.WriteFile(ctx, agent.File{SandboxID: f.SandboxID, User: f.User, Path: f.Path}, r)
}

// running returns a sandbox that can run a command, with its host.
func (s *Service) running(ctx context.Context, team lehr.TeamID, id lehr.SandboxID) (lehr.Sandbox, agent.Agent, error) {
	box, host, err := s.reach(ctx, team, id)
	if err == nil && box.State != lehr.SandboxRunning {
		err = errs.New(errs.Conflict, "sandbox %s is %s", id, box.State).WithCode("sandbox_not_running")
		if box.State == lehr.SandboxPaused {
			err = errs.New(errs.Conflict, "sandbox %s is paused", id).WithCode("sandbox_paused").WithRemedy("resume it first")
		}
	}
	return box, host, err
}
