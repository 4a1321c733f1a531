package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
)

func source(m map[string]string) Source {
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

func TestLoadUpDefaultsAndOrder(t *testing.T) {
	up, err := LoadUp(source(nil))
	if err != nil || up.Listen != DefaultListen || up.Data != DefaultData || up.Workers != DefaultWorkers {
		t.Errorf("LoadUp(nothing) = %+v, %v, want the defaults", up, err)
	}
	flags := source(map[string]string{"workers": "4"})
	env := Environment(func(name string) (string, bool) {
		v, ok := map[string]string{"LEHR_WORKERS": "8", "LEHR_LOG_LEVEL": "debug"}[name]
		return v, ok
	})
	up, err = LoadUp(Layered(flags, env))
	if err != nil || up.Workers != 4 || up.LogLevel != "debug" {
		t.Errorf("LoadUp = %+v, %v, want workers from the flag and the level from the environment", up, err)
	}
}

func TestLoadUpReportsEverything(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadUp(source(map[string]string{"data": file, "listen": "nowhere", "workers": "none", "log-level": "loud"}))
	if !errs.IsKind(err, errs.Invalid) {
		t.Fatalf("LoadUp = %v, want Invalid", err)
	}
	for _, name := range []string{"--data", "--listen", "--workers", "--log-level"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("LoadUp = %v, want %s in it", err, name)
		}
	}
}

func TestServers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "servers")
	now := time.Now().UTC()
	old := Server{URL: "http://127.0.0.1:1", Key: "old", PID: 1, Started: now.Add(-time.Hour)}
	young := Server{URL: "http://[::1]:2", Key: "young", PID: 2, Started: now}
	for addr, s := range map[string]Server{"127.0.0.1:1": old, "[::1]:2": young} {
		path, err := WriteServer(dir, addr, s)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v, want 0600", path, info.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "torn.json"), []byte(`{"url":`), 0o600); err != nil {
		t.Fatal(err)
	}
	all := func(int) bool { return true }
	if s, err := FindServer(dir, "", all); err != nil || s.Key != "young" {
		t.Errorf("FindServer = %+v, %v, want the newest", s, err)
	}
	if s, err := FindServer(dir, "", func(pid int) bool { return pid == 1 }); err != nil || s.Key != "old" {
		t.Errorf("FindServer = %+v, %v, want the one alive", s, err)
	}
	if s, err := FindServer(dir, "http://127.0.0.1:1/", all); err != nil || s.Key != "old" {
		t.Errorf("FindServer by URL = %+v, %v", s, err)
	}
	if _, err := FindServer(dir, "http://elsewhere:1", all); errs.CodeOf(err) != "key_missing" {
		t.Errorf("FindServer of an unknown URL = %v, want key_missing", err)
	}
	if _, err := FindServer(t.TempDir(), "", all); errs.CodeOf(err) != "server_missing" {
		t.Errorf("FindServer in an empty folder = %v, want server_missing", err)
	}
}

func TestServersDir(t *testing.T) {
	env := map[string]string{"HOME": "/home/x"}
	getenv := func(k string) string { return env[k] }
	if got := ServersDir(getenv); got != "/home/x/.local/state/lehr/servers" {
		t.Errorf("ServersDir = %s", got)
	}
	env["XDG_STATE_HOME"] = "relative"
	if got := ServersDir(getenv); got != "/home/x/.local/state/lehr/servers" {
		t.Errorf("ServersDir with a relative XDG_STATE_HOME = %s, want it ignored", got)
	}
	env["HOME"] = ""
	if got := ServersDir(getenv); !filepath.IsAbs(got) {
		t.Errorf("ServersDir without HOME = %s, want an absolute path", got)
	}
	env["XDG_STATE_HOME"] = "/state"
	if got := ServersDir(getenv); got != "/state/lehr/servers" {
		t.Errorf("ServersDir = %s", got)
	}
}

func TestLoadUpRefusesWhatIsNoFolder(t *testing.T) {
	for _, data := range []string{"", "/" + strings.Repeat("x", maxData)} {
		if _, err := LoadUp(source(map[string]string{"data": data})); err == nil || !strings.Contains(err.Error(), "--data") {
			t.Errorf("LoadUp(data %q) = %v, want --data refused", data, err)
		}
	}
}

func TestEmptyVariablesAreNotSet(t *testing.T) {
	up, err := LoadUp(Environment(func(string) (string, bool) { return "", true }))
	if err != nil || up.Data != DefaultData || up.Listen != DefaultListen {
		t.Errorf("LoadUp = %+v, %v, want the defaults", up, err)
	}
}

func TestHostNames(t *testing.T) {
	up, err := LoadUp(source(map[string]string{"host-name": " a.example, b.example,"}))
	if err != nil || len(up.HostNames) != 2 || up.HostNames[0] != "a.example" || up.HostNames[1] != "b.example" {
		t.Errorf("LoadUp = %q, %v, want two names", up.HostNames, err)
	}
}

func TestDomainAndPublicURL(t *testing.T) {
	up, err := LoadUp(source(map[string]string{"domain": "Boxes.Example.com.", "public-url": "https://lehr.example.com:8443/"}))
	if err != nil || up.Domain != "boxes.example.com" || up.PublicURL.String() != "https://lehr.example.com:8443" {
		t.Errorf("LoadUp = %+v, %v, want both, in one form", up, err)
	}
	if len(up.HostNames) != 1 || up.HostNames[0] != "lehr.example.com" {
		t.Errorf("LoadUp = %q, want the public URL's name to be one of ours", up.HostNames)
	}
	if up, err = LoadUp(source(nil)); err != nil || up.Domain != DefaultDomain || up.PublicURL != nil {
		t.Errorf("LoadUp(nothing) = %q, %v, %v, want localhost and no URL", up.Domain, up.PublicURL, err)
	}
	for _, domain := range []string{"", ".", "a..b", "127.0.0.1", "::1", "a b", "a:80", "*.example.com", "-a", "a_b", "ä.example", strings.Repeat("a.", 120) + "a", "http://a"} {
		if _, err := LoadUp(source(map[string]string{"domain": domain})); err == nil || !strings.Contains(err.Error(), "--domain") {
			t.Errorf("LoadUp(domain %q) = %v, want it refused", domain, err)
		}
	}
	for _, url := range []string{"lehr.example.com", "ftp://a", "https://", "https://a/path", "https://a?q", "https://u:p@a", "https://a#f", "https://a:0", "https://a:99999", "https://a b"} {
		if _, err := LoadUp(source(map[string]string{"public-url": url})); err == nil || !strings.Contains(err.Error(), "--public-url") {
			t.Errorf("LoadUp(public-url %q) = %v, want it refused", url, err)
		}
	}
}
