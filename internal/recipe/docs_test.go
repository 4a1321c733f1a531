package recipe

import (
	"os"
	"regexp"
	"testing"
)

// TestDocs parses every example of the reference.
func TestDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```dockerfile\n(.*?)```").FindAllSubmatch(text, -1)
	if len(examples) == 0 {
		t.Fatal("docs/recipes.md has no examples")
	}
	for _, e := range examples {
		if _, problems := bothForms(t, string(e[1])); len(problems) > 0 {
			t.Errorf("example has problems: %v\n%s", problems, e[1])
		}
	}
}
