package recipe

import (
	"strings"
	"unicode/utf8"
)

// Bounds of a recipe; what exceeds one is refused with its name.
const (
	// MaxBytes bounds the text of a recipe, all elements together.
	MaxBytes = 1 << 20
	// MaxInstructions bounds the number of instructions.
	MaxInstructions = 10_000
	// MaxLineBytes bounds one physical line; BuildKit's scanner has the same.
	MaxLineBytes = 64<<10 - 2
	// MaxArgBytes bounds a script, an argument and NAME=value, because Linux
	// starts no program with a longer string (MAX_ARG_STRLEN, 32 pages).
	MaxArgBytes = 128<<10 - 1
	// MaxEnvVars bounds the variables of one environment.
	MaxEnvVars = 1000
	// MaxWords bounds the words of one ENV, LABEL, ARG or EXPOSE.
	MaxWords = 1000
	// MaxLabels bounds the labels of a template.
	MaxLabels = 1000
	// MaxPorts bounds the ports of all EXPOSE instructions together.
	MaxPorts = 1000
	// maxHeredocSubstitutions bounds "${" in a line with heredocs: BuildKit reads
	// a nested one once per level.
	maxHeredocSubstitutions = 32
)

// checkText refuses what no recipe may hold.
func checkText(s string) *Problem {
	if i := strings.IndexByte(s, 0); i >= 0 {
		return invalid("nul_byte", "holds a NUL byte (offset %d)", i).remedy("a recipe is text: make such a byte in a RUN step, with printf")
	}
	if !utf8.ValidString(s) {
		return invalid("invalid_utf8", "is not valid UTF-8").remedy("save the text as UTF-8")
	}
	return nil
}

func tooLong(n int) *Problem {
	return invalid("recipe_too_long", "is %d bytes long, at most %d are taken", n, MaxBytes).
		remedy("fetch large content in a RUN step instead of writing it into the recipe")
}

func tooMany(n int) *Problem {
	return invalid("too_many_instructions", "has %d instructions, at most %d are taken", n, MaxInstructions).
		remedy("put several commands into one RUN, or build a template and begin the next one FROM it")
}

// checkArg bounds one string that becomes an argument of a program.
func checkArg(what, s string) *Problem {
	if len(s) > MaxArgBytes {
		return invalid("argument_too_long", "%s is %d bytes long, Linux takes at most %d", what, len(s), MaxArgBytes).
			remedy("split it into several instructions")
	}
	if strings.IndexByte(s, 0) >= 0 {
		return invalid("nul_byte", "%s holds a NUL byte", what).remedy("Linux passes no such byte to a program; take it out")
	}
	return nil
}
