package recipe

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// withoutLines is what both forms have in common.
func withoutLines(r Recipe) Recipe {
	for i := range r.Instructions {
		r.Instructions[i].Line, r.Instructions[i].EndLine = 0, 0
	}
	for i := range r.Warnings {
		r.Warnings[i].Line, r.Warnings[i].EndLine = 0, 0
	}
	return r
}

// bothForms parses a text as a file and as the array that Split makes of it, and
// fails the test unless the results are the same.
func bothForms(t *testing.T, text string) (Recipe, Problems) {
	t.Helper()
	file, fileErr := ParseFile(text)
	problems, _ := fileErr.(Problems)
	elements, err := Split(text)
	if err != nil {
		if fileErr == nil {
			t.Errorf("Split(%q) error = %v, ParseFile took it", text, err)
		}
		return file, problems
	}
	array, arrayErr := ParseRecipe(elements.Texts())
	if diff := cmp.Diff(withoutLines(clone(file)), withoutLines(array)); diff != "" {
		t.Errorf("%q: file and array differ (-file +array):\n%s", text, diff)
	}
	arrayProblems, _ := arrayErr.(Problems)
	if diff := cmp.Diff(codes(problems), codes(arrayProblems)); diff != "" {
		t.Errorf("%q: problems of file and array differ (-file +array):\n%s", text, diff)
	}
	return file, problems
}

func clone(r Recipe) Recipe {
	r.Instructions = append([]Instruction(nil), r.Instructions...)
	r.Warnings = append([]Warning(nil), r.Warnings...)
	return r
}

func codes(ps Problems) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.Code+" "+p.Message)
	}
	return out
}

func TestFormsAgree(t *testing.T) {
	t.Parallel()
	for _, text := range cutCases {
		bothForms(t, text)
	}
}

func TestArrayScript(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, element, script string
	}{
		{"one line", "RUN echo a", "echo a"},
		{"several lines", "RUN set -e\n  echo a\n\necho b\n", "set -e\n  echo a\n\necho b"},
		{"quoted blanks at a line's end", "RUN echo 'a  \n  b'", "echo 'a  \n  b'"},
		{"comment in the script", "RUN echo a\n# kept\necho b", "echo a\n# kept\necho b"},
		{"continuation of the first line", "RUN echo a \\\n  b\necho c", "echo a   b\necho c"},
		{"continuation in the script is the shell's", "RUN echo a\necho b \\\n  c", "echo a\necho b \\\n  c"},
		{"nothing behind the keyword", "RUN\n  echo a\n  echo b", "echo a\n  echo b"},
		{"heredoc and more", "RUN cat > /x <<EOF\nhi\nEOF\nchmod +x /x", "cat > /x <<EOF\nhi\nEOF\nchmod +x /x"},
		{"leading comment", "# why\nRUN echo a", "echo a"},
		{"start", "START server &\nwait", "server &\nwait"},
		{"blank lines around", "\n\n  RUN echo a  \n\n", "echo a"},
		{"instructions in a heredoc", "RUN <<EOF\nENV A=1\nEOF", "ENV A=1\n"},
		{"dollar is the shell's", "RUN echo $HOME ${x:?}", "echo $HOME ${x:?}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := ParseRecipe([]string{tt.element})
			if err != nil {
				t.Fatalf("ParseRecipe(%q) error = %v", tt.element, err)
			}
			if got := r.Instructions[0].Body.(Command).Script; got != tt.script {
				t.Errorf("ParseRecipe(%q) script = %q, want %q", tt.element, got, tt.script)
			}
		})
	}
}

func TestArrayRefusals(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		element string
		code    string
	}{
		{"empty", "", "empty_instruction"},
		{"blank", " \n\t\n", "empty_instruction"},
		{"comment only", "# nothing", "empty_instruction"},
		{"two instructions", "ENV A=1\nENV B=2", "several_instructions"},
		{"lines after a JSON form", "RUN [\"a\"]\nb", "several_instructions"},
		{"lines after a pure heredoc", "RUN <<EOF\na\nEOF\nb", "several_instructions"},
		{"NUL", "RUN a\x00b", "nul_byte"},
		{"NUL in JSON", `RUN ["a\u0000"]`, "nul_byte"},
		{"not UTF-8", "RUN \xff", "invalid_utf8"},
		{"long line", "RUN " + strings.Repeat("a", MaxLineBytes), "line_too_long"},
		{"long script", "RUN a\n" + strings.Repeat("b\n", MaxArgBytes), "argument_too_long"},
		{"unterminated heredoc", "RUN <<EOF\na", "heredoc_unterminated"},
		{"deep substitution beside a heredoc", "RUN <<EOF " + strings.Repeat("${a:-", 5000), "line_too_complex"},
		{"deep substitution", "ENV A=" + strings.Repeat("${a:-", 5000), "expansion_too_large"},
		{"split keyword", "STA\\\nRT a", "syntax"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseRecipe([]string{"RUN first", tt.element})
			ps, _ := err.(Problems)
			if len(ps) != 1 || ps[0].Code != tt.code || ps[0].Line != 2 || ps[0].EndLine != 2 {
				t.Errorf("ParseRecipe() problems = %+v, want one of code %s at line 2", ps, tt.code)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	many := make([]string, MaxInstructions+1)
	for i := range many {
		many[i] = "RUN a"
	}
	tests := []struct {
		name     string
		elements []string
		code     string
	}{
		{"no element", nil, "recipe_empty"},
		{"too many", many, "too_many_instructions"},
		{"too long", []string{"RUN " + strings.Repeat("a", MaxBytes)}, "recipe_too_long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseRecipe(tt.elements)
			_, fileErr := ParseFile(strings.Join(tt.elements, "\n"))
			_, splitErr := Split(strings.Join(tt.elements, "\n"))
			for form, err := range map[string]error{"ParseRecipe": err, "ParseFile": fileErr, "Split": splitErr} {
				if ps, _ := err.(Problems); len(ps) != 1 || ps[0].Code != tt.code {
					t.Errorf("%s() error = %v, want code %s", form, err, tt.code)
				}
			}
		})
	}
	if _, err := ParseRecipe(many[1:]); err != nil {
		t.Errorf("ParseRecipe(%d instructions) error = %v", len(many)-1, err)
	}
}
