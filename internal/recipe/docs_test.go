package recipe

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestDocs parses every recipe in the documentation.
func TestDocs(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range regexp.MustCompile("(?s)```dockerfile\n(.*?)```").FindAllSubmatch(text, -1) {
			found[filepath.Base(page)]++
			if _, problems := bothForms(t, string(e[1])); len(problems) > 0 {
				t.Errorf("%s: a recipe has problems: %v\n%s", page, problems, e[1])
			}
		}
	}
	for page, least := range map[string]int{"recipes.md": 12, "quickstart.md": 1, "README.md": 1} {
		if found[page] < least {
			t.Errorf("%s has %d recipes, want at least %d", page, found[page], least)
		}
	}
}
