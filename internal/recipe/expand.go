package recipe

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Bounds of expansion. Docker's syntax can make a kilobyte of recipe expand to
// any size (A=$A$A, ${A//x/…}), so the size is bounded before it is made.
const (
	maxExpansion     = 64 << 20 // bytes that all words of a recipe together may reach
	maxSubstitutions = 50       // "${" in one word: each may be nested, and BuildKit reads a nested one once per level
)

// environment is what a word is expanded with.
type environment interface {
	shell.EnvGetter
	longest() int // bytes of the longest value
}

func (noEnv) longest() int { return 0 }

// Expander expands the words of one recipe by Docker's rules, within a bound on
// the work of all of them. It is for one goroutine.
type Expander struct {
	budget int
	// keepUnset leaves unset variables as they are, to check syntax alone.
	keepUnset bool
}

// NewExpander returns an expander with the whole budget.
func NewExpander() *Expander { return &Expander{budget: maxExpansion} }

// Word expands one word, with quotes and escapes taken away, and returns the
// variables that were not set, sorted. The problem is nil when it went well.
func (x *Expander) Word(word string, escape rune, env environment) (string, []string, *Problem) {
	res, p := x.process(word, escape, env)
	if p != nil {
		return "", nil, p
	}
	return res.Result, unsetNames(res.Unmatched), nil
}

// Words expands a word and splits what comes out at blanks outside quotes.
func (x *Expander) Words(word string, escape rune, env environment) (words, unset []string, p *Problem) {
	res, p := x.process(word, escape, env)
	if p != nil {
		return nil, nil, p
	}
	return res.Words, unsetNames(res.Unmatched), nil
}

func unsetNames(set map[string]struct{}) []string {
	var names []string
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (x *Expander) process(word string, escape rune, env environment) (shell.ProcessWordResult, *Problem) {
	if p := x.spend(word, env); p != nil {
		return shell.ProcessWordResult{}, p
	}
	lex := shell.NewLex(escape)
	lex.SkipUnsetEnv = x.keepUnset
	res, err := lex.ProcessWordWithMatches(word, env)
	if err != nil {
		return res, expansionProblem(reason(err), word)
	}
	return res, nil
}

func expansionProblem(reason, word string) *Problem {
	p := invalid("expansion_invalid", "%s in %s", reason, clip(word))
	if requiredVariable.MatchString(word) && !strings.HasPrefix(reason, "syntax error") {
		return p.remedy("set the variable with ENV or ARG before, or as a build argument")
	}
	return p.remedy(`put a literal $, quote or backslash in '…' or behind \`)
}

// requiredVariable finds a ${name?message}, whose message is the recipe's own.
var requiredVariable = regexp.MustCompile(`\$\{[^${}]*\?`)

// reason is what the lexer says at the bottom of its error. It prints the end of
// the text as a character.
func reason(err error) string {
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	if msg := err.Error(); !strings.Contains(msg, "\ufffd") {
		return msg
	}
	return "syntax error: missing '}'"
}

var (
	// patternOperator finds a ${name#…}, ${name%…} or ${name/…}.
	patternOperator = regexp.MustCompile(`\$\{[^${}]*[#%/]`)
	// replaceAll finds a ${name//…}; plainReplaceAll one that nests nothing.
	replaceAll      = regexp.MustCompile(`\$\{[^${}:/]*//`)
	plainReplaceAll = regexp.MustCompile("\\$\\{[^${}:/]*//(?:[^}\\\\'\"$`]|\\\\.|`.)*\\}")
)

// spend takes the most that word can expand to off the budget. Each $ yields at
// most the longest value; a pattern works on, and a replacement multiplies, a
// value by at most the word's length, which holds only where replacements do
// not nest.
func (x *Expander) spend(word string, env environment) *Problem {
	if strings.Count(word, "${") > maxSubstitutions {
		return invalid("expansion_too_large", "has more than %d substitutions in one word", maxSubstitutions)
	}
	longest := env.longest()
	cost := len(word) + strings.Count(word, "$")*longest
	if patternOperator.MatchString(word) {
		cost += len(word) * longest
	}
	if len(replaceAll.FindAllString(word, -1)) != len(plainReplaceAll.FindAllString(word, -1)) {
		return unsupported("expansion_unsupported", "${name//…/…} with quotes or another variable inside is not supported").
			remedy("set the inner value with an ENV or ARG before, or do it in RUN")
	}
	x.budget -= cost
	if x.budget < 0 {
		return invalid("expansion_too_large", "the variables of the recipe expand to too much (limit %d MiB)", maxExpansion>>20)
	}
	return nil
}

// checkWords checks the number and the syntax of the words that are expanded
// later, so that a slip is found without knowing the base.
func checkWords(ins Instruction) *Problem {
	words := expandable(ins)
	if len(words) > 2*MaxWords {
		return invalid("too_many_words", "%s has more than %d words", ins.Keyword, MaxWords).remedy("use several instructions")
	}
	x := NewExpander()
	x.keepUnset = true
	for _, w := range words {
		if _, _, p := x.Word(w, ins.Escape, noEnv{}); p != nil {
			return p
		}
	}
	return nil
}

// expandable returns the words of an instruction that are expanded, with the
// names of ARG among them, so that they are counted.
func expandable(ins Instruction) []string {
	switch b := ins.Body.(type) {
	case Env:
		return pairWords(b)
	case Labels:
		return pairWords(b)
	case Args:
		var words []string
		for _, a := range b {
			words = append(words, a.Name)
			if a.Default != nil {
				words = append(words, *a.Default)
			}
		}
		return words
	case Workdir:
		return []string{string(b)}
	case User:
		return []string{string(b)}
	case Ports:
		return b
	case From:
		return []string{b.Base, b.Platform}
	case Command:
		return []string{b.User}
	}
	return nil
}

func pairWords(pairs []Pair) []string {
	words := make([]string, 0, 2*len(pairs))
	for _, p := range pairs {
		words = append(words, p.Name, p.Value)
	}
	return words
}
