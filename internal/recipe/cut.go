package recipe

import (
	"strings"
	"unicode"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// chunk is the text of one instruction.
type chunk struct {
	text    string // its lines as they are, comments within included
	header  string // the first logical line, continuations joined
	line    int    // first line, from 1
	endLine int    // last line, inclusive
	escape  rune
	docs    int  // heredocs
	closed  bool // false when a heredoc has no end
}

// keyword is the first word of the chunk.
func (c chunk) keyword() string { return firstWord(c.header) }

// cutter walks a text as BuildKit's parser does, but only far enough to know
// where each instruction ends. TestCutAgreesWithBuildKit and FuzzSplit hold it
// to BuildKit's own result.
type cutter struct {
	lines      []string // each with its line end
	at         int      // index of the next line
	escape     rune
	directives parser.DirectiveParser
	problems   Problems // of parser directives
}

const byteOrderMark = "\ufeff"

func newCutter(text string) *cutter {
	lines := strings.SplitAfter(strings.TrimPrefix(text, byteOrderMark), "\n")
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	}
	return &cutter{lines: lines, escape: parser.DefaultEscapeToken}
}

// next returns the next instruction; ok is false at the end of the text.
func (c *cutter) next() (ch chunk, ok bool) {
	for ; c.at < len(c.lines); c.at++ {
		first := c.content(strings.TrimLeftFunc(c.lines[c.at], unicode.IsSpace))
		header, more := c.continued(first)
		if !more && header == "" {
			continue
		}
		start := c.at
		c.at++
		header += c.continuation(more)
		ch = chunk{header: header, line: start + 1, escape: c.escape}
		ch.docs, ch.closed = c.heredocs(header)
		ch.endLine = c.at
		ch.text = strings.Join(c.lines[start:c.at], "")
		return ch, true
	}
	return chunk{}, false
}

// rest returns what follows the last chunk.
func (c *cutter) rest() string { return strings.Join(c.lines[c.at:], "") }

// scriptAfter returns what an element holds behind ch, to be appended to its
// script byte for byte: with the blanks that end the first line, which the
// parser drops, and the line break. It is empty when only blanks follow.
func (c *cutter) scriptAfter(ch chunk) string {
	rest := strings.TrimRight(c.rest(), "\r\n")
	if strings.TrimSpace(rest) == "" {
		return ""
	}
	var blank string
	if ch.docs == 0 {
		blank = ch.header[len(strings.TrimRightFunc(ch.header, unicode.IsSpace)):]
	}
	return blank + "\n" + rest
}

// content returns a line without its end, empty when it is a comment.
func (c *cutter) content(line string) string {
	line = strings.TrimRight(line, "\r\n")
	c.directive(line)
	if isComment(line) {
		return ""
	}
	return line
}

// directive takes notice of "# escape=", the one parser directive that means
// something to us; "# syntax=" and "# check=" are read and have no effect.
func (c *cutter) directive(line string) {
	d, err := c.directives.ParseLine([]byte(line))
	var p *Problem
	switch {
	case err != nil:
		p = invalid("directive_invalid", "%s", err)
	case d == nil || d.Name != "escape":
		return
	case d.Value != "`" && d.Value != `\`:
		p = invalid("directive_invalid", "escape=%s: the escape character is ` or \\", clip(d.Value))
	default:
		c.escape = rune(d.Value[0])
		return
	}
	c.problems = append(c.problems, *p.at(c.at+1, c.at+1))
}

// continued cuts the continuation off a line and reports whether it had one: a
// last escape character that is not itself escaped.
func (c *cutter) continued(line string) (string, bool) {
	end := strings.TrimRight(line, " \t")
	cut, ok := strings.CutSuffix(end, string(c.escape))
	if !ok || strings.HasSuffix(cut, string(c.escape)) {
		return line, false
	}
	return cut, true
}

// continuation reads the lines that continue a header.
func (c *cutter) continuation(more bool) string {
	var b strings.Builder
	for ; more && c.at < len(c.lines); c.at++ {
		line := c.content(c.lines[c.at])
		if strings.TrimSpace(line) == "" { // comments and empty lines do not end it
			continue
		}
		line, more = c.continued(line)
		b.WriteString(line)
	}
	return b.String()
}

// heredocs skips the bodies that belong to header and returns how many there
// are and whether all of them have an end.
func (c *cutter) heredocs(header string) (n int, closed bool) {
	docs := heredocsOf(header)
	for _, doc := range docs {
		if !c.skipHeredoc(doc) {
			return len(docs), false
		}
	}
	return len(docs), true
}

func (c *cutter) skipHeredoc(doc parser.Heredoc) bool {
	for c.at < len(c.lines) {
		line := strings.TrimRight(c.lines[c.at], "\r\n")
		c.at++
		if doc.Chomp {
			line = strings.TrimLeft(line, "\t")
		}
		if line == doc.Name {
			return true
		}
	}
	return false
}

// heredocsOf returns the heredocs that a logical line opens, by the lexing of
// BuildKit's parser, which does not export it.
func heredocsOf(header string) []parser.Heredoc {
	word, args := cutWord(header)
	if strings.EqualFold(word, string(KeywordOnbuild)) {
		word, args = cutWord(args)
	}
	if !takesHeredocs(word) || !strings.Contains(args, "<<") || isExecForm(args) {
		return nil
	}
	if strings.Count(header, "${") > maxHeredocSubstitutions {
		return nil // refused by parseChunk
	}
	lex := shell.NewLex('\\')
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	words, err := lex.ProcessWords(header, noEnv{})
	if err != nil {
		return nil
	}
	var docs []parser.Heredoc
	for _, w := range words {
		if doc, err := parser.ParseHeredoc(w); err == nil && doc != nil {
			docs = append(docs, *doc)
		}
	}
	return docs
}

func takesHeredocs(word string) bool {
	switch keywordOf(word) {
	case KeywordRun, KeywordStart, KeywordCopy, KeywordAdd:
		return true
	}
	return false
}

// isExecForm asks BuildKit whether args, behind their flags, are a JSON array.
func isExecForm(args string) bool {
	if !strings.Contains(args, "[") {
		return false
	}
	res, err := parser.Parse(strings.NewReader("CMD " + args))
	return err == nil && len(res.AST.Children) == 1 && res.AST.Children[0].Attributes["json"]
}

// blanks are what separates a word from its arguments.
const blanks = "\t\v\f\r\n "

func firstWord(line string) string {
	word, _ := cutWord(line)
	return word
}

// cutWord cuts the first word off line.
func cutWord(line string) (word, args string) {
	line = strings.TrimSpace(line)
	i := strings.IndexAny(line, blanks)
	if i < 0 {
		return line, ""
	}
	return line[:i], strings.TrimLeft(line[i:], blanks)
}

func isComment(line string) bool {
	return strings.HasPrefix(strings.TrimLeftFunc(line, unicode.IsSpace), "#")
}

// noEnv is the empty environment.
type noEnv struct{}

func (noEnv) Get(string) (string, bool) { return "", false }

func (noEnv) Keys() []string { return nil }
