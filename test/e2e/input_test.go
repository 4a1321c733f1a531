package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/test/world"
)

// TestInput sends what is wrong, over REST and the command line: each is refused
// with its status, code and field before any row or sandbox exists.
func TestInput(t *testing.T) {
	t.Parallel()
	w := world.Start(t)
	before := everything(t, w)
	t.Run("requests", func(t *testing.T) { testBadRequests(t, w.In(t)) })
	t.Run("recipes", func(t *testing.T) { testBadRecipes(t, w.In(t)) })
	t.Run("bases", func(t *testing.T) { testBadBases(t, w.In(t)) })
	t.Run("files", func(t *testing.T) { testBadPaths(t, w.In(t)) })
	t.Run("keys", func(t *testing.T) { testBadKeys(t, w.In(t)) })
	t.Run("wire", func(t *testing.T) { testBadWire(t, w.In(t)) })
	t.Run("command line", func(t *testing.T) { testBadArguments(t, w.In(t)) })
	// The subtest of paths had a sandbox of its own.
	if after := everything(t, w); after.builds != before.builds || after.templates != before.templates || after.boxes != before.boxes+1 {
		t.Errorf("after refused requests there is %+v, before %+v", after, before)
	}
}

// refusal is an answer of an error.
type refusal struct {
	Error struct{ Code, Message, Remedy, Field string }
}

// request is one wrong request.
type request struct {
	name, target, body string
	status             int    // 0: any of an error
	code               string // "": any, but one
	field              string // "": none is asked for
	header             []string
}

// refuse sends wrong requests and looks at the answers.
func refuse(t *testing.T, w *world.World, list []request) {
	t.Helper()
	for _, tt := range list {
		t.Run(tt.name, func(t *testing.T) {
			w := w.In(t)
			status, body := call(t, w, tt.target, tt.body, tt.header...)
			var e refusal
			if err := json.Unmarshal([]byte(body), &e); err != nil || status < 400 || tt.status != 0 && status != tt.status {
				t.Fatalf("%s %.200s = %d %.500s, want %d and an error", tt.target, tt.body, status, body, tt.status)
			}
			if e.Error.Message == "" || e.Error.Code == "" || tt.code != "" && e.Error.Code != tt.code || tt.field != "" && !strings.HasPrefix(e.Error.Field, tt.field) {
				t.Errorf("%s %.200s = %d %+v, want code %q and field %q", tt.target, tt.body, status, e.Error, tt.code, tt.field)
			}
			if len(e.Error.Message) > 8<<10 {
				t.Errorf("the message has %d bytes", len(e.Error.Message))
			}
		})
	}
}

// buildWith is the body of a build that is right but for one field.
func buildWith(field, value string) string {
	fields := map[string]string{"name": `"ok"`, "recipe": `["RUN true"]`, "base_template": `"minimal"`}
	fields[field] = value
	var parts []string
	for k, v := range fields {
		parts = append(parts, fmt.Sprintf("%q:%s", k, v))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func boxWith(field, value string) string {
	fields := map[string]string{"template": `"minimal"`}
	fields[field] = value
	var parts []string
	for k, v := range fields {
		parts = append(parts, fmt.Sprintf("%q:%s", k, v))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func testBadRequests(t *testing.T, w *world.World) {
	const build, create = "POST /v1/builds", "POST /v1/sandboxes"
	var list []request
	add := func(name, target, body, field string) {
		list = append(list, request{name: name, target: target, body: body, status: 400, field: field})
	}
	for i, name := range []string{`""`, `"UPPER CASE"`, `"-first"`, `".first"`, `"a/b/c/d"`, `"../../etc"`, `"a\u0000b"`, `"a\nb"`, `"é"`, `"a:b:c"`, `"a:"`, `":a"`, `"a@b"`, `"` + strings.Repeat("a", 65) + `"`, `"minimal"`, `"%2e%2e"`} {
		add(fmt.Sprintf("name %d", i), build, buildWith("name", name), "name")
	}
	for field, values := range map[string][]string{
		"vcpus":     {"-1", "2000000", "1.5", `"x"`, "99999999999999999999"},
		"memory_mb": {"-1", "1", "2147483647", "1e40", `"much"`},
		"disk_mb":   {"-1", "1", "2147483647", "9223372036854775808"},
	} {
		for _, v := range values {
			add("build "+field+" "+v, build, buildWith(field, v), "")
			add("sandbox "+field+" "+v, create, boxWith(field, v), "")
		}
	}
	for _, v := range []string{`"-1s"`, `"5"`, `"forever"`, `"1e9h"`, `5`, `"9999999999999999999s"`, `""`} {
		if v != `""` {
			add("limit "+v, build, buildWith("limits", `{"run":`+v+`}`), "")
			add("timeout "+v, create, boxWith("timeout", v), "")
		}
	}
	for _, v := range []string{`{"A=B":"c"}`, `{"":"c"}`, `{"A\u0000":"c"}`, `{"A":"c\u0000d"}`, `{"A":1}`, `["A"]`, `{"A":"` + strings.Repeat("x", 200<<10) + `"}`} {
		add(fmt.Sprintf("env %.20s", v), create, boxWith("env", v), "")
	}
	for _, v := range []string{`{"":"x"}`, `{"A B":"x"}`, `{"A\u0000":"x"}`} {
		add(fmt.Sprintf("build argument %.20s", v), build, buildWith("build_args", v), "")
	}
	// Whether it is an image somewhere is asked outside, where there is an outside.
	list = append(list, request{name: "unknown base", target: build, body: buildWith("base_template", `"nosuchbase"`)})
	add("base that is a path", build, buildWith("base_template", `"dir:/etc"`), "base_template")
	add("base that leaves", build, buildWith("base_template", `"../../minimal"`), "base_template")
	add("base with a NUL", build, buildWith("base_template", `"a\u0000b"`), "base_template")
	add("priority", build, buildWith("priority", "99999999999"), "")
	add("unknown field", build, `{"nonsense":1}`, "")
	add("unknown nested field", build, buildWith("limits", `{"walk":"1s"}`), "")
	add("the same field twice", build, `{"name":"a","name":"b","recipe":["RUN true"]}`, "")
	add("wrong types", build, `{"name":["x"],"recipe":"RUN true"}`, "")
	add("a list", build, `[]`, "")
	add("no JSON", build, `name=x`, "")
	add("two documents", build, buildWith("name", `"ok"`)+buildWith("name", `"ok"`), "")
	add("bad UTF-8", build, "{\"name\":\"\xff\xfe\"}", "")
	add("lone surrogate", build, `{"name":"\ud800"}`, "")
	add("deep nesting", build, strings.Repeat(`{"limits":`, 100000)+"1"+strings.Repeat("}", 100000), "")
	add("deep lists", build, `{"recipe":`+strings.Repeat("[", 1000000)+"}", "")
	add("no body", build, "", "")
	add("no template", create, "{}", "template")
	for i, id := range []string{"x", "bld-", "bld-" + strings.Repeat("0", 25), "bld-" + strings.Repeat("u", 26), "sb" + strings.Repeat("0", 26), "bld-" + strings.Repeat("0", 27), "%00", "bld-%2e%2e%2f", "BLD-00000000000000000000000000"} {
		add(fmt.Sprintf("build id %d", i), "GET /v1/builds/"+id, "", "")
		add(fmt.Sprintf("log of build id %d", i), "GET /v1/builds/"+id+"/logs", "", "")
	}
	for i, id := range []string{"x", "sb", "sb" + strings.Repeat("0", 25), "bld-" + strings.Repeat("0", 26), "..%2f..%2fetc", "sb%00"} {
		add(fmt.Sprintf("sandbox id %d", i), "GET /v1/sandboxes/"+id, "", "")
		add(fmt.Sprintf("exec of sandbox id %d", i), "POST /v1/sandboxes/"+id+"/exec", `{"cmd":["true"]}`, "")
	}
	for _, q := range []string{"limit=-1", "limit=x", "limit=99999999999", "cursor=x", "cursor=../..", "status=nosuch", "colour=red", "limit=1&limit=2", "name=%00"} {
		add("query "+q, "GET /v1/builds?"+q, "", "")
	}
	add("log after", "GET /v1/builds/bld-00000000000000000000000000/logs?after=-5", "", "")
	add("log after a word", "GET /v1/builds/bld-00000000000000000000000000/logs?after=x", "", "")
	list = append(list,
		request{name: "too large a body", target: build, body: buildWith("recipe", `["RUN `+strings.Repeat("x", 5<<20)+`"]`), status: 400, code: "body_too_large"},
		request{name: "unknown build", target: "GET /v1/builds/bld-00000000000000000000000000", status: 404, code: "build_not_found"},
		request{name: "unknown sandbox", target: "GET /v1/sandboxes/sb00000000000000000000000000", status: 404, code: "sandbox_not_found"},
		request{name: "unknown template", target: create, body: boxWith("template", `"nosuch"`), status: 404, code: "template_not_found"},
		request{name: "unknown method", target: "PATCH /v1/builds", status: 404},
		request{name: "unknown route", target: "GET /v1/", status: 404, code: "route_unknown"},
		request{name: "the root", target: "GET /", status: 404, code: "route_unknown"},
	)
	refuse(t, w, list)
}

func testBadRecipes(t *testing.T, w *world.World) {
	var list []request
	add := func(name string, recipe ...string) {
		b, err := json.Marshal(map[string]any{"name": "bad", "recipe": recipe, "base_template": "minimal"})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, request{name: name, target: "POST /v1/builds", body: string(b), status: 400, field: "recipe"})
	}
	add("empty")
	add("an empty element", "RUN true", "")
	add("only a comment", "# nothing")
	add("unknown instruction", "FETCH x")
	add("two in one element", "RUN true\nENV A=1\nUSER x\nWORKDIR", "START")
	add("a heredoc without end", "RUN <<EOF\necho x")
	add("quotes that are not closed", `ENV A="x`)
	add("bad flags", "RUN --timeout", "RUN --timeout= x", "RUN --timout=1s x", "RUN --network=host x", "RUN --security=insecure x", "HEALTHCHECK --retries=-1 x")
	add("bad durations", "RUN --timeout=5 x", "RUN --timeout=-5s x", "RUN --timeout=1e9h x", "HEALTHCHECK --interval=0s x", "HEALTHCHECK --timeout=0s x")
	add("NUL", "RUN echo \x00")
	add("missing arguments", "RUN", "ENV", "ENV A", "WORKDIR", "USER", "FROM")
	add("an argument too long", "RUN "+strings.Repeat("x", 200<<10))
	many := make([]string, 10001)
	for i := range many {
		many[i] = "RUN true"
	}
	add("more than 10,000 steps", many...)
	add("more than 1 MB", "RUN true", "RUN echo "+strings.Repeat("y ", 30<<10), "ENV A="+strings.Repeat("z", 1<<20))
	refuse(t, w, list)
	for name, hc := range map[string]string{"interval of zero": "--interval=0s true", "negative retries": "--retries=-1 true", "no command": "--interval=1s", "bad flag": "--intervall=1s true", "timeout": "--timeout=-1s true"} {
		refuse(t, w, []request{{name: "healthcheck: " + name, target: "POST /v1/builds", body: buildWith("healthcheck", quote(t, hc)), status: 400, field: "healthcheck"}})
	}
	for name, recipe := range map[string]string{
		"binary":    "RUN \x7fELF\xff\xfe\x00",
		"oversized": "RUN true\n" + strings.Repeat("# comment\n", 200<<10),
		"empty":     "",
		"10,001":    strings.Repeat("RUN true\n", 10001),
	} {
		t.Run("command line: "+name, func(t *testing.T) {
			r := w.In(t).RunInput(recipe, "build", "-t", "bad", "-f", "-")
			if r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "try:") || len(r.Stderr) > 64<<10 {
				t.Errorf("exit code %d, stdout %q, stderr %.500q, want 1, nothing and a remedy", r.Code, r.Stdout, r.Stderr)
			}
		})
	}
}

func quote(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tarOf is an archive with one entry.
func tarOf(t *testing.T, h *tar.Header, content string) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	h.Size = int64(len(content))
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(content))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func testBadBases(t *testing.T, w *world.World) {
	file := func(name string) string { return tarOf(t, &tar.Header{Name: name, Mode: 0o644}, "x") }
	link := func(kind byte, name, to string) string {
		return tarOf(t, &tar.Header{Name: name, Linkname: to, Typeflag: kind, Mode: 0o644}, "")
	}
	var list []request
	add := func(name, kind, body string, status int) {
		list = append(list, request{name: name, target: "POST /v1/templates/import?kind=" + kind, body: body, status: status})
	}
	add("leaves its root", "tar", file("../../etc/evil"), 400)
	add("leaves its root in between", "tar", file("a/../../evil"), 400)
	add("a hard link out", "tar", link(tar.TypeLink, "x", "../../etc/passwd"), 400)
	add("a hard link to nothing", "tar", link(tar.TypeLink, "x", "nothing"), 400)
	add("no tar", "tar", strings.Repeat("not a tar ", 200), 400)
	add("cut", "tar", file("x")[:600], 400)
	add("no layout", "oci", file("x"), 400)
	add("a layout that leaves", "oci", file("../index.json"), 400)
	add("a bad index", "oci", tarOf(t, &tar.Header{Name: "index.json", Mode: 0o644}, "{{{"), 400)
	add("unknown kind", "zip", "PK", 400)
	refuse(t, w, list)
}

// testBadPaths asks for files that are not the caller's to name.
func testBadPaths(t *testing.T, w *world.World) {
	id := create(t, w, "minimal").ID
	target := func(query string) string { return "/v1/sandboxes/" + id + "/files" + query }
	refuse(t, w, []request{
		{name: "no path", target: "GET " + target(""), status: 400},
		{name: "an empty path", target: "GET " + target("?path="), status: 400},
		{name: "NUL", target: "GET " + target("?path=/etc/passwd%00.txt"), status: 400},
		{name: "unknown user", target: "GET " + target("?path=/etc/passwd&user=nosuch"), status: 400},
		{name: "a file of root's as nobody", target: "GET " + target("?path=/etc/shadow&user=nobody"), status: 403},
		{name: "a folder", target: "GET " + target("?path=/etc"), status: 400},
		{name: "nothing", target: "GET " + target("?path=/no/such"), status: 404},
		{name: "a write of nobody's", target: "PUT " + target("?path=/etc/new&user=nobody"), body: "x", status: 403},
		{name: "a write to the daemon", target: "PUT " + target("?path=/.lehr/lehr-init"), body: "x", status: 403},
	})
	// Dots lead nowhere but inside the sandbox.
	status, body := callFile(t, w, "GET "+id, "/../../../../etc/hostname", "")
	if status != 200 || body == "" {
		t.Errorf("dots above the root = %d %q, want the sandbox's own file", status, body)
	}
	inside := w.OK("sandbox", "exec", id, "--", "cat", "/etc/hostname")
	if body != inside {
		t.Errorf("dots above the root lead to %q, want the sandbox's %q", body, inside)
	}
}

func testBadKeys(t *testing.T, w *world.World) {
	var k struct{ ID, Name, Key string }
	w.JSON(&k, "keys", "create", "revoked")
	w.OK("keys", "revoke", k.ID)
	wrong := []string{"", "lehr_", "lehr_" + strings.Repeat("0", 39), "lehr_" + strings.Repeat("z", 40), "' OR 1=1 --", strings.Repeat("a", 8000), k.Key, strings.ToUpper(w.Key()), w.Key() + "0", "Bearer " + w.Key()}
	for i, key := range wrong {
		for _, target := range []string{"GET /v1/builds", "POST /v1/builds", "DELETE /v1/sandboxes/sb00000000000000000000000000", "PUT /v1/sandboxes/sb00000000000000000000000000/files?path=/x", "GET /v1/keys"} {
			status, body := call(t, w, target, "{}", "X-API-Key", key)
			if status != http.StatusUnauthorized || strings.Contains(body, key) && key != "" {
				t.Errorf("wrong key %d, %s = %d %.200s, want 401 and not the key", i, target, status, body)
			}
		}
	}
}

func testBadArguments(t *testing.T, w *world.World) {
	for _, args := range [][]string{
		{"sandbox", "create", "minimal", "--cpus", "-1"},
		{"sandbox", "create", "minimal", "--memory", "99999999999999999999"},
		{"sandbox", "create", "minimal", "--ttl", "soon"},
		{"sandbox", "create", "minimal", "--memory", "x"},
		{"sandbox", "create", "minimal", "-e", "=x"},
		{"build", "-t", "UPPER CASE", "-f", "-"},
		{"build", "-t", "../../x", "-f", "-"},
		{"build", "-t", "x", "--memory", "1", "-f", "-"},
		{"build", "-t", "x", "--base", "dir:/no/such/folder", "-f", "-"},
		{"build", "-t", "x", "--base", "tar:/etc/passwd", "-f", "-"},
		{"build", "-t", "x", "--base", "oci:/etc", "-f", "-"},
		{"build", "-t", "x", "--healthcheck", "--interval=0s true", "-f", "-"},
		{"builds", "get", "../../etc"},
		{"builds", "logs", "bld-x"},
		{"builds", "cancel", ""},
		{"sandbox", "exec", "../x", "--", "true"},
		{"sandbox", "get", "sb\x1b[31m"},
		{"templates", "get", "a:b:c"},
		{"templates", "rm", "../../x"},
		{"run", "no such", "--", "true"},
	} {
		r := w.RunInput("RUN true", args...)
		if r.Code == 0 || r.Stdout != "" || !strings.Contains(r.Stderr, "lehr: ") || strings.Contains(r.Stderr, "panic") || strings.Contains(r.Stderr, "\x1b") {
			t.Errorf("lehr %q = exit code %d, stdout %q, stderr %.300q, want a refusal in a sentence", args, r.Code, r.Stdout, r.Stderr)
		}
	}
	if r := w.Run("up", "--data", w.Data(), "--listen", "127.0.0.1:0"); r.Code != 1 || !strings.Contains(r.Stderr, "data_in_use") {
		t.Errorf("a second lehr up on the folder = %d %q, want a refusal by name", r.Code, r.Stderr)
	}
}

// existing counts the rows of a world.
type existing struct{ builds, boxes, templates int }

func everything(t *testing.T, w *world.World) (e existing) {
	t.Helper()
	for what, count := range map[string]*int{"builds ls": &e.builds, "sandbox ls --all": &e.boxes, "templates ls": &e.templates} {
		var rows []json.RawMessage
		w.JSON(&rows, append(strings.Fields(what), "--limit", "0")...)
		*count = len(rows)
	}
	return e
}
