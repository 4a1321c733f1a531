package guestd_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// rpc makes a unary Connect call in JSON, as the SDKs do.
func (d *daemon) rpc(t *testing.T, method, body string) (status int, answer map[string]any) {
	t.Helper()
	resp, text := d.call(t, http.MethodPost, "/"+method, asJSON(wire.HeaderToken, "token"), body)
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("%s %s: %s: %v", method, body, text, err)
	}
	return resp.StatusCode, answer
}

func TestFilesystemService(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := openDir(t)
	must(t, os.MkdirAll(filepath.Join(dir, "d/e"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "d/f"), []byte("12345"), 0o640))
	must(t, os.Symlink("d/f", filepath.Join(dir, "link")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	q := func(s string) string { b, _ := json.Marshal(filepath.Join(dir, s)); return string(b) }

	tests := []struct {
		name, method, body string
		status             int
		want               map[string]any // a part of the answer's entry, or of the answer
	}{
		{"stat file", "Stat", `{"path":` + q("d/f") + `}`, 200, map[string]any{
			"name": "f", "type": "FILE_TYPE_FILE", "size": "5", "mode": float64(0o640),
			"permissions": "-rw-r-----", "owner": "root", "group": "root",
		}},
		{"stat directory", "Stat", `{"path":` + q("d") + `}`, 200, map[string]any{"type": "FILE_TYPE_DIRECTORY"}},
		{"stat link", "Stat", `{"path":` + q("link") + `}`, 200, map[string]any{
			"name": "link", "type": "FILE_TYPE_FILE", "symlinkTarget": filepath.Join(dir, "d/f"), "mode": float64(0o640),
		}},
		{"stat dangling link", "Stat", `{"path":` + q("dangling") + `}`, 200, map[string]any{"type": nil}},
		{"stat nothing", "Stat", `{"path":` + q("absent") + `}`, 404, map[string]any{"code": "not_found"}},
		{"make directories", "MakeDir", `{"path":` + q("m/n") + `}`, 200, map[string]any{"name": "n", "type": "FILE_TYPE_DIRECTORY"}},
		{"make it again", "MakeDir", `{"path":` + q("m/n") + `}`, 409, map[string]any{"code": "already_exists"}},
		{"make it over a file", "MakeDir", `{"path":` + q("d/f") + `}`, 400, map[string]any{"code": "invalid_argument"}},
		{"move", "Move", `{"source":` + q("m") + `,"destination":` + q("new/place") + `}`, 200, map[string]any{"path": filepath.Join(dir, "new/place")}},
		{"move nothing", "Move", `{"source":` + q("m") + `,"destination":` + q("x") + `}`, 404, map[string]any{"code": "not_found"}},
		{"list a file", "ListDir", `{"path":` + q("d/f") + `}`, 400, map[string]any{"code": "invalid_argument"}},
		{"list nothing", "ListDir", `{"path":` + q("absent") + `}`, 404, map[string]any{"code": "not_found"}},
		{"remove", "Remove", `{"path":` + q("new") + `}`, 200, nil},
		{"remove nothing", "Remove", `{"path":` + q("new") + `}`, 200, nil},
		{"remove everything", "Remove", `{"path":"/"}`, 400, map[string]any{"code": "invalid_argument"}},
		{"watch a file", "CreateWatcher", `{"path":` + q("d/f") + `}`, 400, map[string]any{"code": "invalid_argument"}},
		{"watch nothing", "CreateWatcher", `{"path":` + q("absent") + `}`, 404, map[string]any{"code": "not_found"}},
		{"events of nothing", "GetWatcherEvents", `{"watcherId":"w1"}`, 404, map[string]any{"code": "not_found"}},
		{"remove no watcher", "RemoveWatcher", `{"watcherId":"w1"}`, 404, map[string]any{"code": "not_found"}},
	}
	for _, tt := range tests {
		status, answer := d.rpc(t, "filesystem.Filesystem/"+tt.method, tt.body)
		if entry, ok := answer["entry"].(map[string]any); ok {
			answer = entry
		}
		if status != tt.status {
			t.Errorf("%s: %s %s = %d %v, want %d", tt.name, tt.method, tt.body, status, answer, tt.status)
		}
		for k, want := range tt.want {
			if diff := cmp.Diff(want, answer[k]); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", tt.name, k, diff)
			}
		}
	}
}

func TestListDir(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := openDir(t)
	must(t, os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
	must(t, os.Symlink("a", filepath.Join(dir, "z")))
	for depth, want := range map[string][]any{
		"0": {"a", "z"},
		"1": {"a", "z"},
		"2": {"a", "b", "z"},
		"9": {"a", "b", "c", "z"},
	} {
		_, answer := d.rpc(t, "filesystem.Filesystem/ListDir", `{"path":"`+dir+`","depth":`+depth+`}`)
		var got []any
		entries, _ := answer["entries"].([]any)
		for _, e := range entries {
			got = append(got, e.(map[string]any)["name"])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ListDir depth %s (-want +got):\n%s", depth, diff)
		}
	}
}

// A name that is no text spoils neither its listing nor the path of its file.
func TestNamesThatAreNoText(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := openDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "a\xffb"), []byte("content"), 0o644))
	must(t, os.Symlink("a\xffb", filepath.Join(dir, "link")))
	_, answer := d.rpc(t, "filesystem.Filesystem/ListDir", `{"path":"`+dir+`"}`)
	var got []any
	entries, _ := answer["entries"].([]any)
	for _, e := range entries {
		got = append(got, e.(map[string]any)["name"])
	}
	if diff := cmp.Diff([]any{"a\uFFFDb", "link"}, got); diff != "" {
		t.Errorf("ListDir (-want +got):\n%s", diff)
	}
	resp, text := d.call(t, http.MethodGet, "/files?path="+dir+"/a%FFb", asJSON(wire.HeaderToken, "token"), "")
	if resp.StatusCode != 200 || text != "content" {
		t.Errorf("GET /files = %d %q, want the content", resp.StatusCode, text)
	}
}
