package recipe

import (
	"regexp"
	"strings"
	"unicode"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// run reads RUN and START; script is what follows in the array form, as
// scriptAfter returns it.
func (n node) run(kw Keyword, script string) (Body, *Problem) {
	parsed, err := instructions.ParseInstruction(n.Node)
	if err != nil {
		return nil, syntax(err)
	}
	run, ok := parsed.(*instructions.RunCommand)
	if !ok {
		return nil, invalid(codeSyntax, "cannot be read as %s", kw)
	}
	c, p := command(run.ShellDependantCmdLine, script)
	if p != nil {
		return nil, p
	}
	if len(c.Argv) == 0 && strings.TrimSpace(c.Script) == "" {
		return nil, invalid("command_missing", "%s has no command", kw)
	}
	if len(c.Argv) > 0 && c.Argv[0] == "" {
		return nil, invalid("command_missing", "%s names no program", kw)
	}
	if p := n.runFlags(kw, &c); p != nil {
		return nil, p
	}
	return c, nil
}

// runFlags reads the flags of RUN and START into c.
func (n node) runFlags(kw Keyword, c *Command) *Problem {
	seen := flagSet{}
	for _, s := range n.flags {
		if p := runFlag(kw, cutFlag(s), seen, c); p != nil {
			return p
		}
	}
	return nil
}

func runFlag(kw Keyword, f option, seen flagSet, c *Command) *Problem {
	switch f.name {
	case "timeout", "user":
	case "mount":
		return unsupported("run_mount", "%s --mount is not supported yet", kw).
			remedy("leave it out: steps are cached as a whole; put files into the recipe with a heredoc")
	case "network", "security", "device":
		return runIsolation(kw, f)
	default:
		return unknownFlag(kw, "--"+f.name).remedy("%s takes --timeout=DURATION and --user=NAME", kw)
	}
	if p := seen.check(f); p != nil {
		return p
	}
	if f.name == "user" {
		c.User = f.value
		return nil
	}
	d, p := f.duration(0)
	c.Timeout = &d
	return p
}

// runIsolation accepts the values of Docker's flags that ask for what Lehr does
// anyway.
func runIsolation(kw Keyword, f option) *Problem {
	if f.name == "network" && f.value == "default" || f.name == "security" && f.value == "sandbox" {
		return nil
	}
	return unsupported("run_"+f.name, "%s --%s=%s is not supported", kw, f.name, clip(f.value)).remedy("leave the flag out")
}

// command re-types a command line of BuildKit's; script follows it.
func command(line instructions.ShellDependantCmdLine, script string) (Command, *Problem) {
	if !line.PrependShell {
		if script != "" {
			return Command{}, invalid("several_instructions", "has lines after its JSON form").
				remedy("give each instruction an element of its own")
		}
		return Command{Argv: line.CmdLine}, checkArgv(line.CmdLine)
	}
	var c Command
	if len(line.CmdLine) > 0 {
		c.Script = line.CmdLine[0]
	}
	if p := c.heredocs(line.Files, script); p != nil {
		return Command{}, p
	}
	if c.Script == "" {
		script = strings.TrimLeftFunc(script, unicode.IsSpace)
	}
	c.Script += script
	return c, checkArg("the script", c.Script)
}

// heredocs puts inline files into the script as Docker does: a command that is
// nothing but a heredoc is a script of its own, others are handed to the shell.
func (c *Command) heredocs(files []instructions.ShellInlineFile, script string) *Problem {
	if len(files) == 0 {
		return nil
	}
	if parser.MustParseHeredoc(c.Script) == nil {
		var b strings.Builder
		b.WriteString(c.Script)
		for _, f := range files {
			b.WriteString("\n" + f.Data + f.Name)
		}
		c.Script = b.String()
		return nil
	}
	if script != "" {
		return invalid("several_instructions", "has lines after the end of its heredoc").
			remedy("move them into the heredoc, or give each instruction an element of its own")
	}
	data := files[0].Data
	if files[0].Chomp {
		data = parser.ChompHeredocContent(data)
	}
	if !strings.HasPrefix(data, "#!") {
		c.Script = data
		return nil
	}
	c.File = &File{Path: inlineFolder + inlineName(files[0].Name), Mode: 0o755, Data: data}
	c.Script = c.File.Path
	return nil
}

// inlineFolder is where inline files are put while their step runs, as in
// Docker; /dev is not part of an image.
const inlineFolder = "/dev/pipes/"

var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// inlineName keeps a heredoc's word from leading out of its folder or meaning
// something to the shell.
func inlineName(word string) string {
	if plainName.MatchString(word) {
		return word
	}
	return "script"
}

func checkArgv(argv []string) *Problem {
	for _, a := range argv {
		if p := checkArg("an argument", a); p != nil {
			return p
		}
	}
	return nil
}
