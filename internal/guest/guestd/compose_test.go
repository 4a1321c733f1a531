package guestd_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// Compose makes one file of several, or changes nothing.
func TestCompose(t *testing.T) {
	t.Parallel()
	d := initialised(t)
	dir := openDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, content string) string {
		must(t, os.WriteFile(at(name), []byte(content), 0o644))
		return at(name)
	}
	compose := func(username, destination string, sources ...string) (int, string) {
		body, err := json.Marshal(map[string]any{"source_paths": sources, "destination": destination, "username": username})
		must(t, err)
		resp, text := d.call(t, http.MethodPost, "/files/compose", asJSON(wire.HeaderToken, "token"), string(body))
		return resp.StatusCode, text
	}
	one, two := write("1", "one"), write("2", "two")
	must(t, os.Mkdir(at("sticky"), 0o777))
	must(t, os.Chmod(at("sticky"), 0o777|os.ModeSticky))
	// Complete, but the user may not remove what it was made of.
	status, text := compose("nobody", at("all"), write("sticky/kept", "x"))
	if status != 403 {
		t.Errorf("compose of what the user may not remove = %d %s, want 403", status, text)
	}
	status, text = compose("root", at("sub/all"), one, two, one)
	if want := `{"path":"` + at("sub/all") + `","name":"all","type":"file"}`; status != 200 || strings.TrimSpace(text) != want {
		t.Errorf("compose = %d %s, want %s", status, text, want)
	}
	if got, err := os.ReadFile(at("sub/all")); err != nil || string(got) != "onetwoone" {
		t.Errorf("the destination is %q, %v; want onetwoone", got, err)
	}
	for _, source := range []string{one, two} {
		if _, err := os.Lstat(source); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", source, err)
		}
	}

	kept, other := write("kept", "kept"), write("other", "other")
	private := write("private", "root's")
	must(t, os.Chmod(private, 0o600))
	must(t, syscall.Mkfifo(at("fifo"), 0o666))
	for name, tt := range map[string]struct {
		user, destination string
		sources           []string
		status            int
	}{
		"no sources":       {"root", kept, nil, 400},
		"no destination":   {"root", "", []string{other}, 400},
		"an empty source":  {"root", kept, []string{other, ""}, 400},
		"itself":           {"root", kept, []string{other, dir + "/x/../kept"}, 400},
		"a missing source": {"root", kept, []string{other, at("absent")}, 404},
		"a directory":      {"root", kept, []string{other, dir}, 400},
		"onto a directory": {"root", dir, []string{other}, 400},
		"a FIFO":           {"root", kept, []string{other, at("fifo")}, 400},
		"another's file":   {"nobody", at("new"), []string{other, private}, 403},
		"an unknown user":  {"ghost", kept, []string{other}, 401},
		"too many sources": {"root", kept, make([]string, 10_001), 400},
	} {
		if status, text := compose(tt.user, tt.destination, tt.sources...); status != tt.status {
			t.Errorf("%s: %d %s, want %d", name, status, text, tt.status)
		}
	}
	for path, want := range map[string]string{kept: "kept", other: "other", private: "root's"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want it untouched", path, got, err)
		}
	}
	left, err := filepath.Glob(at(".lehr-compose-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("compose left %v", left)
	}
}
