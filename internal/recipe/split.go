package recipe

import (
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Element is one instruction of a file, to be sent as one element of a recipe.
type Element struct {
	Text    string // what ParseRecipe takes
	Line    int    // first line in the file, from 1
	EndLine int    // last line, inclusive
}

// Elements are the instructions of a file in order.
type Elements []Element

// Texts returns what a build request takes as its recipe.
func (es Elements) Texts() []string {
	texts := make([]string, 0, len(es))
	for _, e := range es {
		texts = append(texts, e.Text)
	}
	return texts
}

// Split cuts a file into the elements of the array form, without comments and
// blank lines: ParseRecipe makes of them what ParseFile makes of the file, apart
// from line numbers, which the elements keep. It checks only what concerns the
// text as a whole; the error is a Problems.
func Split(text string) (Elements, error) {
	if p := checkSize([]string{text}); p != nil {
		return nil, Problems{*p}
	}
	if p := checkText(text); p != nil {
		return nil, Problems{*p}
	}
	chunks, problems := cutAll(text)
	if p := checkCount(len(chunks)); p != nil {
		problems = append(problems, *p)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	elements := make(Elements, 0, len(chunks))
	for _, c := range chunks {
		elements = append(elements, Element{Text: c.element(), Line: c.line, EndLine: c.endLine})
	}
	return elements, nil
}

// element is the chunk as an element of its own, which has to say again what
// the escape character is.
func (c chunk) element() string {
	text := strings.TrimRight(c.text, "\r\n")
	if c.escape != parser.DefaultEscapeToken {
		text = "# escape=" + string(c.escape) + "\n" + text
	}
	return text
}
