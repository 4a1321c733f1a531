package config

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzUp loads settings of any text. What is taken is within its bounds.
func FuzzUp(f *testing.F) {
	f.Add("workers", "2", "127.0.0.1:5347")
	f.Add("workers", "-1", ":0")
	f.Add("domain", "a..b", "[::1]:http")
	f.Add("public-url", "http://[::1", "x")
	f.Add("data", "/tmp/\x00", "")
	f.Fuzz(func(t *testing.T, name, value, listen string) {
		source := func(key string) (string, bool) {
			switch key {
			case "data":
				return t.TempDir(), true
			case name:
				return value, true
			case "listen":
				return listen, true
			}
			return "", false
		}
		up, err := LoadUp(source)
		if err == nil && up.Workers < 1 {
			t.Errorf("LoadUp(%q = %q) = %d workers", name, value, up.Workers)
		}
	})
}

// FuzzFiles reads any file as the registries, as docker's logins and as the
// entry of a server.
func FuzzFiles(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwYXNz"}}}`), "docker.io")
	f.Add([]byte(`{"auths":{"x":{"auth":"!"}}}`), "x")
	f.Add([]byte(`{"registries":{"a":{}},"aliases":{"b":"c"}}`), "a")
	f.Add([]byte(`{"url":"http://127.0.0.1:1","key":"k","pid":1}`), "")
	f.Fuzz(func(t *testing.T, b []byte, host string) {
		dir := t.TempDir()
		path := filepath.Join(dir, "file.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if login, found, err := DockerLogin(path, host); err != nil && found {
			t.Errorf("DockerLogin = %+v and %v", login, err)
		}
		if r, err := ReadRegistries(path); err == nil {
			_, _ = r.Login(host)
		}
		if s, err := FindServer(dir, "", func(int) bool { return true }); err == nil && s.URL == "" {
			t.Errorf("FindServer = %+v", s)
		}
	})
}
