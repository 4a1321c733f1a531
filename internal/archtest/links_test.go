package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	fence    = regexp.MustCompile("(?s)```.*?```")
	code     = regexp.MustCompile("`[^`\n]*`")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	slugDrop = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// brokenLinks returns the links of a page that lead nowhere: to a file that is
// not there, or to a heading that the page does not have.
func brokenLinks(page string) ([]string, error) {
	b, err := os.ReadFile(filepath.Clean(page))
	if err != nil {
		return nil, err
	}
	var broken []string
	text := fence.ReplaceAllString(string(b), "")
	for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text, "code"), -1) {
		target, anchor, _ := strings.Cut(m[1], "#")
		if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			continue
		}
		file := page
		if target != "" {
			file = filepath.Join(filepath.Dir(page), target)
		}
		if _, err := os.Stat(file); err != nil {
			broken = append(broken, m[1])
			continue
		}
		if anchor != "" && !anchors(file)[anchor] {
			broken = append(broken, m[1])
		}
	}
	return broken, nil
}

// anchors are the names of a page's headings, as GitHub makes them.
func anchors(page string) map[string]bool {
	b, err := os.ReadFile(filepath.Clean(page))
	if err != nil {
		return nil
	}
	names := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(string(b), ""), -1) {
		slug := slugDrop.ReplaceAllString(strings.ToLower(strings.TrimSpace(m[1])), "")
		names[strings.ReplaceAll(slug, " ", "-")] = true
	}
	return names
}

// Links between the pages of this tree lead somewhere.
func TestLinks(t *testing.T) {
	root := filepath.Join("..", "..")
	pages, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md", "changelog/*.md", "changelog/*/*.md"} {
		more, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, more...)
	}
	for _, page := range pages {
		broken, err := brokenLinks(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range broken {
			t.Errorf("%s: the link to %s leads nowhere", page, l)
		}
	}
	// Every page can be found from the index.
	index, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range docs {
		if name := "docs/" + filepath.Base(page); !strings.Contains(string(index), "]("+name) {
			t.Errorf("README.md has no link to %s", name)
		}
	}
}

func TestLinksReports(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	text := "# A heading: with `code`\n[here](#a-heading-with-code) [gone](#gone) [no](none.md) [web](https://example.com/x)\n`[not](a link)`\n```\n[nor](this)\n# nor this\n```\n"
	if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := brokenLinks(page)
	if err != nil || strings.Join(got, " ") != "#gone none.md" {
		t.Errorf("brokenLinks() = %v, %v, want #gone and none.md", got, err)
	}
}
