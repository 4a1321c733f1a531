package agent

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// hold is an image store with a registries file and a registry in this process.
type hold struct {
	images
	t    *testing.T
	file string
	host string
	said bytes.Buffer
}

func newHold(t *testing.T) *hold {
	t.Helper()
	dir := t.TempDir()
	store, err := image.OpenStore(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	h := &hold{t: t, file: filepath.Join(dir, "registries.json"), host: strings.TrimPrefix(server.URL, "http://")}
	h.images = newImages(store, filepath.Join(dir, minimalFile), &registries{path: h.file, log: slog.New(slog.NewTextHandler(&h.said, nil))})
	return h
}

func (h *hold) write(text string) {
	h.t.Helper()
	if err := os.WriteFile(h.file, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// list names the registry in the file, with more entries behind it.
func (h *hold) list(more string) {
	h.t.Helper()
	h.write(fmt.Sprintf(`{"registries":{%q:{"plain_http":true,"private":true}}%s}`, h.host, more))
}

func (h *hold) push(path string, img v1.Image) {
	h.t.Helper()
	ref, err := name.ParseReference(h.host + "/" + path)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hold) resolve(reference string) agent.ResolvedImage {
	h.t.Helper()
	r, err := h.Resolve(h.t.Context(), agent.RegistryImage{Reference: reference})
	if err != nil {
		h.t.Fatalf("Resolve(%s) = %v", reference, err)
	}
	return r
}

func (h *hold) mustPull(reference string) agent.Image {
	h.t.Helper()
	img, err := h.Pull(h.t.Context(), agent.RegistryImage{Reference: reference}, func(agent.PullProgress) {})
	if err != nil {
		h.t.Fatalf("Pull(%s) = %v", reference, err)
	}
	return img
}

func smallImage(t *testing.T, says string) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "says", Size: int64(len(says)), Mode: 0o644})
	if err == nil {
		_, err = io.WriteString(w, says)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// What was pulled is found again by its repository and digest, listed as
// cached, and forgotten with its image. The digest under another name opens
// nothing.
func TestPullsAreKeptByRepository(t *testing.T) {
	t.Parallel()
	h := newHold(t)
	h.list("")
	h.push("mine/secret:1", smallImage(t, "secret"))
	pinned := h.resolve(h.host + "/mine/secret:1").Reference
	img := h.mustPull(pinned)
	all, err := h.List()
	if err != nil || len(all) != 1 || !all[0].Cached || all[0].Digest != img.Digest {
		t.Errorf("List() = %+v, %v, want the image, cached", all, err)
	}
	digest := pinned[strings.Index(pinned, "@"):]
	_, err = h.Pull(t.Context(), agent.RegistryImage{Reference: h.host + "/theirs/copy" + digest}, func(agent.PullProgress) {})
	if !errs.IsKind(err, errs.NotFound) {
		t.Errorf("Pull(the digest under another name) = %v, want not found: its registry does not have it", err)
	}
	h.write(`{"only_listed":true}`) // no registry can be asked any more
	if again := h.mustPull(pinned); again.Digest != img.Digest || again.Source != img.Source {
		t.Errorf("Pull() again = %+v, want %+v", again, img)
	}
	if again := h.mustPull(h.host + "/mine/secret" + digest); again.Digest != img.Digest {
		t.Errorf("Pull(without the tag) = %+v, want %+v", again, img)
	}
	if err := h.Remove(img.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Pull(t.Context(), agent.RegistryImage{Reference: pinned}, func(agent.PullProgress) {}); errs.CodeOf(err) != "registry_forbidden" {
		t.Errorf("Pull(removed) = %v, want the registry to be asked", err)
	}
	for _, reference := range []string{"UPPER", h.host + "/mine/secret:1", "x@sha256:ab"} {
		if _, err := h.Pull(t.Context(), agent.RegistryImage{Reference: reference}, func(agent.PullProgress) {}); errs.CodeOf(err) != "reference_invalid" {
			t.Errorf("Pull(%s) = %v, want reference_invalid", reference, err)
		}
	}
}

// The file counts as it is, and with a mistake as it was.
func TestRegistriesAreReadAgain(t *testing.T) {
	t.Parallel()
	h := newHold(t)
	h.push("a:1", smallImage(t, "a"))
	refused := func(what string) {
		t.Helper()
		_, err := h.Resolve(t.Context(), agent.RegistryImage{Reference: h.host + "/a:1"})
		if errs.CodeOf(err) != "registry_forbidden" {
			t.Errorf("Resolve() %s = %v, want registry_forbidden", what, err)
		}
	}
	refused("without a file")
	h.write(`{`)
	refused("with a broken file at first")
	h.list("")
	h.resolve(h.host + "/a:1")
	h.write(`{`)
	h.resolve(h.host + "/a:1")
	h.resolve(h.host + "/a:1")
	if n := strings.Count(h.said.String(), "not the JSON"); n != 2 {
		t.Errorf("the mistakes were told %d times, want each of two once:\n%s", n, h.said.String())
	}
	h.write(`{}`)
	refused("with an empty file")

	dir := filepath.Join(t.TempDir(), "layout")
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: smallImage(t, "stands in")})); err != nil {
		t.Fatal(err)
	}
	h.list(fmt.Sprintf(`,"aliases":{"python:3":%q,"ruby:3":"template:ours"}`, "oci:"+dir))
	r := h.resolve("python:3")
	if !strings.HasPrefix(r.Reference, "docker.io/library/python:3@sha256:") {
		t.Errorf("Resolve(python:3) = %q, want the layout's digest", r.Reference)
	}
	img := h.mustPull(r.Reference)
	if got, err := h.store.ReadFile(t.Context(), img.Digest, "says", 100); err != nil || string(got) != "stands in" {
		t.Errorf("the image says %q, %v", got, err)
	}
	if r := h.resolve("ruby:3"); r.Template != "ours" || r.Reference != "" {
		t.Errorf("Resolve(ruby:3) = %+v, want the template", r)
	}
	other := "python:3@" + string(lehr.DigestOf(nil))
	if _, err := h.Resolve(t.Context(), agent.RegistryImage{Reference: other}); errs.CodeOf(err) != "base_not_found" {
		t.Errorf("Resolve(another digest) = %v, want base_not_found", err)
	}
}
