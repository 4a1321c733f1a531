package config

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func writeText(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadRegistries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeText(t, dir, "pw", "hunter2\n")
	docker := writeText(t, dir, "config.json", `{"auths":{
	  "https://index.docker.io/v1/":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("me:pa:ss"))+`"},
	  "token.example.com":{"registrytoken":"tok"},
	  "identity.example.com":{"identitytoken":"x"},
	  "broken.example.com":{"auth":"%%%"},
	  "helped.example.com":{}},
	  "credHelpers":{"ecr.example.com":"ecr-login"}}`)
	path := writeText(t, dir, "registries.json", `{
	  "registries":{"LOCALHOST:5000":{"username":"u","password_file":"pw","plain_http":true,"private":true},"index.docker.io":{"mirror":"mirror.example.com"}},
	  "docker_config":"config.json",
	  "aliases":{"python:3.12":"template:python:3.12","x.example.com/a":"oci:layouts/a","x.example.com/b:1":"oci:/srv/b:one"}}`)
	got, err := ReadRegistries(path)
	if err != nil {
		t.Fatalf("ReadRegistries() = %v", err)
	}
	want := Registries{
		Hosts: map[string]Registry{
			"localhost:5000": {Username: "u", PasswordFile: filepath.Join(dir, "pw"), PlainHTTP: true, Private: true},
			"docker.io":      {Mirror: "mirror.example.com"},
		},
		DockerConfig: docker,
		Aliases: []Alias{
			{Image: lehr.ImageRef{Registry: "docker.io", Repository: "library/python", Tag: "3.12"}, Template: "python:3.12"},
			{Image: lehr.ImageRef{Registry: "x.example.com", Repository: "a", Tag: "latest"}, Layout: filepath.Join(dir, "layouts/a")},
			{Image: lehr.ImageRef{Registry: "x.example.com", Repository: "b", Tag: "1"}, Layout: "/srv/b", Name: "one"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ReadRegistries() (-want +got):\n%s", diff)
	}
	for host, want := range map[string]RegistryLogin{
		"localhost:5000": {Username: "u", Password: "hunter2"}, "docker.io": {Username: "me", Password: "pa:ss"},
		"token.example.com": {Token: "tok"}, "other.example.com": {},
	} {
		if login, err := got.Login(host); err != nil || login != want {
			t.Errorf("Login(%s) = %+v, %v, want %+v", host, login, err, want)
		}
	}
	for host, want := range map[string]errs.Kind{
		"identity.example.com": errs.Unsupported, "broken.example.com": errs.Invalid,
		"helped.example.com": errs.Unsupported, "ecr.example.com": errs.Unsupported,
	} {
		if _, err := got.Login(host); !errs.IsKind(err, want) {
			t.Errorf("Login(%s) = %v, want kind %s", host, err, want)
		}
	}
	ref, _ := lehr.ParseImageRef("python:3.12@sha256:" + strings.Repeat("ab", 32))
	if a, ok := got.Alias(ref); !ok || a.Template != "python:3.12" {
		t.Errorf("Alias(python:3.12 with a digest) = %+v, %v", a, ok)
	}
}

// Everything that is wrong is said at once, and nothing of a secret.
func TestReadRegistriesRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, parts := range map[string][]string{
		`{`:                   {"not the JSON"},
		`{"registrys":{}}`:    {"registrys"},
		`{} {}`:               {"something after"},
		`{"registries":"x"}`:  {"not the JSON"},
		`{"aliases":{"x":1}}`: {"not the JSON"},
		`{"registries":{"https://x":{},"a.b":{"username":"u"},"c.d":{"token_file":"t","username":"u","password_file":"p"},"e.f":{"mirror":"e.f"}},
		  "aliases":{"X":"template:a","a":"nothing","b":"oci:","c":"template:-","d@sha256:` + strings.Repeat("0", 64) + `":"template:d"}}`: {
			`"https://x" is not a registry`, "a.b: username and password_file", "c.d: token_file stands", "e.f is its own mirror",
			`alias "X"`, `alias "a": "nothing"`, "names no path", `alias "c"`, "not for a digest",
		},
		strings.Repeat(" ", maxRegistriesFile+1): {"more than"},
	} {
		_, err := ReadRegistries(writeText(t, t.TempDir(), "f.json", text))
		for _, part := range parts {
			if errs.CodeOf(err) != "registries_file_invalid" || !strings.Contains(err.Error(), part) {
				t.Errorf("ReadRegistries(%.60q) = %v, want %q", text, err, part)
			}
		}
	}
	if _, err := ReadRegistries(filepath.Join(dir, "missing")); !errs.IsKind(err, errs.Invalid) {
		t.Errorf("ReadRegistries(missing) = %v, want invalid", err)
	}
	r := Registries{Hosts: map[string]Registry{"x": {TokenFile: writeText(t, dir, "two", "secret-a\nsecret-b\n")}}}
	if _, err := r.Login("x"); err == nil || strings.Contains(err.Error(), "secret-") {
		t.Errorf("Login(two lines) = %v, want an error without the secret", err)
	}
	bad := writeText(t, dir, "bad.json", `{"auths":{"x":{"auth":5,"password":"secret-c"}}`)
	if _, _, err := DockerLogin(bad, "x"); err == nil || strings.Contains(err.Error(), "secret-") {
		t.Errorf("DockerLogin(damaged) = %v, want an error without the secret", err)
	}
}
