package recipe

import (
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// ParseHealthcheck reads the healthcheck parameter of a build:
//
//	[--interval=3s] [--timeout=10s] [--start-period=0s] [--retries=0] command
//
// which is what HEALTHCHECK takes, with the word CMD optional. A JSON array is
// the exec form, NONE turns the recipe's healthcheck off. Blanks and line
// breaks in the command are kept byte for byte. The error is a Problems.
func ParseHealthcheck(s string) (Healthcheck, error) {
	h, p := parseHealthcheck(s)
	if p != nil {
		return Healthcheck{}, Problems{*p.in(fieldHealthcheck)}
	}
	return h, nil
}

func parseHealthcheck(s string) (Healthcheck, *Problem) {
	if len(s) > MaxBytes {
		return Healthcheck{}, tooLong(len(s))
	}
	if p := checkText(s); p != nil {
		return Healthcheck{}, p
	}
	s = strings.TrimLeftFunc(s, unicode.IsSpace)
	if strings.EqualFold(firstWord(s), string(KeywordHealthcheck)) {
		return Healthcheck{}, invalid("healthcheck_invalid", "begins with the word HEALTHCHECK").
			remedy("leave the word out: the parameter is what follows it in a recipe")
	}
	cut := newCutter(string(KeywordHealthcheck) + " " + s)
	c, _ := cut.next()
	ins, _, p := parseChunk(c, cut.scriptAfter(c))
	if p != nil {
		return Healthcheck{}, p
	}
	h, ok := ins.Body.(Healthcheck)
	if !ok {
		return Healthcheck{}, invalid(codeSyntax, "cannot be read as a healthcheck")
	}
	return h, nil
}

// healthcheck reads HEALTHCHECK, which BuildKit was told is CMD: it took the
// flags off and knows a JSON array, and leaves the rest of the line alone.
func (n node) healthcheck(script string) (Body, *Problem) {
	h := Healthcheck{Interval: DefaultInterval, Timeout: DefaultTimeout}
	if p := h.flags(n.flags); p != nil {
		return nil, p
	}
	c, p := n.probe(script)
	if p != nil {
		return nil, p
	}
	if strings.EqualFold(firstWord(c.Script), "NONE") {
		if strings.TrimSpace(c.Script[len("NONE"):]) != "" || len(n.flags) > 0 {
			return nil, invalid("healthcheck_invalid", "NONE takes no flags and no command")
		}
		return Healthcheck{Off: true}, nil
	}
	if len(c.Argv) == 0 && strings.TrimSpace(c.Script) == "" || len(c.Argv) > 0 && c.Argv[0] == "" {
		return nil, invalid("healthcheck_invalid", "there is no command").remedy("end it with a command such as curl -f http://localhost:8080")
	}
	h.Command = c
	return h, nil
}

// probe reads the command, without the word CMD.
func (n node) probe(script string) (Command, *Problem) {
	parsed, err := instructions.ParseInstruction(n.Node)
	if err != nil {
		return Command{}, syntax(err)
	}
	cmd, ok := parsed.(*instructions.CmdCommand)
	if !ok {
		return Command{}, invalid(codeSyntax, "cannot be read as a healthcheck")
	}
	c, p := command(cmd.ShellDependantCmdLine, script)
	if p != nil || !strings.EqualFold(firstWord(c.Script), string(KeywordCmd)) {
		return c, p
	}
	c.Script = strings.TrimLeftFunc(c.Script[len(KeywordCmd):], unicode.IsSpace)
	if !strings.HasPrefix(c.Script, "[") || strings.Contains(c.Script, "\n") {
		return c, nil
	}
	again, p := chunk{text: "CMD " + c.Script, header: "CMD " + c.Script, escape: '\\'}.node(KeywordCmd)
	if p != nil {
		return Command{}, p
	}
	return again.probe("")
}

// flags reads the flags into h.
func (h *Healthcheck) flags(flags []string) *Problem {
	seen := flagSet{}
	for _, s := range flags {
		f := cutFlag(s)
		switch f.name {
		case "interval", "timeout", "start-period", "start-interval", "retries":
		default:
			return unknownFlag(KeywordHealthcheck, s).
				remedy("it takes --interval, --timeout, --start-period and --retries")
		}
		if p := seen.check(f); p != nil {
			return p
		}
		if p := h.flag(f); p != nil {
			return p
		}
	}
	return nil
}

// leastProbeTime is the shortest interval and time limit of a probe, Docker's:
// what is not positive would probe without a pause or fail every probe.
const leastProbeTime = time.Millisecond

func (h *Healthcheck) flag(f option) (p *Problem) {
	switch f.name {
	case "interval":
		h.Interval, p = f.duration(leastProbeTime)
	case "timeout":
		h.Timeout, p = f.duration(leastProbeTime)
	case "start-period":
		h.StartPeriod, p = f.duration(0)
	case "start-interval":
		h.IgnoredStartInterval = true
		_, p = f.duration(leastProbeTime)
	case "retries":
		h.Retries, p = f.count()
	}
	return p
}

// count reads a number of zero or more.
func (f option) count() (int, *Problem) {
	n, err := strconv.ParseInt(f.value, 10, 32)
	switch {
	case err != nil:
		return 0, invalid("number_invalid", "--%s=%s is not a whole number", f.name, clip(f.value))
	case n < 0:
		return 0, invalid("number_invalid", "--%s=%s is negative", f.name, clip(f.value)).
			remedy("0 means that only time limits end the healthcheck")
	}
	return int(n), nil
}
