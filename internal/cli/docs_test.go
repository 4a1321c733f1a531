package cli

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// commandLine finds the command lines of lehr in a page: lines of code blocks
// that begin with "lehr" or "$ lehr", and code within text that does.
var (
	codeBlock  = regexp.MustCompile("(?s)```(sh|console|bash|)\n(.*?)```")
	blockLine  = regexp.MustCompile(`(?m)^\s*(\$ )?(?:[a-z]+=\$\()?(?:sudo )?(?:bin/)?(lehr [^\n]*?)\)?$`)
	subshell   = regexp.MustCompile(`\$\([^)]*\)?`)
	inlineCode = regexp.MustCompile("`(lehr [a-z][^`\n]*)`")
)

// commandLines returns the words of each command line of a page that is no
// grammar: [optional] parts and alternatives are for people.
func commandLines(text string) [][]string {
	var lines []string
	for _, block := range codeBlock.FindAllStringSubmatch(text, -1) {
		for _, m := range blockLine.FindAllStringSubmatch(strings.ReplaceAll(block[2], "\\\n", " "), -1) {
			if block[1] == "console" && m[1] == "" || strings.Contains(m[2], "[") {
				continue // output, or a grammar
			}
			lines = append(lines, subshell.ReplaceAllString(m[2], "ID"))
		}
	}
	for _, m := range inlineCode.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		if !strings.ContainsAny(m[1], "[]|<…") {
			lines = append(lines, m[1])
		}
	}
	var all [][]string
	for _, line := range lines {
		line, _, _ = strings.Cut(line, " #")
		line, _, _ = strings.Cut(line, " | ")
		line, _, _ = strings.Cut(line, " > ")
		line, _, _ = strings.Cut(line, " <")
		if words := shellWords(line); len(words) > 1 {
			all = append(all, words[1:])
		}
	}
	return all
}

// shellWords splits a line at blanks outside of quotes.
func shellWords(line string) []string {
	var words []string
	word, quote, open := "", rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, open = r, true
		case quote == 0 && r == ' ':
			if open || word != "" {
				words = append(words, word)
			}
			word, open = "", false
		default:
			word += string(r)
		}
	}
	if open || word != "" {
		words = append(words, word)
	}
	return words
}

// Every command line of the documentation is one that lehr takes: its command
// and flags exist, and its arguments are as many as it wants.
func TestDocumentedCommandLines(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, "../../README.md", "../../examples/web/Recipe", "../../examples/tools/Recipe")
	total := 0
	for _, page := range pages {
		switch filepath.Base(page) {
		case "roadmap.md", "guarantees.md", "from-the-original.md":
			continue // they name what is not there yet
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, words := range commandLines(string(text)) {
			total++
			if err := takes(words); err != nil {
				t.Errorf("%s: lehr %s: %v", filepath.Base(page), strings.Join(words, " "), err)
			}
		}
	}
	if total < 30 {
		t.Errorf("the documentation has %d command lines, want at least 30: are they found?", total)
	}
	for _, wrong := range []string{"nonsense", "build --nonsense", "builds get", "sandbox kil x", "run"} {
		if takes(strings.Fields(wrong)) == nil {
			t.Errorf("lehr %s is taken by this test", wrong)
		}
	}
}

// takes reports whether a command line is right, without running it.
func takes(words []string) error {
	a := &app{env: Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, LookupEnv: environment(nil)}}
	root := a.root()
	cmd, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	args := cmd.Flags().Args()
	if cmd.HasAvailableSubCommands() && len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	if cmd.Args == nil {
		return nil
	}
	return cmd.Args(cmd, args)
}
