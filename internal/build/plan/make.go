package plan

import (
	"fmt"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// Make plans a build. The error is a recipe.Problems that lists everything that
// is wrong: unknown build arguments, words that cannot be expanded, values that
// make no sense once they are.
func Make(in Input) (Plan, error) {
	if in.Platform == "" {
		in.Platform = recipe.DefaultPlatform
	}
	if in.Limits.Build == 0 {
		in.Limits.Build = lehr.DefaultLimits.Build
	}
	m := newMaker(in)
	if err := recipe.Join(in.Recipe.CheckBuildArgs(in.BuildArgs), m.globals()); err != nil {
		return Plan{}, err
	}
	m.prePost(lehr.PhasePreBuild, "apt-get update")
	_, _, steps := in.Recipe.Split()
	for _, ins := range steps {
		m.instruction(ins)
	}
	m.divide()
	m.conclude()
	m.checkEnvs()
	if err := m.problems.Err(); err != nil {
		return Plan{}, err
	}
	return m.plan.WithBase(in.BaseDigest), nil
}

// maker makes one plan. It is for one goroutine.
type maker struct {
	in       Input
	plan     Plan
	ctx      recipe.ExecContext // of the next instruction
	bare     recipe.ExecContext // of steps that the recipe has no say in
	config   lehr.ImageConfig   // what the version records so far; Env is the default environment
	args     recipe.Vars        // global arguments
	proxy    []lehr.EnvVar
	x        *recipe.Expander
	check    *recipe.Healthcheck // the effective one, nil when there is none
	checkCmd string
	started  bool // a START was seen
	divided  bool
	ownCmd   bool // CMD was given, not inherited
	meter    envMeter
	problems recipe.Problems
}

func newMaker(in Input) *maker {
	m := &maker{in: in, x: recipe.NewExpander(), ctx: recipe.NewExecContext(in.Base), config: in.Base}
	m.bare = recipe.NewExecContext(lehr.ImageConfig{Env: in.Base.Env})
	m.config.Env = m.ctx.Env
	m.config.Labels = append([]lehr.EnvVar(nil), in.Base.Labels...)
	m.config.Exposed = append([]string(nil), in.Base.Exposed...)
	m.plan.Warnings = append(m.plan.Warnings, in.Recipe.Warnings[:min(len(in.Recipe.Warnings), maxNotes)]...)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			if value, given := in.BuildArgs[name]; given {
				m.proxy = append(m.proxy, lehr.EnvVar{Name: name, Value: value})
			}
		}
	}
	return m
}

func (m *maker) globals() error {
	args, p := m.in.Recipe.Globals(m.x, m.in.Platform, m.in.BuildArgs)
	if p != nil {
		return recipe.Problems{*p}
	}
	m.args = args
	return nil
}

// checkEnvs refuses a plan that would be mostly environments.
func (m *maker) checkEnvs() {
	if m.meter.bytes > maxEnvBytes {
		m.invalid(recipe.Instruction{}, "env_too_large",
			fmt.Sprintf("the environments of all steps together exceed %d MiB", maxEnvBytes>>20),
			"set variables once, at the beginning")
	}
}

// add numbers a step and appends it.
func (m *maker) add(s Step) {
	s.N = len(m.plan.Steps) + 1
	m.plan.Steps = append(m.plan.Steps, s)
}

// maxNotes bounds the problems, and the warnings, of one plan.
const maxNotes = 1000

// fail records a problem of an instruction.
func (m *maker) fail(ins recipe.Instruction, p *recipe.Problem) {
	if len(m.problems) == maxNotes {
		return
	}
	p.Line, p.EndLine = ins.Line, ins.EndLine
	m.problems = append(m.problems, *p)
}

func (m *maker) invalid(ins recipe.Instruction, code, message, remedy string) {
	m.fail(ins, &recipe.Problem{Field: "recipe", Kind: errs.Invalid, Code: code, Message: message, Remedy: remedy})
}

func (m *maker) warn(ins recipe.Instruction, message string) {
	if len(m.plan.Warnings) >= maxNotes {
		return
	}
	m.plan.Warnings = append(m.plan.Warnings, recipe.Warning{Line: ins.Line, EndLine: ins.EndLine, Message: message})
}

// prePost adds steps that keep a Debian-like base tidy. They run as root, in
// the root directory, with the base's environment and /bin/sh, whatever the
// recipe sets.
func (m *maker) prePost(phase lehr.Phase, scripts ...string) {
	if m.in.SkipPrePost || !m.in.Base.Debian && !m.in.AptCounted {
		return
	}
	base := m.bare
	for _, script := range scripts {
		if !m.in.Base.Debian {
			m.add(Step{Phase: phase, Kind: KindSkipped, Cmd: "RUN " + script, Skip: "the base has no apt"})
			continue
		}
		m.add(m.acting(base, Step{
			Phase: phase, Kind: KindRun, Cmd: "RUN " + script,
			Argv:    base.Argv(recipe.Command{Script: script}),
			Timeout: m.limit(m.in.Limits.PrePost),
		}))
	}
}

// divide ends the steps that make files: post-build, then the boundary.
func (m *maker) divide() {
	if m.divided {
		return
	}
	m.divided = true
	m.prePost(lehr.PhasePostBuild, "apt-get clean", "apt-get autoremove -y", "rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin")
	m.plan.Boundary = len(m.plan.Steps)
}

// limit resolves a time limit of which zero means the build's.
func (m *maker) limit(d time.Duration) time.Duration {
	if d == 0 {
		return m.in.Limits.Build
	}
	return d
}

// acting completes a step that does something with what it inherits.
func (m *maker) acting(c recipe.ExecContext, s Step) Step {
	m.meter.count(c.Env)
	s.Env = c.Env
	s.User, s.Workdir = userOrRoot(c.User), c.Workdir
	if s.Kind == KindRun || s.Kind == KindStart {
		s.Proxy = m.proxy
	}
	s.Meaning = meaning(s)
	return s
}

// root is the user of steps when nobody names one: an id, because an image need
// not have a list of users.
const root = "0"

func userOrRoot(user string) string {
	if user == "" {
		return root
	}
	return user
}
