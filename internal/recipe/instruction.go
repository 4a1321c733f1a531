package recipe

import (
	"strings"
	"time"
)

// Keyword names an instruction, in capitals.
type Keyword string

// The instructions. COPY, ADD and ONBUILD are known and refused.
const (
	KeywordRun         Keyword = "RUN"
	KeywordStart       Keyword = "START"
	KeywordEnv         Keyword = "ENV"
	KeywordArg         Keyword = "ARG"
	KeywordWorkdir     Keyword = "WORKDIR"
	KeywordUser        Keyword = "USER"
	KeywordShell       Keyword = "SHELL"
	KeywordCmd         Keyword = "CMD"
	KeywordEntrypoint  Keyword = "ENTRYPOINT"
	KeywordHealthcheck Keyword = "HEALTHCHECK"
	KeywordLabel       Keyword = "LABEL"
	KeywordExpose      Keyword = "EXPOSE"
	KeywordFrom        Keyword = "FROM"
	KeywordVolume      Keyword = "VOLUME"
	KeywordStopSignal  Keyword = "STOPSIGNAL"
	KeywordMaintainer  Keyword = "MAINTAINER"
	KeywordCopy        Keyword = "COPY"
	KeywordAdd         Keyword = "ADD"
	KeywordOnbuild     Keyword = "ONBUILD"
)

// keywordOf returns the keyword that a word spells, in any case.
func keywordOf(word string) Keyword { return Keyword(strings.ToUpper(word)) }

// keywords lists them for look-ups and suggestions.
func keywords() []Keyword {
	return []Keyword{
		KeywordRun, KeywordStart, KeywordEnv, KeywordArg, KeywordWorkdir, KeywordUser, KeywordShell,
		KeywordCmd, KeywordEntrypoint, KeywordHealthcheck, KeywordLabel, KeywordExpose, KeywordFrom,
		KeywordVolume, KeywordStopSignal, KeywordMaintainer, KeywordCopy, KeywordAdd, KeywordOnbuild,
	}
}

// Recipe is a parsed recipe. Words in it are not expanded yet: that needs the
// environment of the base and the build arguments, see plan.Make.
type Recipe struct {
	Instructions []Instruction
	Warnings     []Warning
}

// Instruction is one typed instruction.
type Instruction struct {
	Keyword Keyword
	Cmd     string // as written, continuations joined; a script or heredoc follows on lines of its own
	Line    int    // first line in the file, or the element of the array, from 1
	EndLine int    // last line, inclusive
	Escape  rune   // escape character of its words, '\\' unless a parser directive changed it
	Body    Body
}

// Body is what an instruction says, one type per family of instructions:
// Command, Env, Labels, Args, Workdir, User, Shell, Ports, Healthcheck, From
// or Ignored.
type Body interface{ body() }

// Command is the body of RUN, START, CMD and ENTRYPOINT, and the probe of a
// healthcheck. Exactly one of Argv (exec form) and Script (shell form) is
// meant; both empty is an emptied CMD or ENTRYPOINT.
type Command struct {
	Argv    []string       // exec form, run without a shell
	Script  string         // shell form, the last argument of the SHELL
	File    *File          // file that the script names, or nil
	Timeout *time.Duration // --timeout of RUN, nil when not given; 0 is the build's own limit
	User    string         // --user of RUN and START, not expanded; empty when not given
}

// Empty reports whether there is nothing to run.
func (c Command) Empty() bool { return len(c.Argv) == 0 && c.Script == "" }

// File is an inline file: a heredoc that begins with "#!" is written to Path,
// executable for everyone, and run.
type File struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"`
	Data string `json:"data"`
}

// Pair is a name and value of ENV or LABEL, neither expanded.
type Pair struct{ Name, Value string }

// Env is the body of ENV.
type Env []Pair

// Labels is the body of LABEL.
type Labels []Pair

// Arg declares one build argument; Default is nil when it has none.
type Arg struct {
	Name    string
	Default *string
}

// Args is the body of ARG.
type Args []Arg

// Workdir is the body of WORKDIR: the path, not expanded.
type Workdir string

// User is the body of USER: "name[:group]", not expanded.
type User string

// Shell is the body of SHELL.
type Shell []string

// Ports is the body of EXPOSE: words, not expanded.
type Ports []string

// From is the body of FROM, not expanded.
type From struct{ Base, Platform string }

// Ignored is the body of an instruction that is accepted without effect:
// VOLUME, STOPSIGNAL, MAINTAINER.
type Ignored struct{}

func (Command) body()     {}
func (Env) body()         {}
func (Labels) body()      {}
func (Args) body()        {}
func (Workdir) body()     {}
func (User) body()        {}
func (Shell) body()       {}
func (Ports) body()       {}
func (From) body()        {}
func (Ignored) body()     {}
func (Healthcheck) body() {}

// Healthcheck is how a build finds out that what a recipe started is ready.
type Healthcheck struct {
	Off         bool          // NONE: no healthcheck, whatever the recipe says
	Interval    time.Duration // from the end of a probe to the start of the next; positive
	Timeout     time.Duration // of one probe; positive
	StartPeriod time.Duration // failures within it do not count
	Retries     int           // counted failures that fail the check; 0: only time limits end it
	Command     Command
	// IgnoredStartInterval is set when Docker's --start-interval was given, which
	// is read and has no effect.
	IgnoredStartInterval bool
}

// Defaults of a healthcheck's flags.
const (
	DefaultInterval = 3 * time.Second
	DefaultTimeout  = 10 * time.Second
)
