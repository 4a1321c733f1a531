package plan

import (
	"slices"

	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// conclude resolves the healthcheck and what it brings along.
func (m *maker) conclude() {
	m.config.Debian = m.in.Base.Debian
	m.plan.Config = m.config
	m.effectiveCheck()
	if m.check == nil {
		m.withoutCheck()
	} else {
		m.withCheck()
	}
	slices.SortStableFunc(m.plan.Warnings, func(a, b recipe.Warning) int { return a.Line - b.Line })
}

// withCheck resolves the probe, in the context of a sandbox of the version.
func (m *maker) withCheck() {
	m.implicitStart()
	final := m.final()
	m.plan.Healthcheck = &Healthcheck{
		Cmd: m.checkCmd, Argv: final.Argv(m.check.Command), Env: m.config.Env,
		User: userOrRoot(m.config.User), Workdir: final.Workdir,
		Interval: m.check.Interval, Timeout: m.check.Timeout,
		StartPeriod: m.check.StartPeriod, Retries: m.check.Retries,
	}
}

// effectiveCheck lets the parameter win over the instruction.
func (m *maker) effectiveCheck() {
	if m.in.Healthcheck != nil {
		m.check, m.checkCmd = m.in.Healthcheck, ""
	}
	if m.check != nil && m.check.Off {
		m.check = nil
	}
	if m.check == nil || m.checkCmd != "" {
		return
	}
	m.checkCmd = m.check.Command.Script
	if argv := m.check.Command.Argv; len(argv) > 0 {
		m.checkCmd = execForm(argv)
	}
	m.checkCmd = "HEALTHCHECK CMD " + m.checkCmd
}

// final is the context of a sandbox of the version: without build arguments.
func (m *maker) final() recipe.ExecContext {
	c := m.ctx
	c.Env = m.config.Env
	return c
}

// withoutCheck warns that what START began does not outlive the build.
func (m *maker) withoutCheck() {
	if !m.started {
		return
	}
	m.plan.EndProcesses = true
	for _, s := range m.plan.Steps {
		if s.Kind == KindStart {
			m.warn(recipe.Instruction{Line: s.Line, EndLine: s.EndLine},
				"START without a healthcheck: its processes are ended before the template is made")
		}
	}
}

// implicitStart starts CMD or ENTRYPOINT when there is a healthcheck and nothing
// else was started. It counts as a step, because it runs and can fail.
func (m *maker) implicitStart() {
	argv := slices.Concat(m.config.Entrypoint, m.config.Cmd)
	if m.started || len(argv) == 0 {
		return
	}
	m.add(m.acting(m.final(), Step{
		Phase: lehr.PhaseRecipe, Kind: KindStart, Cmd: "START " + execForm(argv), Argv: argv, Implicit: true,
	}))
}
