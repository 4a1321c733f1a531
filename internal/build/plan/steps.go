package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// instruction adds the step of one instruction and changes what later ones
// inherit.
func (m *maker) instruction(ins recipe.Instruction) {
	s := Step{Phase: lehr.PhaseRecipe, Cmd: ins.Cmd, Line: ins.Line, EndLine: ins.EndLine}
	switch b := ins.Body.(type) {
	case recipe.Command:
		m.command(ins, b, s)
		return
	case recipe.Workdir:
		m.workdir(ins, b, s)
		return
	case recipe.User:
		m.user(ins, b, s)
		return
	case recipe.Env:
		s.Kind = KindEnv
		m.env(ins, b)
	case recipe.Args:
		s.Kind = KindArg
		m.arg(ins, b)
	case recipe.Shell:
		s.Kind = KindShell
		m.ctx.Shell, m.config.Shell = b, b
	case recipe.Labels:
		s.Kind = KindLabel
		m.labels(ins, b)
	case recipe.Ports:
		s.Kind = KindExpose
		m.expose(ins, b)
	case recipe.Healthcheck:
		s.Kind = KindHealthcheck
		m.check, m.checkCmd = &b, ins.Cmd
	default:
		s.Kind = KindIgnored
	}
	m.add(s)
}

// command adds RUN, START, CMD and ENTRYPOINT.
func (m *maker) command(ins recipe.Instruction, c recipe.Command, s Step) {
	switch ins.Keyword {
	case recipe.KeywordCmd:
		s.Kind = KindCmd
		m.config.Cmd, m.ownCmd = m.ctx.Argv(c), true
	case recipe.KeywordEntrypoint:
		s.Kind = KindEntrypoint
		m.config.Entrypoint = m.ctx.Argv(c)
		if !m.ownCmd { // as in Docker, the base's CMD belongs to the base's ENTRYPOINT
			m.config.Cmd = nil
		}
	case recipe.KeywordStart:
		m.divide()
		m.started = true
		s.Kind = KindStart
		s = m.running(ins, c, s)
	default:
		s.Kind = KindRun
		s.Timeout = m.limit(m.in.Limits.Run)
		if c.Timeout != nil {
			s.Timeout = m.limit(*c.Timeout)
		}
		s = m.running(ins, c, s)
	}
	m.add(s)
}

func (m *maker) running(ins recipe.Instruction, c recipe.Command, s Step) Step {
	ctx := m.ctx
	if c.User != "" {
		if user, ok := m.userName(ins, c.User); ok {
			ctx.User = user.String()
		}
	}
	s.Argv, s.File = ctx.Argv(c), c.File
	return m.acting(ctx, s)
}

// env sets variables for later steps and for the template's sandboxes.
func (m *maker) env(ins recipe.Instruction, pairs recipe.Env) {
	before := m.ctx // one ENV sees none of its own
	env, config := m.ctx.Env.Clone(), recipe.Vars(m.config.Env).Clone()
	for _, p := range pairs {
		name, ok := m.word(ins, p.Name, before)
		value, ok2 := m.word(ins, p.Value, before)
		if !ok || !ok2 || !m.checkVar(ins, env, name, value) {
			continue
		}
		env.Set(name, value)
		config.Set(name, value)
	}
	m.ctx.Env, m.config.Env = env, config
}

// arg sets variables for later steps alone.
func (m *maker) arg(ins recipe.Instruction, args recipe.Args) {
	m.ctx.Env = m.ctx.Env.Clone() // each ARG sees those before it
	for _, a := range args {
		value, given := m.in.BuildArgs[a.Name]
		if !given && a.Default != nil {
			value, given = m.word(ins, *a.Default, m.ctx)
		} else if !given {
			value, given = m.args.Get(a.Name)
		}
		if given && m.checkVar(ins, m.ctx.Env, a.Name, value) {
			m.ctx.Env.Set(a.Name, value)
		}
	}
}

// checkVar refuses what no environment can hold.
func (m *maker) checkVar(ins recipe.Instruction, env recipe.Vars, name, value string) bool {
	switch {
	case name == "" || strings.ContainsRune(name, '='):
		m.invalid(ins, "env_name_invalid", fmt.Sprintf("%q is not a name of a variable", clip(name)), "")
	case len(name)+len(value)+1 > recipe.MaxArgBytes:
		m.invalid(ins, "env_too_large", fmt.Sprintf("the value of %s is %d bytes long, Linux takes at most %d", clip(name), len(value), recipe.MaxArgBytes),
			"put it into a file")
	case len(env) >= recipe.MaxEnvVars:
		m.invalid(ins, "env_too_large", fmt.Sprintf("the environment has more than %d variables", recipe.MaxEnvVars), "put them into a file")
	default:
		return true
	}
	return false
}

func (m *maker) labels(ins recipe.Instruction, pairs recipe.Labels) {
	labels := recipe.Vars(m.config.Labels).Clone()
	for _, p := range pairs {
		name, ok := m.word(ins, p.Name, m.ctx)
		value, ok2 := m.word(ins, p.Value, m.ctx)
		if ok && ok2 {
			labels.Set(name, value)
		}
	}
	m.config.Labels = labels
	if len(labels) > recipe.MaxLabels {
		m.invalid(ins, "too_many_labels", fmt.Sprintf("the template has more than %d labels", recipe.MaxLabels), "")
		m.config.Labels = nil
	}
}

func (m *maker) workdir(ins recipe.Instruction, path recipe.Workdir, s Step) {
	word, ok := m.word(ins, string(path), m.ctx)
	if ok && word == "" {
		m.invalid(ins, "workdir_empty", "WORKDIR "+clip(string(path))+" expands to nothing", "set the variable with ENV or ARG before")
		ok = false
	}
	moved := m.ctx.Chdir(word)
	if n := len(moved.Workdir); ok && n > maxPath {
		m.invalid(ins, "workdir_invalid", fmt.Sprintf("the path is %d bytes long, Linux takes at most %d", n, maxPath), "")
		ok = false
	}
	if ok {
		m.ctx = moved
	}
	m.config.Workdir = m.ctx.Workdir
	s.Kind, s.MakeDir = KindWorkdir, m.ctx.Workdir
	m.add(m.acting(m.ctx, s))
}

// maxPath is Linux's PATH_MAX without the closing NUL.
const maxPath = 4095

func (m *maker) expose(ins recipe.Instruction, words recipe.Ports) {
	for _, w := range words {
		ports, unset, p := m.x.Words(w, ins.Escape, m.ctx)
		if p != nil {
			m.fail(ins, p)
			return
		}
		m.warnUnset(ins, w, unset)
		for _, port := range ports {
			if !m.exposePort(ins, port) {
				return
			}
		}
	}
	slices.Sort(m.config.Exposed)
	m.config.Exposed = slices.Compact(m.config.Exposed)
}

// exposePort adds a port or a range; false after a problem.
func (m *maker) exposePort(ins recipe.Instruction, word string) bool {
	first, last, proto, err := parsePorts(word)
	if err == nil && len(m.config.Exposed)+last-first >= recipe.MaxPorts {
		err = fmt.Errorf("more than %d ports are exposed", recipe.MaxPorts)
	}
	if err != nil {
		m.invalid(ins, "port_invalid", err.Error(), "write a port such as 8080, 53/udp or 8000-8010")
		return false
	}
	for port := first; port <= last; port++ {
		m.config.Exposed = append(m.config.Exposed, fmt.Sprintf("%d/%s", port, proto))
	}
	return true
}

// word expands a word in context c; ok is false after a problem.
func (m *maker) word(ins recipe.Instruction, word string, c recipe.ExecContext) (out string, ok bool) {
	out, unset, p := m.x.Word(word, ins.Escape, c)
	if p != nil {
		m.fail(ins, p)
		return "", false
	}
	m.warnUnset(ins, word, unset)
	return out, true
}

// warnUnset warns of variables that a word uses as they are; ${name:-default}
// and the like expect them to be unset.
func (m *maker) warnUnset(ins recipe.Instruction, word string, names []string) {
	for _, name := range names {
		if !strings.Contains(word, "$"+name) && !strings.Contains(word, "${"+name+"}") {
			continue
		}
		m.warn(ins, "variable "+clip(name)+" is not set and expands to nothing")
	}
}

// clip bounds what is quoted in a message.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
