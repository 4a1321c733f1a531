package e2e

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lehr-dev/lehr/test/world"
)

// callFile reads or writes a file of a sandbox over REST, target being "METHOD ID".
func callFile(t *testing.T, w *world.World, target, path, body string) (int, string) {
	t.Helper()
	method, id, _ := strings.Cut(target, " ")
	address := w.URL() + "/v1/sandboxes/" + id + "/files?path=" + url.QueryEscape(path)
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", w.Key())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// testSecretsStayAway gives a secret to everything that takes one and looks for
// it where it must not be: in logs, on command lines, in the database, in images
// and snapshots.
func testSecretsStayAway(t *testing.T, w *world.World) {
	canary := func(name string) string { return "canary-" + name + "-" + rand(t) }
	secrets := map[string]string{}
	for _, name := range []string{"env", "exec-env", "stdin", "file", "argument", "metadata-free"} {
		secrets[name] = canary(name)
	}
	id := create(t, w, "abuse", "-e", "SECRET="+secrets["env"]).ID
	w.OK("sandbox", "exec", id, "-e", "SECRET="+secrets["exec-env"], "--", "/bin/sh", "-c", "test -n $SECRET; exit 0")
	w.OKInput(secrets["stdin"], "sandbox", "exec", id, "-i", "--", "/bin/sh", "-c", "cat > /dev/null")
	if status, body := callFile(t, w, "PUT "+id, "/tmp/secret", secrets["file"]); status/100 != 2 {
		t.Fatalf("PUT = %d %s", status, body)
	}
	w.Run("sandbox", "exec", id, "--", "/no/such", secrets["argument"])
	var k struct{ ID, Name, Key string }
	w.JSON(&k, "keys", "create", "canary")
	secrets["key"] = strings.TrimPrefix(k.Key, "lehr_")
	if status, _ := call(t, w, "GET /v1/builds", "", "X-API-Key", k.Key); status != 200 {
		t.Fatalf("a new key = %d", status)
	}
	call(t, w, "GET /v1/builds?key="+k.Key, "")
	call(t, w, "GET /v1/nothing/"+k.Key, "")
	// The environment of a sandbox is not that of its template's builds.
	b := mustBuild(t, w, "FROM abuse\nSTART sleep 100000\nHEALTHCHECK --interval=50ms --timeout=5s true", "-t", "canaries")
	if b.Artifact.SnapshotDigest == nil {
		t.Fatal("the build made no snapshot")
	}
	wantNowhere(t, w, secrets)
	// The search finds what is there.
	marker := canary("marker")
	if err := os.WriteFile(filepath.Join(w.Data(), "images", "marker"), []byte(strings.Repeat("x", 1<<20)+marker), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Join(w.Data(), "images", "marker"))
	if hits := search(t, w, map[string]string{"marker": marker}); len(hits) != 1 {
		t.Errorf("the search finds a marker %d times, want once: it is blind", len(hits))
	}
}

func wantNowhere(t *testing.T, w *world.World, secrets map[string]string) {
	t.Helper()
	for _, hit := range search(t, w, secrets) {
		t.Errorf("a secret is where it must not be: %s", hit)
	}
}

// search looks through everything the platform wrote, its output, and the
// command lines and environments of its processes.
func search(t *testing.T, w *world.World, secrets map[string]string) (hits []string) {
	t.Helper()
	look := func(where string, content []byte) {
		for name, secret := range secrets {
			if bytes.Contains(content, []byte(secret)) {
				hits = append(hits, fmt.Sprintf("%s in %s", name, where))
			}
		}
	}
	err := filepath.WalkDir(filepath.Dir(w.Data()), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what ended while it was looked at
		}
		b, err := os.ReadFile(path)
		if err == nil {
			look(path, b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range w.Processes() {
		look("a command line", []byte(p))
		dir := filepath.Dir(strings.Fields(p)[0])
		if b, err := os.ReadFile(filepath.Join(dir, "environ")); err == nil {
			look(dir+"/environ", b)
		}
	}
	return hits
}
