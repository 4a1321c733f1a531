package cli

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain ü 日本 😀":            "plain ü 日本 😀",
		"a\tb":                    "a\tb",
		"\x1b[1;31mred\x1b[0m":    "red",
		"\x1b[2J\x1b[H\x1b[?25l":  "",
		"\x1b]0;title\x07after":   "after",
		"\x1b]8;;http://x\x1b\\l": "l",
		"\x1bPq#0\x1b\\after":     "after",
		"\x1b(Bx\x1bc":            "x",
		"lone \x1b":               "lone ·",
		"nul\x00bell\x07del\x7f":  "nul·bell·del·",
		"\u009b31m":               "·31m",
		"\xff":                    "\uFFFD",
		"a\u202eb\u2066c":         "a·b·c",
		"a\u2028b":                "a·b",
		"10%\r50%\r100%":          "100%",
		"100%\r":                  "100%",
		"done\r          ":        "done",
		"\r":                      "",
		"a\nb":                    "a·b",
		"\x1b[K0%\r\x1b[K99%\r":   "99%",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[31mb\rc")
	f.Add("\x1b]0;\x1b[\x07")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
			t.Errorf("clean(%q) = %q, with control characters", s, got)
		}
	})
}

func TestCell(t *testing.T) {
	t.Parallel()
	if got, want := cell("RUN a\n\tb\n"), "RUN a ⏎  b"; got != want {
		t.Errorf("cell = %q, want %q", got, want)
	}
}

// lists, as a table with nothing in it and as an empty JSON array.
func TestEmptyLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, list := range [][]string{{"builds", "ls"}, {"sandbox", "ls"}, {"sandbox", "ls", "--all"}, {"templates", "ls", "--name", "none"}} {
		r := w.run(append(list, "-o", "json")...).ends(ExitOK)
		if r.stdout != "[]\n" || r.stderr != "" {
			t.Errorf("lehr %s prints %q and %q, want []", r.args, r.stdout, r.stderr)
		}
		if table := w.run(list...).ends(ExitOK); strings.Count(table.stdout, "\n") != 1 {
			t.Errorf("lehr %s prints %q, want the head alone", table.args, table.stdout)
		}
	}
}

func TestTablesAndObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run("build", "-t", "web:v1", "-f", recipeFile(t, "RUN true"), "--skip-pre-post").ends(ExitOK)
	w.run("builds", "ls").ends(ExitOK).prints("ID ", "TEMPLATE", "web:v1", "success", "1/1")
	w.run("templates", "ls").ends(ExitOK).prints("NAME", "web", "v1", "base")
	w.run("templates", "get", "web:v1").ends(ExitOK).prints("name", "version", "ver-")
	var box struct{ ID, State string }
	w.run("sandbox", "create", "web:v1", "--ttl", "1h", "-o", "json").ends(ExitOK).document(&box)
	w.run("sandbox", "get", box.ID).ends(ExitOK).prints(box.ID, "running", "expires")
	w.run("sandbox", "ls").ends(ExitOK).prints(box.ID, "web:v1")
	w.run("templates", "rm", "web").ends(ExitRefused, "[in_use]", "try: ")
	r := w.run("sandbox", "kill", "odd", box.ID, "odder").ends(ExitRefused, "killed "+box.ID)
	if n := strings.Count(r.stderr, "[id_invalid]"); n != 2 {
		t.Errorf("stderr = %q, want both bad ids named", r.stderr)
	}
	w.run("templates", "rm", "web").ends(ExitOK, "removed web")
}

func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var key struct{ ID, Name, Key string }
	w.run("keys", "create", "ci", "-o", "json").ends(ExitOK).document(&key)
	list := w.run("keys", "ls").ends(ExitOK).prints(key.ID, "ci", key.Key[:11]+"…")
	if strings.Contains(list.stdout, key.Key) {
		t.Errorf("keys ls = %q, want no secret in it", list.stdout)
	}
	c := w.command("keys", "ls")
	c.env.LookupEnv = environment(map[string]string{"LEHR_URL": w.server.URL, "LEHR_API_KEY": key.Key})
	c.run(t).ends(ExitRefused, "[admin_needed]")
	w.run("keys", "revoke", key.ID).ends(ExitOK, "revoked "+key.ID)
	c.run(t).ends(ExitRefused, "[key_invalid]")
}
