package recipe

import (
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// body reads the instruction behind a node.
func (n node) body(kw Keyword, script string) (Body, *Problem) {
	switch kw {
	case KeywordRun, KeywordStart:
		return n.run(kw, script)
	case KeywordHealthcheck:
		return n.healthcheck(script)
	case KeywordFrom:
		n.Flags = n.flags // BuildKit knows --platform
	default:
		if len(n.flags) > 0 {
			return nil, unknownFlag(kw, n.flags[0])
		}
	}
	parsed, err := instructions.ParseInstruction(n.Node)
	if err != nil {
		return nil, syntax(err)
	}
	return bodyOf(kw, parsed)
}

// bodyOf re-types what BuildKit read.
func bodyOf(kw Keyword, parsed any) (Body, *Problem) {
	switch in := parsed.(type) {
	case *instructions.CmdCommand:
		return command(in.ShellDependantCmdLine, "")
	case *instructions.EntrypointCommand:
		return command(in.ShellDependantCmdLine, "")
	case *instructions.EnvCommand:
		return Env(pairs(in.Env)), nil
	case *instructions.LabelCommand:
		return Labels(pairs(in.Labels)), nil
	case *instructions.ArgCommand:
		return args(in), nil
	case *instructions.WorkdirCommand:
		return Workdir(in.Path), nil
	case *instructions.UserCommand:
		return User(in.User), nil
	case *instructions.ShellCommand:
		return shellOf(in.Shell)
	case *instructions.ExposeCommand:
		return Ports(in.Ports), nil
	case *instructions.Stage:
		return from(in)
	case *instructions.VolumeCommand, *instructions.StopSignalCommand, *instructions.MaintainerCommand:
		return Ignored{}, nil
	}
	return nil, unsupported("instruction_unsupported", "%s is not supported", kw)
}

// usage says how an instruction is written.
func usage(kw Keyword) string {
	switch kw {
	case KeywordEnv, KeywordLabel:
		return string(kw) + ` name=value name2="another value"`
	case KeywordArg:
		return "ARG name or ARG name=default"
	case KeywordWorkdir:
		return "WORKDIR /path"
	case KeywordUser:
		return "USER name, USER name:group or USER 1000"
	case KeywordShell:
		return `SHELL ["/bin/bash", "-c"]`
	case KeywordExpose:
		return "EXPOSE 8080 or EXPOSE 53/udp"
	case KeywordFrom:
		return "FROM template or FROM template:tag"
	case KeywordRun, KeywordStart, KeywordCmd, KeywordEntrypoint, KeywordHealthcheck:
		return string(kw) + " command or " + string(kw) + ` ["program", "argument"]`
	}
	return ""
}

func pairs(kvs instructions.KeyValuePairs) []Pair {
	out := make([]Pair, 0, len(kvs))
	for _, kv := range kvs {
		out = append(out, Pair{Name: kv.Key, Value: kv.Value})
	}
	return out
}

func args(in *instructions.ArgCommand) Args {
	out := make(Args, 0, len(in.Args))
	for _, a := range in.Args {
		out = append(out, Arg{Name: a.Key, Default: a.Value})
	}
	return out
}

func shellOf(argv []string) (Body, *Problem) {
	if argv[0] == "" {
		return nil, invalid("shell_invalid", "SHELL names no program").remedy(`write SHELL ["/bin/bash", "-c"]`)
	}
	if p := checkArgv(argv); p != nil {
		return nil, p
	}
	return Shell(argv), nil
}

// warningsOf lists what the instruction says in vain.
func warningsOf(ins Instruction) []string {
	switch b := ins.Body.(type) {
	case Ignored:
		return []string{string(ins.Keyword) + " has no effect in Lehr"}
	case Healthcheck:
		if b.IgnoredStartInterval {
			return []string{"--start-interval has no effect: the first probe runs at once, then every --interval"}
		}
		return commandWarnings(b.Command)
	case Command:
		out := commandWarnings(b)
		if ins.Keyword == KeywordStart && b.Timeout != nil {
			out = append(out, "--timeout has no effect on START, which runs until the template is made")
		}
		return out
	}
	return nil
}

// commandWarnings finds the two usual slips of a shell form.
func commandWarnings(c Command) []string {
	var out []string
	script := strings.TrimSpace(c.Script)
	if strings.HasPrefix(script, `["`) && strings.HasSuffix(script, "]") {
		out = append(out, "looks like the JSON form but is not valid JSON, so the shell gets it as it is")
	}
	_, rest, _ := strings.Cut(c.Script, "\n")
	for line := range strings.Lines(rest) {
		word, args := cutWord(line)
		if args != "" && word == strings.ToUpper(word) && slices.Contains(keywords(), Keyword(word)) {
			return append(out, "a line of its script starts with "+word+
				"; in the array form each instruction is an element of its own")
		}
	}
	return out
}

// option is one "--name=value".
type option struct {
	name, value string
	valued      bool // has "="
}

func cutFlag(s string) option {
	name, value, valued := strings.Cut(strings.TrimPrefix(s, "--"), "=")
	return option{name: name, value: value, valued: valued}
}

func unknownFlag(kw Keyword, s string) *Problem {
	return invalid("flag_unknown", "%s has no flag --%s", kw, clip(cutFlag(s).name))
}

// flagSet checks flags as they come: each once, each with a value.
type flagSet map[string]bool

func (seen flagSet) check(f option) *Problem {
	switch {
	case !f.valued:
		return invalid("flag_invalid", "--%s needs a value", clip(f.name)).remedy("write --%s=VALUE, without blanks", clip(f.name))
	case f.value == "":
		return invalid("flag_invalid", "--%s has an empty value", clip(f.name))
	case seen[f.name]:
		return invalid("flag_invalid", "--%s is given twice", clip(f.name))
	}
	seen[f.name] = true
	return nil
}

// duration reads a Go duration that is at least least.
func (f option) duration(least time.Duration) (time.Duration, *Problem) {
	d, err := time.ParseDuration(f.value)
	switch {
	case err != nil:
		return 0, invalid("duration_invalid", "--%s=%s is not a duration", f.name, clip(f.value)).
			remedy("write a number with a unit, such as 500ms, 30s or 5m")
	case d < 0:
		return 0, invalid("duration_invalid", "--%s=%s is negative", f.name, clip(f.value)).
			remedy("write a time that is not negative, or leave the flag out")
	case d < least:
		return 0, invalid("duration_invalid", "--%s=%s must be positive, at least %s", f.name, clip(f.value), least).
			remedy("write a longer time, or leave the flag out for its default")
	}
	return d, nil
}
