package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/cli/progress"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// recipeSource is the recipe file that a build was made of. The server knows
// its instructions by number; the source knows their lines. The empty source
// knows nothing.
type recipeSource struct {
	name         string
	lines        []string
	instructions []recipe.Instruction // with the lines of the file
	elements     recipe.Elements
	ownCheck     bool // the healthcheck is the recipe's own
}

func newRecipeSource(name, text string, r recipe.Recipe, elements recipe.Elements) recipeSource {
	return recipeSource{name: name, lines: strings.Split(text, "\n"), instructions: r.Instructions, elements: elements}
}

// placePattern is how the server names elements of a recipe.
var placePattern = regexp.MustCompile(`\brecipe lines? (\d+)(?:-(\d+))?`)

// relocate turns the numbers of elements in a message of the server into lines
// of the file.
func (s recipeSource) relocate(message string) string {
	if len(s.elements) == 0 {
		return message
	}
	return placePattern.ReplaceAllStringFunc(message, func(place string) string {
		numbers := placePattern.FindStringSubmatch(place)
		first, _ := strconv.Atoi(numbers[1])
		last := first
		if numbers[2] != "" {
			last, _ = strconv.Atoi(numbers[2])
		}
		if first < 1 || last < first || last > len(s.elements) {
			return place
		}
		from, to := s.elements[first-1].Line, s.elements[last-1].EndLine
		if from == to {
			return fmt.Sprintf("recipe line %d", from)
		}
		return fmt.Sprintf("recipe lines %d-%d", from, to)
	})
}

// text is what a display shows of a log line.
func (s recipeSource) text(l *lehrv1.LogLine) string {
	if l.GetStream() == "system" && strings.HasPrefix(l.GetText(), "warning: recipe line") {
		return s.relocate(l.GetText())
	}
	return l.GetText()
}

// How much of a recipe is shown around a failure.
const (
	excerptAround = 2  // lines before and after the instruction
	excerptMost   = 12 // lines of the instruction
)

// excerpt shows the instruction that a build failed at, with the lines around
// it; nothing where the failure is at none of the file.
func (s recipeSource) excerpt(b *lehrv1.Build) []string {
	ins, ok := s.culprit(b)
	if !ok || ins.Line < 1 || ins.EndLine > len(s.lines) {
		return nil
	}
	from, to := max(1, ins.Line-excerptAround), min(len(s.lines), ins.EndLine+excerptAround)
	for to > ins.EndLine && strings.TrimSpace(s.lines[to-1]) == "" {
		to--
	}
	name := s.name
	if name == "-" {
		name = "standard input"
	}
	out := []string{fmt.Sprintf("%s:%d", clean(name), ins.Line)}
	width := len(strconv.Itoa(to))
	for n := from; n <= to; n++ {
		inside := n >= ins.Line && n <= ins.EndLine
		if skipped := ins.EndLine - n; inside && n == ins.Line+excerptMost && skipped > 1 {
			out = append(out, fmt.Sprintf("> %*s | (%d more lines)", width, "", skipped))
			n = ins.EndLine - 1
			continue
		}
		mark := ' '
		if inside {
			mark = '>'
		}
		out = append(out, strings.TrimRight(fmt.Sprintf("%c %*d | %s", mark, width, n, clean(s.lines[n-1])), " "))
	}
	return out
}

// culprit finds the instruction that a build failed at. The steps of the
// recipe are its instructions in order, but for those that make no step.
func (s recipeSource) culprit(b *lehrv1.Build) (recipe.Instruction, bool) {
	e := b.GetError()
	if e.GetPhase() == "healthcheck" && s.ownCheck {
		for i := len(s.instructions) - 1; i >= 0; i-- {
			if s.instructions[i].Keyword == recipe.KeywordHealthcheck {
				return s.instructions[i], true
			}
		}
	}
	next := 0
	for _, step := range b.GetSteps() {
		if step.GetPhase() != "recipe" {
			continue
		}
		for next < len(s.instructions) && s.instructions[next].Cmd != step.GetCmd() {
			next++
		}
		if next == len(s.instructions) {
			return recipe.Instruction{}, false
		}
		if step.GetStep() == e.GetStep() {
			return s.instructions[next], true
		}
		next++
	}
	return recipe.Instruction{}, false
}

// progressTerminal is where progress is shown.
func (a *app) progressTerminal() progress.Terminal {
	return progress.Terminal{Size: a.size, LookupEnv: a.env.LookupEnv}
}

func (a *app) display(mode progress.Mode, s recipeSource, earlier *lehrv1.Build, interruptible bool) progress.Display {
	return progress.New(progress.Options{
		Mode: mode, Out: a.env.Stderr, Terminal: a.progressTerminal(), Usual: earlier, Text: s.text, Interruptible: interruptible,
	})
}
