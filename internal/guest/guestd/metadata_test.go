package guestd_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// metadata returns what Stat tells of path.
func (d *daemon) metadata(t *testing.T, path string) map[string]any {
	t.Helper()
	status, answer := d.rpc(t, "filesystem.Filesystem/Stat", `{"path":"`+path+`"}`)
	if status != http.StatusOK {
		t.Fatalf("Stat %s = %d %v", path, status, answer)
	}
	m, _ := answer["entry"].(map[string]any)["metadata"].(map[string]any)
	return m
}

// put uploads content to path with headers and returns the answer.
func (d *daemon) put(t *testing.T, path, content string, header map[string]string) (int, string) {
	t.Helper()
	h := map[string]string{wire.HeaderToken: "token", "Content-Type": "application/octet-stream"}
	for k, v := range header {
		h[k] = v
	}
	resp, text := d.call(t, http.MethodPost, "/files?path="+path, h, content)
	return resp.StatusCode, text
}

// needAttributes skips where the tests' own file system keeps no attributes.
func needAttributes(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Setxattr(dir, "user.test", []byte("x"), 0); err != nil {
		t.Skipf("SKIP-ENV: %s keeps no extended attributes: %v", dir, err)
	}
}

// Metadata travels with uploads, is shown by every look, moves with the file
// and is replaced as a whole.
func TestMetadata(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := openDir(t)
	needAttributes(t, dir)
	path := filepath.Join(dir, "f")
	status, text := d.put(t, path, "x", map[string]string{"X-Metadata-Author": "mish", "x-metadata-purpose": "a b"})
	var answer []map[string]any
	must(t, json.Unmarshal([]byte(text), &answer))
	want := map[string]any{"author": "mish", "purpose": "a b"}
	if diff := cmp.Diff(want, answer[0]["metadata"]); status != 200 || diff != "" {
		t.Errorf("upload = %d, metadata (-want +got):\n%s", status, diff)
	}
	if diff := cmp.Diff(want, d.metadata(t, path)); diff != "" {
		t.Errorf("Stat: metadata (-want +got):\n%s", diff)
	}
	_, list := d.rpc(t, "filesystem.Filesystem/ListDir", `{"path":"`+dir+`"}`)
	if diff := cmp.Diff(any(want), list["entries"].([]any)[0].(map[string]any)["metadata"]); diff != "" {
		t.Errorf("ListDir: metadata (-want +got):\n%s", diff)
	}
	_, moved := d.rpc(t, "filesystem.Filesystem/Move", `{"source":"`+path+`","destination":"`+path+`2"}`)
	if diff := cmp.Diff(any(want), moved["entry"].(map[string]any)["metadata"]); diff != "" {
		t.Errorf("Move: metadata (-want +got):\n%s", diff)
	}
	d.put(t, path+"2", "x", map[string]string{"X-Metadata-Other": ""})
	if diff := cmp.Diff(map[string]any{"other": ""}, d.metadata(t, path+"2")); diff != "" {
		t.Errorf("after other metadata (-want +got):\n%s", diff)
	}
	d.put(t, path+"2", "x", nil)
	if got := d.metadata(t, path+"2"); got != nil {
		t.Errorf("after an upload without metadata: %v, want none", got)
	}
	must(t, unix.Setxattr(path+"2", "user.e2b.own", []byte("no \xff text"), 0))
	must(t, unix.Setxattr(path+"2", "user.other", []byte("x"), 0))
	if diff := cmp.Diff(map[string]any{"own": "no \uFFFD text"}, d.metadata(t, path+"2")); diff != "" {
		t.Errorf("attributes of the user's own (-want +got):\n%s", diff)
	}
}

// What no file can carry is refused before anything changes.
func TestMetadataRefused(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := openDir(t)
	path := filepath.Join(dir, "f")
	must(t, os.WriteFile(path, []byte("kept"), 0o644))
	for name, header := range map[string]map[string]string{
		"long key":   {"X-Metadata-" + strings.Repeat("k", 247): "x"},
		"no ASCII":   {"X-Metadata-K": "\xc3\xa9"},
		"large":      {"X-Metadata-K": strings.Repeat("v", 4096)},
		"many large": {"X-Metadata-A": strings.Repeat("v", 2048), "X-Metadata-B": strings.Repeat("v", 2048)},
	} {
		if status, text := d.put(t, path, "new", header); status != 400 || !strings.Contains(text, "metadata") {
			t.Errorf("%s: %d %s, want 400", name, status, text)
		}
	}
	// A file system that keeps none says so, and has no half-made file.
	const memory = "/proc/self/comm"
	if status, text := d.put(t, memory, "x", map[string]string{"X-Metadata-K": "v"}); status != 501 || !strings.Contains(text, "keeps no metadata") {
		t.Errorf("metadata where none is kept: %d %s, want 501", status, text)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "kept" {
		t.Errorf("the file is %q, %v; want it untouched", got, err)
	}
}
