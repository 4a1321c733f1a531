package lehr

import (
	"strings"
	"testing"
)

func TestParseImageRef(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("ab", 32)
	for in, want := range map[string]string{
		"python":                             "docker.io/library/python:latest",
		"python:3.12":                        "docker.io/library/python:3.12",
		"python:3.12-Slim":                   "docker.io/library/python:3.12-Slim",
		"python@" + digest:                   "docker.io/library/python@" + digest,
		"python:3.12@" + digest:              "docker.io/library/python:3.12@" + digest,
		"someone/thing":                      "docker.io/someone/thing:latest",
		"a/b/c":                              "docker.io/a/b/c:latest",
		"docker.io/python":                   "docker.io/library/python:latest",
		"index.docker.io/library/python":     "docker.io/library/python:latest",
		"registry-1.docker.io/x/y:z":         "docker.io/x/y:z",
		"ghcr.io/x/y__z:1":                   "ghcr.io/x/y__z:1",
		"GHCR.io/x/y":                        "ghcr.io/x/y:latest",
		"localhost/x":                        "localhost/x:latest",
		"localhost:5000/x:y":                 "localhost:5000/x:y",
		"127.0.0.1:5000/team/x@" + digest:    "127.0.0.1:5000/team/x@" + digest,
		"[::1]:5000/x":                       "[::1]:5000/x:latest",
		"[fe80::1]/x":                        "[fe80::1]/x:latest",
		"registry.example.com/deep/er/x:tag": "registry.example.com/deep/er/x:tag",
	} {
		got, err := ParseImageRef(in)
		if err != nil || got.String() != want {
			t.Errorf("ParseImageRef(%q) = %q, %v, want %q", in, got, err, want)
		}
		again, err := ParseImageRef(got.String())
		if err != nil || again != got {
			t.Errorf("ParseImageRef(%q) = %+v, %v, want %+v", got, again, err, got)
		}
	}
	for _, in := range []string{
		"", ":", "/", "x/", "/x", "x:", "X", "x y", "x//y", "../x", "./x", "x/../y", "x@", "x@sha256:ab", "x@sha512:" + strings.Repeat("ab", 64),
		"https://ghcr.io/x", "user:pass@host/x", "host:port/x", "host.:5000/x", "-a.b/x", "[::1/x", "[1.2.3.4]/x", "a.b:0/x", "a.b:99999/x",
		"a.b:+1/x", "x:" + strings.Repeat("t", 129), strings.Repeat("x", 256), strings.Repeat("x", 600), "x\n", "x:a\x00", "[fe80::1%eth0]/x",
	} {
		if got, err := ParseImageRef(in); err == nil {
			t.Errorf("ParseImageRef(%q) = %q, want an error", in, got)
		}
	}
}

func FuzzParseImageRef(f *testing.F) {
	for _, s := range []string{"python:3.12", "localhost:5000/x@sha256:" + strings.Repeat("ab", 32), "[::1]:1/x", "a.b/c/d:e", "x@y@z", ":::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseImageRef(s)
		if err != nil {
			return
		}
		again, err := ParseImageRef(r.String())
		if err != nil || again != r {
			t.Errorf("ParseImageRef(%q) = %+v, which is read as %+v, %v", s, r, again, err)
		}
		if host, err := ParseRegistry(r.Registry); err != nil || host != r.Registry {
			t.Errorf("ParseRegistry(%q) = %q, %v", r.Registry, host, err)
		}
		if strings.Contains(r.Repository, "..") || strings.HasPrefix(r.Repository, "/") || strings.ContainsAny(r.String(), " \n\x00?#%\\") {
			t.Errorf("ParseImageRef(%q) = %q, which is no plain path", s, r)
		}
	})
}
