package recipe

import (
	"errors"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/suggest"
)

// SchemaVersion is the version of the recipe language that this package reads.
// Builds record it, so that an old recipe can be told from a new one.
const SchemaVersion = 1

// ParseRecipe reads the array form: each element is exactly one instruction,
// and newlines inside a RUN, START or HEALTHCHECK element belong to its script.
// Line numbers in the result and in problems are those of elements, from 1.
//
// The error is a Problems that lists everything wrong; the recipe returned with
// it holds the instructions that are right.
func ParseRecipe(elements []string) (Recipe, error) {
	if p := checkSize(elements); p != nil {
		return Recipe{}, Problems{*p}
	}
	r := reader{}
	for i, element := range elements {
		r.element(element, i+1)
	}
	return r.finish()
}

// ParseFile reads the file form. Line numbers are those of the file, from 1;
// otherwise it is as ParseRecipe.
func ParseFile(text string) (Recipe, error) {
	if p := checkSize([]string{text}); p != nil {
		return Recipe{}, Problems{*p}
	}
	if p := checkText(text); p != nil {
		return Recipe{}, Problems{*p}
	}
	r := reader{}
	chunks, problems := cutAll(text)
	if p := checkCount(len(chunks)); p != nil {
		return Recipe{}, Problems{*p}
	}
	r.problems = problems
	for _, c := range chunks {
		r.chunk(c, "")
	}
	return r.finish()
}

func cutAll(text string) ([]chunk, Problems) {
	c := newCutter(text)
	var chunks []chunk
	for ch, ok := c.next(); ok; ch, ok = c.next() {
		chunks = append(chunks, ch)
	}
	return chunks, c.problems
}

func checkSize(elements []string) *Problem {
	size := 0
	for _, e := range elements {
		size += len(e)
	}
	if size > MaxBytes {
		return tooLong(size)
	}
	return checkCount(len(elements))
}

func checkCount(n int) *Problem {
	switch {
	case n == 0:
		return invalid("recipe_empty", "has no instruction").remedy("give at least one, such as RUN true")
	case n > MaxInstructions:
		return tooMany(n)
	}
	return nil
}

// reader collects instructions, warnings and problems.
type reader struct {
	recipe   Recipe
	chunks   []chunk // all of them, refused ones too
	problems Problems
}

func (r *reader) fail(p *Problem, line, endLine int) {
	r.problems = append(r.problems, *p.at(line, endLine))
}

func (r *reader) warn(c chunk, message string) {
	r.recipe.Warnings = append(r.recipe.Warnings, Warning{Line: c.line, EndLine: c.endLine, Message: message})
}

// element reads one element of the array form, number n.
func (r *reader) element(text string, n int) {
	if p := checkText(text); p != nil {
		r.fail(p, n, n)
		return
	}
	cut := newCutter(text)
	c, ok := cut.next()
	for _, p := range cut.problems {
		r.fail(&p, n, n)
	}
	if !ok {
		r.fail(invalid("empty_instruction", "holds no instruction").remedy("remove the element"), n, n)
		return
	}
	c.line, c.endLine = n, n
	if takesScript(c.keyword()) {
		r.chunk(c, cut.scriptAfter(c))
		return
	}
	if more, several := cut.next(); several {
		r.fail(invalid("several_instructions", "holds more than one instruction: %s … %s", c.keyword(), clip(more.header)).
			remedy("give each instruction an element of its own"), n, n)
		return
	}
	r.chunk(c, "")
}

// takesScript reports whether lines that follow the instruction's own belong to
// its script.
func takesScript(word string) bool {
	switch keywordOf(word) {
	case KeywordRun, KeywordStart, KeywordHealthcheck:
		return true
	}
	return false
}

// chunk reads one instruction; script is what follows its first logical line
// and heredocs in the array form.
func (r *reader) chunk(c chunk, script string) {
	r.chunks = append(r.chunks, c)
	ins, warnings, p := parseChunk(c, script)
	if p != nil {
		if p.Code == codeSyntax && p.Remedy == "" && usage(keywordOf(c.keyword())) != "" {
			p.Remedy = "write " + usage(keywordOf(c.keyword()))
		}
		r.fail(p, c.line, c.endLine)
		return
	}
	for _, w := range warnings {
		r.warn(c, w)
	}
	r.recipe.Instructions = append(r.recipe.Instructions, ins)
}

// finish checks what concerns several instructions.
func (r *reader) finish() (Recipe, error) {
	r.checkFrom()
	r.warnRepeated()
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
	slices.SortStableFunc(r.recipe.Warnings, func(a, b Warning) int { return a.Line - b.Line })
	return r.recipe, r.problems.Err()
}

// warnRepeated warns of instructions of which only the last one counts.
func (r *reader) warnRepeated() {
	last := map[Keyword]Instruction{}
	for _, ins := range r.recipe.Instructions {
		switch ins.Keyword {
		case KeywordCmd, KeywordEntrypoint, KeywordHealthcheck:
		default:
			continue
		}
		if before, again := last[ins.Keyword]; again {
			r.warn(chunk{line: before.Line, endLine: before.EndLine},
				string(ins.Keyword)+" is given again later; only the last one counts")
		}
		last[ins.Keyword] = ins
	}
}

// parseChunk reads one instruction through BuildKit's parser.
func parseChunk(c chunk, script string) (Instruction, []string, *Problem) {
	word := c.keyword()
	kw := keywordOf(word)
	if p := checkChunk(c, kw, word); p != nil {
		return Instruction{}, nil, p
	}
	n, p := c.node(nodeKeyword(kw))
	if p != nil {
		return Instruction{}, nil, p
	}
	body, p := n.body(kw, script)
	if p != nil {
		return Instruction{}, nil, p
	}
	ins := Instruction{
		Keyword: kw, Body: body, Line: c.line, EndLine: c.endLine, Escape: c.escape,
		Cmd: c.display(n, script),
	}
	if p := checkWords(ins); p != nil {
		return Instruction{}, nil, p
	}
	return ins, append(n.warnings, warningsOf(ins)...), nil
}

// checkChunk refuses what BuildKit's parser need not or must not see.
func checkChunk(c chunk, kw Keyword, word string) *Problem {
	if p := checkKeyword(kw, word); p != nil {
		return p
	}
	if !c.closed {
		return invalid("heredoc_unterminated", "the heredoc of %s has no end", kw).
			remedy("end it with its word alone on a line")
	}
	if takesHeredocs(word) && strings.Contains(c.header, "<<") &&
		strings.Count(c.header, "${") > maxHeredocSubstitutions {
		return invalid("line_too_complex", "has more than %d substitutions beside a heredoc", maxHeredocSubstitutions).
			remedy("move them into the heredoc")
	}
	for line := range strings.Lines(c.text) {
		if len(line) > MaxLineBytes {
			return invalid("line_too_long", "has a line of %d bytes, at most %d are taken", len(line), MaxLineBytes).
				remedy("break it into several lines")
		}
	}
	return nil
}

// maxKeyword is the longest word that can be a misspelt keyword.
const maxKeyword = 20

// checkKeyword refuses unknown instructions and those not built yet.
func checkKeyword(kw Keyword, word string) *Problem {
	switch kw {
	case KeywordCopy:
		return unsupported("copy_unsupported", "COPY is not supported yet").
			remedy("write small files with a heredoc, RUN cat > /path <<'EOF', and fetch others with RUN curl or RUN git clone")
	case KeywordAdd:
		return unsupported("add_unsupported", "ADD is not supported yet").
			remedy("fetch the file with RUN curl -fsSL URL -o /path, or unpack it with RUN curl … | tar -x")
	case KeywordOnbuild:
		return unsupported("onbuild_unsupported", "ONBUILD is not supported").
			remedy("write the instruction into the recipes that use this template")
	}
	if slices.Contains(keywords(), kw) {
		return nil
	}
	p := invalid("unknown_instruction", "unknown instruction %q", clip(word))
	var names []string
	for _, k := range keywords() {
		names = append(names, string(k))
	}
	if len(word) <= maxKeyword {
		if near, ok := suggest.Search(string(kw), names, true); ok {
			return p.remedy("did you mean %s?", near)
		}
	}
	return p.remedy("start the line with an instruction such as RUN; end a line with \\ to continue it")
}

// nodeKeyword is the instruction that BuildKit is told: it does not know START,
// and our HEALTHCHECK has the grammar of CMD with flags.
func nodeKeyword(kw Keyword) Keyword {
	switch kw {
	case KeywordStart:
		return KeywordRun
	case KeywordHealthcheck:
		return KeywordCmd
	}
	return kw
}

// node is a parsed instruction with the flags taken off it.
type node struct {
	*parser.Node
	flags    []string
	warnings []string
}

// node hands the chunk to BuildKit's parser as instruction kw.
func (c chunk) node(kw Keyword) (node, *Problem) {
	text, word := strings.TrimLeft(c.text, blanks), c.keyword()
	if len(text) < len(word) || text[:len(word)] != word {
		return node{}, invalid(codeSyntax, "the name of the instruction is split over two lines")
	}
	text = string(kw) + text[len(word):]
	if c.escape != parser.DefaultEscapeToken {
		text = "# escape=" + string(c.escape) + "\n" + text
	}
	res, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return node{}, syntax(err)
	}
	if len(res.AST.Children) != 1 {
		return node{}, invalid(codeSyntax, "cannot be read as one instruction")
	}
	n := node{Node: res.AST.Children[0]}
	for _, w := range res.Warnings {
		n.warnings = append(n.warnings, strings.ToLower(w.Short[:1])+clip(w.Short[1:]))
	}
	n.flags, n.Flags = n.Flags, nil
	return n, nil
}

// codeSyntax is the code of what BuildKit's packages refuse.
const codeSyntax = "syntax"

// syntax turns an error of BuildKit's packages into a problem.
func syntax(err error) *Problem {
	var located *parser.LocationError
	if errors.As(err, &located) && located.Unwrap() != nil {
		err = located.Unwrap()
	}
	return invalid(codeSyntax, "%s", err)
}

// display is the instruction as written, on one line where it was continued.
func (c chunk) display(n node, script string) string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(c.header))
	for _, doc := range n.Heredocs {
		b.WriteString("\n" + doc.Content + doc.Name)
	}
	b.WriteString(script)
	return b.String()
}
