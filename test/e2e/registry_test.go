package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/lehr-dev/lehr/test/world"
)

// The login of private repositories. The password must be found nowhere.
const (
	registryUser   = "builder"
	registrySecret = "canary-hunter2-canary"
)

// harbour is a registry in this process. Repositories below private/ want the
// login; slow, when set, is asked before a blob is given out.
type harbour struct {
	t      *testing.T
	host   string
	images http.Handler

	mu    sync.Mutex
	blobs int
	slow  func(r *http.Request)
}

func newHarbour(t *testing.T) *harbour {
	t.Helper()
	h := &harbour{t: t, images: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	h.host = strings.TrimPrefix(server.URL, "http://")
	return h
}

func (h *harbour) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if r.URL.Path == "/v2/" && user == "" || strings.HasPrefix(r.URL.Path, "/v2/private/") && (user != registryUser || password != registrySecret) {
		w.Header().Set("WWW-Authenticate", `Basic realm="harbour"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		h.mu.Lock()
		h.blobs++
		slow := h.slow
		h.mu.Unlock()
		if slow != nil {
			slow(r)
		}
	}
	h.images.ServeHTTP(w, r)
}

func (h *harbour) fetched() int { h.mu.Lock(); defer h.mu.Unlock(); return h.blobs }

func (h *harbour) setSlow(f func(r *http.Request)) { h.mu.Lock(); defer h.mu.Unlock(); h.slow = f }

// push pushes an index with images for two platforms.
func (h *harbour) push(path string, img v1.Image) {
	h.t.Helper()
	ref, err := name.ParseReference(h.host + "/" + path)
	if err != nil {
		h.t.Fatal(err)
	}
	foreign, err := mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "s390x", RootFS: configOf(h.t, img).RootFS})
	if err != nil {
		h.t.Fatal(err)
	}
	index := mutate.AppendManifests(
		empty.Index,
		mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
	)
	if err := remote.WriteIndex(ref, index, remote.WithAuth(&authn.Basic{Username: registryUser, Password: registrySecret})); err != nil {
		h.t.Fatal(err)
	}
}

func configOf(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c.DeepCopy()
}

// busyboxImage is a small image that says something. Without links it has no
// shell, and without users no /etc/passwd, as distroless images.
func busyboxImage(t *testing.T, says string, whole bool) v1.Image {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is missing: tools/need.sh test installs it")
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	layers := []map[string]string{{"app/busybox": string(binary), "says": says + "\n"}}
	if whole {
		layers[0]["etc/passwd"] = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n"
		layers[0]["gone"], layers[0]["data/"] = "x", ""
		layers = append(layers, map[string]string{".wh.gone": ""})
		for _, link := range []string{"sh", "cat", "test", "sleep", "env", "id", "echo"} {
			layers[0]["bin/"+link] = "-> /app/busybox"
		}
	}
	img := empty.Image
	for _, files := range layers {
		if img, err = mutate.AppendLayers(img, layerOf(t, files)); err != nil {
			t.Fatal(err)
		}
	}
	c := configOf(t, img)
	c.OS, c.Architecture = "linux", "amd64"
	c.Config = v1.Config{Env: []string{"FROM_IMAGE=two words"}, WorkingDir: "/app", Cmd: []string{"/app/busybox", "cat", "/says"}}
	if whole {
		c.Config.Env = append(c.Config.Env, "PATH=/bin")
		c.Config.User = "app"
	}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func layerOf(t *testing.T, files map[string]string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for path, content := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: path, Size: int64(len(content)), Mode: 0o755}
		if target, link := strings.CutPrefix(content, "-> "); link {
			h.Typeflag, h.Linkname, h.Size, content = tar.TypeSymlink, target, 0, ""
		}
		if strings.HasSuffix(path, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o777
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// based is what a build says of a base from a registry.
type based struct {
	ID           string  `json:"id"`
	Status       string  `json:"status"`
	BaseTemplate string  `json:"base_template"`
	BaseImage    *string `json:"base_image"`
	TotalSteps   int     `json:"total_steps"`
	Steps        []struct {
		Phase       string `json:"phase"`
		Status      string `json:"status"`
		CacheReason string `json:"cache_reason"`
	} `json:"steps"`
	Error *struct {
		Code string `json:"code"`
	} `json:"error"`
}

// pulls is a world with a registry that its registries file names.
type pulls struct {
	*world.World
	t    *testing.T
	reg  *harbour
	file string
}

func newPulls(t *testing.T) *pulls {
	t.Helper()
	p := &pulls{t: t, reg: newHarbour(t), file: filepath.Join(t.TempDir(), "registries.json")}
	p.registries(fmt.Sprintf(`{"registries":{%q:{"plain_http":true,"private":true}}}`, p.reg.host))
	p.reg.push("team/base:v1", busyboxImage(t, "first", true))
	p.reg.push("private/base:v1", busyboxImage(t, "secret", true))
	p.World = world.Start(t, world.WithEnv("LEHR_REGISTRIES="+p.file))
	return p
}

func (p *pulls) registries(text string) {
	p.t.Helper()
	if err := os.WriteFile(p.file+".new", []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(p.file+".new", p.file); err != nil {
		p.t.Fatal(err)
	}
}

// recipeFile writes a plain Dockerfile on a base.
func (p *pulls) recipeFile(base, rest string) string {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), "Dockerfile")
	if err := os.WriteFile(path, []byte("FROM "+p.reg.host+"/"+base+"\n"+rest+"\n"), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// build builds a Dockerfile and returns the build and what was said.
func (p *pulls) build(file, stdin string, args ...string) (based, world.Result) {
	p.t.Helper()
	r := p.RunInput(stdin, append([]string{"--output", "json", "build", "-f", file}, args...)...)
	var b based
	if r.Stdout != "" {
		decode(p.t, r, &b)
	}
	return b, r
}

func (p *pulls) must(file, stdin string, args ...string) based {
	p.t.Helper()
	b, r := p.build(file, stdin, args...)
	if b.Status != "success" {
		p.t.Fatalf("build = %+v, exit code %d\n%s\n%s", b, r.Code, r.Stderr, p.Log())
	}
	return b
}

func (p *pulls) refused(r world.Result, code string) {
	p.t.Helper()
	if r.Code != 1 || !strings.Contains(r.Stderr, code) || strings.Contains(r.Stderr, "canary") {
		p.t.Errorf("exit code %d, want 1 and %q without the password\n%s", r.Code, code, r.Stderr)
	}
}

// TestRegistry builds on images of a registry, with real sandboxes.
func TestRegistry(t *testing.T) {
	t.Parallel()
	p := newPulls(t)
	for _, tt := range []struct {
		name string
		f    func(*pulls)
	}{
		{"dockerfile", (*pulls).dockerfile},
		{"moved tag", (*pulls).movedTag},
		{"no shell", (*pulls).noShell},
		{"login", (*pulls).login},
		{"refusals", (*pulls).refusals},
		{"alias", (*pulls).alias},
	} {
		ok := t.Run(tt.name, func(t *testing.T) {
			sub := *p
			sub.t, sub.World, sub.reg.t = t, p.In(t), t
			tt.f(&sub)
		})
		p.reg.t = t
		if !ok {
			t.FailNow()
		}
	}
	p.cancelAndKill() // no subtest: it ends and starts the world
	p.nowhere("at the end")
}

func (p *pulls) dockerfile() {
	b := p.must(p.recipeFile("team/base:v1", `RUN echo "$FROM_IMAGE" > /data/env && id -u >> /data/env && test ! -e /gone`+"\nENV MORE=1"), "", "-t", "plain")
	if want := p.reg.host + "/team/base:v1"; b.BaseTemplate != want || b.BaseImage == nil || !strings.HasPrefix(*b.BaseImage, want+"@sha256:") {
		p.t.Errorf("base_template %q, base_image %v, want %s and its digest", b.BaseTemplate, b.BaseImage, want)
	}
	if b.TotalSteps != 6 || len(b.Steps) != 6 {
		p.t.Fatalf("steps = %d of %d, want 6 of 6", len(b.Steps), b.TotalSteps)
	}
	for _, s := range b.Steps {
		if s.Status != "success" || (s.Phase != "recipe") != (s.CacheReason == "the base has no apt") {
			p.t.Errorf("step = %+v, want success, and pre- and post-build left out", s)
		}
	}
	if got := p.OK("run", "plain"); got != "first\n" {
		p.t.Errorf("run without a command = %q, want the image's CMD", got)
	}
	if got := p.OK("run", "plain", "--", "sh", "-c", "cat /data/env; pwd; echo $FROM_IMAGE$MORE; id -u"); got != "two words\n1000\n/app\ntwo words1\n1000\n" {
		p.t.Errorf("in a sandbox = %q, want the image's configuration", got)
	}
}

// Another build of the same image fetches nothing; a tag that moved is seen.
func (p *pulls) movedTag() {
	file := p.recipeFile("team/base:v1", "RUN cat /says > /data/said")
	before := p.reg.fetched()
	one := p.must(file, "", "-t", "moved:one", "--skip-pre-post")
	if got := p.reg.fetched() - before; got > 1 {
		p.t.Errorf("%d blobs were fetched for an image that is there, want the configuration at most", got)
	}
	p.reg.push("team/base:v1", busyboxImage(p.t, "second", true))
	two := p.must(file, "", "-t", "moved:two", "--skip-pre-post")
	if one.BaseImage == nil || two.BaseImage == nil || *one.BaseImage == *two.BaseImage {
		p.t.Errorf("base images %v and %v, want two digests", one.BaseImage, two.BaseImage)
	}
	if got := p.OK("run", "moved:one", "--", "cat", "/data/said") + p.OK("run", "moved:two", "--", "cat", "/data/said"); got != "first\nsecond\n" {
		p.t.Errorf("the two templates say %q", got)
	}
	digest := (*one.BaseImage)[strings.Index(*one.BaseImage, "@"):]
	pinned := p.must(p.recipeFile("team/base"+digest, "RUN cat /says > /data/said"), "", "-t", "moved:pinned", "--skip-pre-post")
	if got := p.OK("run", "moved:pinned", "--", "cat", "/data/said"); got != "first\n" {
		p.t.Errorf("the digest of the first image gives %q (%v)", got, *pinned.BaseImage)
	}
}

func (p *pulls) noShell() {
	p.reg.push("team/distroless:x", busyboxImage(p.t, "alone", false))
	b := p.must(p.recipeFile("team/distroless:x", `RUN ["/app/busybox", "touch", "/app/made"]`+"\nUSER 65532\n"+`RUN ["/app/busybox", "test", "-e", "/app/made"]`), "", "-t", "alone")
	if got := p.OK("run", "alone", "--", "/app/busybox", "id", "-u"); got != "65532\n" {
		p.t.Errorf("id = %q (%s)", got, b.ID)
	}
	_, r := p.build(p.recipeFile("team/distroless:x", "RUN echo x"), "", "-t", "alone:shell")
	p.refused(r, "/bin/sh")
}

// login pulls a private image with logins given in each way, and with none.
func (p *pulls) login() {
	file := p.recipeFile("private/base:v1", "RUN echo begun; sleep 1000")
	_, r := p.build(file, "", "-t", "private")
	p.refused(r, "registry_denied")
	_, r = p.build(file, "canary-wrong\n", "-t", "private", "--registry-user", registryUser, "--registry-password-stdin")
	p.refused(r, "registry_denied")
	body := fmt.Sprintf(`{"name":"private:api","recipe":["FROM %s/private/base:v1","RUN echo begun; sleep 1000"],"skip_pre_post":true,"registry_auth":{"username":%q,"password":%q}}`,
		p.reg.host, registryUser, registrySecret)
	var b based
	answer := send(p.t, p.World, "POST /v1/builds", body, "Idempotency-Key", "private-1")
	answer.into(p.t, 201, &b)
	if strings.Contains(string(answer.body), "canary") {
		p.t.Errorf("the answer holds the password: %s", answer.body)
	}
	awaitLine(p.t, p.World, b.ID, "begun")
	p.nowhere("while the build runs")
	p.OK("builds", "cancel", b.ID)
	p.nowhere("after the cancel")

	quick := p.recipeFile("private/base:v1", "RUN cat /says > /data/said")
	p.must(quick, registrySecret+"\n", "-t", "private:stdin", "--skip-pre-post", "--registry-user", registryUser, "--registry-password-stdin")
	docker := filepath.Join(p.t.TempDir(), "config.json")
	if err := os.WriteFile(docker, fmt.Appendf(nil, `{"auths":{%q:{"username":%q,"password":%q}}}`, p.reg.host, registryUser, registrySecret), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.must(quick, "", "-t", "private:docker", "--skip-pre-post", "--docker-config", docker)
	if got := p.OK("run", "private:docker", "--", "cat", "/data/said"); got != "secret\n" {
		p.t.Errorf("the private image says %q", got)
	}
	// The image is on the host; that opens it to nobody without a login.
	_, r = p.build(quick, "", "-t", "private:none")
	p.refused(r, "registry_denied")
	p.registries(fmt.Sprintf(`{"registries":{%q:{"plain_http":true,"private":true}},"docker_config":%q}`, p.reg.host, docker))
	p.must(quick, "", "-t", "private:host", "--skip-pre-post")
	p.registries(fmt.Sprintf(`{"registries":{%q:{"plain_http":true,"private":true}}}`, p.reg.host))
}

func (p *pulls) refusals() {
	hidden := newHarbour(p.t)
	hidden.push("x:y", busyboxImage(p.t, "hidden", true))
	for base, code := range map[string]string{
		p.reg.host + "/none:x":                                     "base_not_found",
		p.reg.host + "/team/base:v9":                               "base_not_found",
		hidden.host + "/x:y":                                       "registry_forbidden",
		"169.254.169.254/latest/meta-data":                         "registry_forbidden",
		"localhost:" + strings.Split(hidden.host, ":")[1] + "/x:y": "registry_forbidden",
	} {
		r := p.RunInput("FROM "+base+"\nRUN true", "build", "-t", "refused", "-f", "-")
		p.refused(r, code)
	}
	if hidden.fetched() > 0 {
		p.t.Error("a registry that is not named was asked")
	}
}

// alias maps an image to a layout and to a template, without a restart.
func (p *pulls) alias() {
	dir := filepath.Join(p.t.TempDir(), "layout")
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: busyboxImage(p.t, "from a layout", true)})); err != nil {
		p.t.Fatal(err)
	}
	p.registries(fmt.Sprintf(`{"only_listed":true,"aliases":{"python:3.12":%q,"registry.example/x:1":"template:plain"}}`, "oci:"+dir))
	one := p.must(p.write("FROM python:3.12\nRUN cat /says > /data/said"), "", "-t", "aliased:one", "--skip-pre-post")
	if one.BaseImage == nil || !strings.HasPrefix(*one.BaseImage, "docker.io/library/python:3.12@sha256:") {
		p.t.Errorf("base_image = %v, want the digest of what stands in", one.BaseImage)
	}
	two := p.must(p.write("FROM registry.example/x:1\nRUN true"), "", "-t", "aliased:two", "--skip-pre-post")
	if two.BaseTemplate != "plain" || two.BaseImage != nil {
		p.t.Errorf("base = %q, %v, want the template that stands in", two.BaseTemplate, two.BaseImage)
	}
	if got := p.OK("run", "aliased:one", "--", "cat", "/data/said") + p.OK("run", "aliased:two"); got != "from a layout\nfirst\n" {
		p.t.Errorf("the templates say %q", got)
	}
	_, r := p.build(p.recipeFile("team/base:v1", "RUN true"), "", "-t", "unlisted")
	p.refused(r, "registry_forbidden")
	p.registries(fmt.Sprintf(`{"registries":{%q:{"plain_http":true,"private":true}}}`, p.reg.host))
}

func (p *pulls) write(text string) string {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), "Dockerfile")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// cancelAndKill breaks pulls off: a cancel ends one at once, after kill -9 the
// build goes on, and neither leaves a file.
func (p *pulls) cancelAndKill() {
	p.reg.push("team/base:slow", busyboxImage(p.t, "slow", true))
	begun := make(chan struct{}, 100)
	hold := func(r *http.Request) { begun <- struct{}{}; <-r.Context().Done() }
	start := func(tag string) based {
		p.t.Helper()
		var b based
		body := fmt.Sprintf(`{"name":%q,"recipe":["FROM %s/team/base:slow","RUN cat /says > /data/said"],"skip_pre_post":true}`, tag, p.reg.host)
		send(p.t, p.World, "POST /v1/builds", body).into(p.t, 201, &b)
		return b
	}
	config := true
	p.reg.setSlow(func(r *http.Request) {
		p.reg.mu.Lock()
		first := config
		config = false
		p.reg.mu.Unlock()
		if !first { // the create reads the configuration
			hold(r)
		}
	})
	b := start("slow:cancelled")
	<-begun
	p.OK("builds", "cancel", b.ID)
	send(p.t, p.World, "GET /v1/builds/"+b.ID+"/logs?follow=true", "")
	p.noScratch()

	config = true
	b = start("slow:killed")
	<-begun
	p.Kill9()
	p.reg.setSlow(nil)
	p.Up()
	send(p.t, p.World, "GET /v1/builds/"+b.ID+"/logs?follow=true", "")
	if got := p.OK("run", "slow:killed", "--", "cat", "/data/said"); got != "slow\n" {
		p.t.Errorf("the template says %q", got)
	}
	p.noScratch()
}

// noScratch waits until nothing of a pull is left on the host's disk.
func (p *pulls) noScratch() {
	p.t.Helper()
	for {
		left, err := filepath.Glob(filepath.Join(p.Data(), "images", "tmp", "scratch-*"))
		if err != nil {
			p.t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if p.t.Context().Err() != nil {
			p.t.Fatalf("left: %v", left)
		}
		p.OK("version") // some time
	}
}

// nowhere looks for the password in every byte that the platform wrote and in
// the command lines of all processes.
func (p *pulls) nowhere(when string) {
	p.t.Helper()
	files := 0
	check := func(path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			return // gone, or of a process that ended
		}
		files++
		if bytes.Contains(b, []byte(registrySecret)) || bytes.Contains(b, []byte("Y2FuYXJ5LWh1bnRlcjItY2FuYXJ5")) {
			p.t.Errorf("%s: the password is in %s", when, path)
		}
	}
	err := filepath.WalkDir(filepath.Dir(p.Data()), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, ".erofs") && !strings.Contains(path, "/bin/") {
			check(path)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, path := range lines {
		check(path)
	}
	if files < 10 {
		p.t.Errorf("%s: only %d files were looked at", when, files)
	}
}
