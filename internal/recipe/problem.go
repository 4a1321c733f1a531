package recipe

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Problem is one thing that is wrong with a recipe or healthcheck.
type Problem struct {
	Field   string    `json:"field"`              // request field: "recipe", "healthcheck", "build_args", "base_template"
	Line    int       `json:"line,omitempty"`     // first line of the instruction (file) or its element (array), from 1; 0: none
	EndLine int       `json:"end_line,omitempty"` // last line, inclusive
	Kind    errs.Kind `json:"kind"`               // Invalid, or Unsupported for what Lehr knows but does not do
	Code    string    `json:"code"`               // stable machine code, e.g. "unknown_instruction"
	Message string    `json:"message"`
	Remedy  string    `json:"remedy,omitempty"`
}

// Error returns "recipe line N: message".
func (p Problem) Error() string { return p.where() + ": " + p.Message }

func (p Problem) where() string {
	field := p.Field
	if field == "" {
		field = fieldRecipe
	}
	switch {
	case p.Line == 0:
		return field
	case p.EndLine > p.Line:
		return fmt.Sprintf("%s lines %d-%d", field, p.Line, p.EndLine)
	}
	return fmt.Sprintf("%s line %d", field, p.Line)
}

// The request fields that problems name.
const (
	fieldRecipe      = "recipe"
	fieldHealthcheck = "healthcheck"
	fieldBuildArgs   = "build_args"
	fieldBase        = "base_template"
)

// CodeSeveral is the error code of more than one problem.
const CodeSeveral = "recipe_invalid"

// maxReported bounds the problems that one error lists.
const maxReported = 100

// Problems is every problem found, in the order of the text. It is the error
// type of this package and of plan.Make; it is never empty as an error.
type Problems []Problem

// Error lists every problem on a line of its own.
func (ps Problems) Error() string {
	if len(ps) == 1 {
		return ps[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems", len(ps))
	for i, p := range ps {
		if i == maxReported {
			fmt.Fprintf(&b, "\n  and %d more", len(ps)-i)
			break
		}
		b.WriteString("\n  " + p.Error())
		if p.Remedy != "" {
			b.WriteString(" (" + p.Remedy + ")")
		}
	}
	return b.String()
}

// Unwrap returns the problems as one *errs.Error, which is how errors.As and
// errs.KindOf see them.
func (ps Problems) Unwrap() error {
	if len(ps) == 0 {
		return nil
	}
	e := errs.New(ps.kind(), "%s", ps.Error()).WithCode(CodeSeveral).WithField(ps.field())
	if len(ps) == 1 {
		e.Code, e.Remedy = ps[0].Code, ps[0].Remedy
	}
	return e
}

// kind is Unsupported only when nothing else is wrong.
func (ps Problems) kind() errs.Kind {
	for _, p := range ps {
		if p.Kind != errs.Unsupported {
			return errs.Invalid
		}
	}
	return errs.Unsupported
}

// field is the field that all problems share, or none: the message names each.
func (ps Problems) field() string {
	for _, p := range ps {
		if p.Field != ps[0].Field {
			return ""
		}
	}
	return ps[0].Field
}

// Err returns ps as an error, nil when there are none.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Join merges the problems of several errors into one error, so that a caller
// can report everything at once. It returns nil when all are nil. An error
// without problems becomes a problem of its own.
func Join(all ...error) error {
	var joined Problems
	for _, err := range all {
		var ps Problems
		switch {
		case err == nil:
		case errors.As(err, &ps):
			joined = append(joined, ps...)
		default:
			joined = append(joined, Problem{Kind: errs.KindOf(err), Code: errs.CodeOf(err), Message: err.Error()})
		}
	}
	return joined.Err()
}

// Warning is something a recipe says that has no effect or may surprise.
type Warning struct {
	Line    int    `json:"line,omitempty"` // as in Problem
	EndLine int    `json:"end_line,omitempty"`
	Message string `json:"message"`
}

func invalid(code, format string, args ...any) *Problem {
	return &Problem{Field: fieldRecipe, Kind: errs.Invalid, Code: code, Message: fmt.Sprintf(format, args...)}
}

func unsupported(code, format string, args ...any) *Problem {
	p := invalid(code, format, args...)
	p.Kind = errs.Unsupported
	return p
}

func (p *Problem) remedy(format string, args ...any) *Problem {
	p.Remedy = fmt.Sprintf(format, args...)
	return p
}

// at places the problem and returns it.
func (p *Problem) at(line, endLine int) *Problem {
	p.Line, p.EndLine = line, endLine
	return p
}

func (p *Problem) in(field string) *Problem {
	p.Field = field
	return p
}

// clip bounds hostile input that is quoted in a message.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
