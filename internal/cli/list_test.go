package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/api/jsonwire"
)

// An array that is printed piece by piece is the one that is printed whole.
func TestJSONArray(t *testing.T) {
	t.Parallel()
	for n := range 3 {
		var list []*lehrv1.Key
		var out bytes.Buffer
		array := jsonArray{w: &out}
		for i := range n {
			k := &lehrv1.Key{Id: fmt.Sprint(i), Name: "a\nb\"c"}
			list = append(list, k)
			must(t, array.add(k))
		}
		must(t, array.begin())
		must(t, array.end())
		want, err := jsonwire.MarshalList(list)
		must(t, err)
		if got := out.String(); got != string(want)+"\n" {
			t.Errorf("%d printed one by one = %q, want %q", n, got, want)
		}
	}
}

func TestTableFits(t *testing.T) {
	t.Parallel()
	rows := func() [][]string {
		return [][]string{{"ID", "NAME", "STATE"}, {"sb0000000000", strings.Repeat("n", 30), "ok"}, {"sb1", "日本日本日本日本日本日本日本", "a\tb\x1b[2J"}}
	}
	for _, tt := range []struct {
		width int
		want  string
	}{
		{0, "ID            NAME                            STATE\n" +
			"sb0000000000  nnnnnnnnnnnnnnnnnnnnnnnnnnnnnn  ok\n" +
			"sb1           日本日本日本日本日本日本日本    a b\n"},
		{40, "ID            NAME                 STATE\n" +
			"sb0000000000  nnnnnnnnnnnnnnnnnn…  ok\n" +
			"sb1           日本日本日本日本日…  a b\n"},
		{10, "ID            NAME      STATE\nsb0000000000  nnnnnnn…  ok\nsb1           日本日…   a b\n"},
	} {
		var out bytes.Buffer
		tab := &table{w: &out, max: tt.width, rows: rows()}
		must(t, tab.flush())
		if out.String() != tt.want {
			t.Errorf("table of %d columns =\n%s\nwant\n%s", tt.width, out.String(), tt.want)
		}
	}
	// Later pages keep the columns of the first.
	var out bytes.Buffer
	tab := &table{w: &out, rows: [][]string{{"ID", "NAME"}, {"long-id", "x"}}}
	must(t, tab.flush())
	tab.rows = append(tab.rows, []string{"a", "b"})
	must(t, tab.flush())
	if want := "ID       NAME\nlong-id  x\na        b\n"; out.String() != want {
		t.Errorf("table in two pages = %q, want %q", out.String(), want)
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	all := []string{"build", "builds", "sandbox", "python", "python-slim", "web"}
	for word, want := range map[string]string{
		"biuld": "[build]", "buidls": "[build builds]", "sandbx": "[sandbox]", "pyth": "[python python-slim]", "pyton": "[python]",
		"nonsense": "[]", "wen": "[web]", "x": "[]", "": "[]",
	} {
		if got := fmt.Sprint(nearest(word, all)); got != want {
			t.Errorf("nearest(%q) = %s, want %s", word, got, want)
		}
	}
}

// Ids by their beginning, keys and builds by name.
func TestIDsByTheirBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run("build", "-t", "web:v1", "-f", recipeFile(t, "RUN true"), "--skip-pre-post").ends(ExitOK)
	var a, b struct{ ID string }
	w.run("sandbox", "create", "web:v1", "-o", "json").ends(ExitOK).document(&a)
	w.run("sandbox", "create", "web:v1", "-o", "json").ends(ExitOK).document(&b)
	same := 0
	for same < len(a.ID) && a.ID[same] == b.ID[same] {
		same++
	}
	w.run("sandbox", "get", a.ID[:same]).ends(ExitRefused, "[id_ambiguous]", a.ID, b.ID, "(web:v1)")
	w.run("sandbox", "get", a.ID[:same+1]).ends(ExitOK).prints(a.ID)
	w.run("sandbox", "exec", b.ID[:same+1], "--", "true").ends(ExitOK)
	w.run("sandbox", "timeout", b.ID[:same+1], "1h").ends(ExitOK).prints(b.ID)
	w.run("sandbox", "kill", "sb7zzzz").ends(ExitRefused, "[sandbox_not_found]", "lehr sandbox ls")
	w.run("sandbox", "kill", a.ID[:same+1]).ends(ExitOK, "killed "+a.ID)
	// An ended one is found once no live one fits.
	w.run("sandbox", "get", a.ID[:same+1]).ends(ExitOK).prints("killed")
	w.run("sandbox", "get", a.ID[:same]).ends(ExitOK).prints(b.ID)

	w.run("builds", "get", "web").ends(ExitOK).prints("web:v1", "success")
	w.run("builds", "get", "web:v1").ends(ExitOK)
	w.run("builds", "get", "web:v2").ends(ExitRefused, "[build_not_found]")
	w.run("builds", "logs", "bld-0").ends(ExitOK)

	var web struct{ ID string }
	w.run("templates", "get", "web:v1", "-o", "json").ends(ExitOK).document(&web)
	w.run("templates", "get", web.ID[:len(web.ID)-1]).ends(ExitOK).prints(web.ID)
	w.run("templates", "tag", web.ID[:len(web.ID)-1], "v2").ends(ExitOK)
	w.run("templates", "rm", "tpl-7zz").ends(ExitRefused, "[template_not_found]")

	w.run("keys", "create", "ci").ends(ExitOK)
	w.run("keys", "create", "ci").ends(ExitOK)
	w.run("keys", "revoke", "ci").ends(ExitRefused, "[id_ambiguous]", "(ci)")
	w.run("keys", "revoke", "nobody").ends(ExitRefused, "[key_not_found]")
	w.run("keys", "create", "laptop").ends(ExitOK)
	w.run("keys", "revoke", "laptop").ends(ExitOK, "revoked key-")
	w.run("keys", "revoke", "laptop").ends(ExitRefused, "[key_not_found]")
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run("build", "-t", "python:v1", "-f", recipeFile(t, "RUN true"), "--skip-pre-post").ends(ExitOK)
	w.run("run", "pyton", "--", "true").ends(ExitLehr, "[template_not_found]", "did you mean python?")
	w.run("sandbox", "create", "python:v2").ends(ExitRefused, "[template_not_found]", "did you mean python:v1 or python?")
	w.run("templates", "get", "minimul").ends(ExitRefused, "did you mean minimal?")
	w.run("templates", "rm", "pyton").ends(ExitRefused, "did you mean python?")
	if r := w.run("templates", "get", "nonsense").ends(ExitRefused, "[template_not_found]"); strings.Contains(r.stderr, "did you mean") {
		t.Errorf("stderr = %q, want no guess", r.stderr)
	}
	newCommand("sandbox", "ls", "--limt", "3").run(t).ends(ExitUsage, "did you mean --limit?")
	newCommand("sandbox", "ls", "--nonsense").run(t).ends(ExitUsage, "unknown flag: --nonsense")
	newCommand("sandox", "ls").run(t).ends(ExitUsage, "did you mean sandbox?")
}

func TestQuietAndVerbose(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run("build", "-t", "web:v1", "-f", recipeFile(t, "RUN true"), "--skip-pre-post").ends(ExitOK)
	made := w.run("sandbox", "create", "web:v1", "-q").ends(ExitOK)
	id := strings.TrimSpace(made.stdout)
	if made.stderr != "" || len(id) != 28 {
		t.Errorf("sandbox create -q prints %q and %q, want an id", made.stdout, made.stderr)
	}
	for args, want := range map[string]string{
		"sandbox ls -q": id + "\n", "templates ls -q --name web": "web:v1\n", "sandbox get -q " + id: id + "\n", "teams ls -q": "default\nplatform\n",
	} {
		if r := w.run(strings.Fields(args)...).ends(ExitOK); r.stdout != want || r.stderr != "" {
			t.Errorf("lehr %s prints %q and %q, want %q", args, r.stdout, r.stderr, want)
		}
	}
	key := strings.TrimSpace(w.run("keys", "create", "x", "-q").ends(ExitOK).stdout)
	r := w.run("-v", "sandbox", "ls").ends(ExitOK, "lehr: POST http://", "SandboxService/List: 200 OK after")
	if strings.Contains(r.stderr, w.key) || strings.Contains(r.stderr, key) || !strings.Contains(r.stdout, id) {
		t.Errorf("-v prints %q and %q, want the request without the key", r.stdout, r.stderr)
	}
	if r := w.run("sandbox", "kill", "-q", id).ends(ExitOK); r.stdout+r.stderr != "" {
		t.Errorf("kill -q prints %q and %q, want nothing", r.stdout, r.stderr)
	}
}

// On a terminal what cannot be undone is asked about.
func TestConfirm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, name := range []string{"a", "b"} {
		w.run("build", "-t", name, "-f", recipeFile(t, "RUN true"), "--skip-pre-post").ends(ExitOK)
	}
	c := w.command("templates", "rm", "a")
	s := c.sit(t)
	wait := c.follow(t, t.Context())
	s.shows("Remove a with all tags and versions? [y/N] ")
	s.types("\r")
	wait().ends(ExitCancelled)
	s.shows("nothing was done")

	c = w.command("templates", "rm", "a", "--no-input")
	s = c.sit(t)
	c.run(t).ends(ExitUsage)
	s.shows("--yes")

	c = w.command("templates", "rm", "a")
	s = c.sit(t)
	wait = c.follow(t, t.Context())
	s.shows("[y/N] ")
	s.types("yes\r")
	wait().ends(ExitOK)

	c = w.command("templates", "rm", "b", "--yes")
	s = c.sit(t)
	c.run(t).ends(ExitOK)
	s.shows("removed b")
	w.run("templates", "get", "a").ends(ExitRefused, "[template_not_found]")

	one, two := strings.TrimSpace(w.run("sandbox", "create", "minimal", "-q").stdout), strings.TrimSpace(w.run("sandbox", "create", "minimal", "-q").stdout)
	c = w.command("sandbox", "kill", one, two)
	s = c.sit(t)
	wait = c.follow(t, t.Context())
	s.shows("End 2 sandboxes and everything in them? [y/N] ")
	s.types("n\r")
	wait().ends(ExitCancelled)
	if live := w.host.Live(); len(live) != 2 {
		t.Errorf("live sandboxes = %d, want both", len(live))
	}
	w.run("sandbox", "kill", one, two).ends(ExitOK, "killed "+one, "killed "+two) // a script is not asked
}

func TestTeams(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run("teams", "ls").ends(ExitOK).prints("NAME", "default")
	w.run("teams", "get").ends(ExitOK).prints("default", "0, no limit")
	var team struct {
		Name   string
		Limits struct{ Sandboxes, Vcpus int }
	}
	w.run("teams", "limits", "ci", "--sandboxes", "2", "--vcpus", "3").ends(ExitOK).prints("0 of 2")
	w.run("teams", "limits", "ci", "--vcpus", "5", "-o", "json").ends(ExitOK).document(&team)
	if team.Name != "ci" || team.Limits.Sandboxes != 2 || team.Limits.Vcpus != 5 {
		t.Errorf("limits = %+v, want sandboxes kept and vcpus changed", team)
	}
	w.run("teams", "limits", "ci", "--none", "-o", "json").ends(ExitOK).document(&team)
	if team.Limits.Sandboxes != 0 || team.Limits.Vcpus != 0 {
		t.Errorf("limits = %+v, want none", team)
	}
	w.run("teams", "limits", "ci").ends(ExitUsage, "--none")
	w.run("teams", "limits", "ci", "--none", "--vcpus", "1").ends(ExitUsage, "--none")
	w.run("teams", "limits", "ci", "--vcpus", "-1").ends(ExitRefused)
	w.run("teams", "get", "nobody").ends(ExitRefused, "[team_not_found]")
	w.run("teams", "limits", "default", "--sandboxes", "1").ends(ExitOK)
	w.run("sandbox", "create", "minimal").ends(ExitOK)
	w.run("sandbox", "create", "minimal").ends(ExitRefused, "try: ")
	w.run("keys", "create", "k", "--team", "ci").ends(ExitOK)
	w.run("keys", "ls", "--team", "ci").ends(ExitOK).prints("k")
	if r := w.run("keys", "ls", "-q", "--team", "default"); strings.Count(r.stdout, "\n") != 1 {
		t.Errorf("keys of default = %q, want one", r.stdout)
	}
	w.run("keys", "revoke", "k").ends(ExitRefused, "[key_not_found]")
	w.run("keys", "revoke", "k", "--team", "ci").ends(ExitOK, "revoked key-")
	w.run("keys", "ls", "--team", "nobody").ends(ExitRefused, "[team_not_found]")
}

func TestFiltersAndTags(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run("build", "-t", "web:v1", "-f", recipeFile(t, "LABEL tier=front\nRUN true"), "--skip-pre-post").ends(ExitOK)
	w.run("build", "-t", "db:v1", "-f", recipeFile(t, "RUN true"), "--skip-pre-post").ends(ExitOK)
	a := strings.TrimSpace(w.run("sandbox", "create", "web:v1", "--metadata", "job=1", "--metadata", "who=me", "-q").ends(ExitOK).stdout)
	b := strings.TrimSpace(w.run("sandbox", "create", "db:v1", "--metadata", "job=2", "-q").ends(ExitOK).stdout)
	for args, want := range map[string]string{
		"--metadata job=1": a + "\n", "--metadata job=2": b + "\n", "--metadata job=1 --metadata who=you": "", "--template web": a + "\n", "--template db:v2": "", "--template web:v1": a + "\n",
		"--state running": b + "\n" + a + "\n", "--state paused": "", "--limit 1": b + "\n", "--limit 0": b + "\n" + a + "\n",
	} {
		if r := w.run(append([]string{"sandbox", "ls", "-q"}, strings.Fields(args)...)...).ends(ExitOK); r.stdout != want {
			t.Errorf("sandbox ls %s = %q, want %q", args, r.stdout, want)
		}
	}
	w.run("sandbox", "get", a).ends(ExitOK).prints("job=1 who=me")
	w.run("sandbox", "ls", "--state", "nonsense").ends(ExitRefused)
	w.run("sandbox", "ls", "--metadata", "x").ends(ExitUsage, "KEY=VALUE")
	w.run("sandbox", "ls", "--limit", "-1").ends(ExitUsage, "--limit")
	for args, want := range map[string]string{"--label tier=front": "web:v1\n", "--label tier=back": "", "--type snapshot": "", "--name db --type base": "db:v1\n"} {
		if r := w.run(append([]string{"templates", "ls", "-q"}, strings.Fields(args)...)...).ends(ExitOK); r.stdout != want {
			t.Errorf("templates ls %s = %q, want %q", args, r.stdout, want)
		}
	}
	w.run("templates", "tag", "web:v1", "stable").ends(ExitOK).prints("stable")
	w.run("templates", "get", "web:stable").ends(ExitOK).prints("web")
	w.run("templates", "tag", "web:v9", "stable").ends(ExitRefused, "[template_not_found]", "did you mean web:v1")
	w.run("templates", "tag", "web:v1", "Not A Tag").ends(ExitRefused, "tag")
	w.run("templates", "tag", "web").ends(ExitUsage, "TEMPLATE TAG")
	w.run("sandbox", "timeout", a, "soon").ends(ExitUsage, "duration")
	w.run("sandbox", "timeout", a, "1h", "-o", "json").ends(ExitOK).prints(`"expires_at": "2`)
	w.run("sandbox", "timeout", a, "0", "-o", "json").ends(ExitOK).prints(`"expires_at": null`)
}
