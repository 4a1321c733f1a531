package oci

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/image/pack"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func openStore(t *testing.T) *image.Store {
	t.Helper()
	s, err := image.OpenStore(t.TempDir())
	if err != nil {
		t.Fatalf("OpenStore() = %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// layer returns a layer with the given files.
func layer(t *testing.T, files map[string]string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
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

// testImage returns a container image whose file "says" holds says.
func testImage(t *testing.T, says, arch string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(
		empty.Image, layer(t, map[string]string{"says": says, "gone": "x", "usr/bin/apt-get": ""}), layer(t, map[string]string{".wh.gone": ""}),
	)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: arch, RootFS: mustConfig(t, img).RootFS,
		Config: v1.Config{
			Env: []string{"PATH=/bin", "TEXT=two\nlines", "=odd", "NONE"}, User: "1000:1000", WorkingDir: "/srv",
			Entrypoint: []string{"/init"}, Cmd: []string{"a", "b"}, Shell: []string{"/bin/bash", "-c"},
			Labels: map[string]string{"b": "2", "a": "1"}, ExposedPorts: map[string]struct{}{"9/udp": {}, "80/tcp": {}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func mustConfig(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// writeLayout returns a folder with a layout of the index.
func writeLayout(t *testing.T, index v1.ImageIndex) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := ocilayout.Write(dir, index); err != nil {
		t.Fatal(err)
	}
	return dir
}

// platformOf is an addendum that says what an image is for.
func platformOf(img v1.Image, p *v1.Platform, name string) mutate.IndexAddendum {
	a := mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}}
	if name != "" {
		a.Annotations = map[string]string{refName: name}
	}
	return a
}

// importDir imports the layout in dir as the command line sends it.
func importDir(t *testing.T, s *image.Store, dir string, o Options) (image.Imported, error) {
	t.Helper()
	kind, r, err := pack.Open(t.Context(), "oci:"+dir, nil)
	if err != nil || kind != pack.OCI {
		t.Fatalf("Open() = %s, %v", kind, err)
	}
	defer func() { _ = r.Close() }()
	return ImportLayout(t.Context(), s, r, o)
}

// wantSays checks what an imported image holds.
func wantSays(t *testing.T, s *image.Store, made image.Imported, want string) {
	t.Helper()
	if got, err := s.ReadFile(t.Context(), made.Digest, "says", 100); err != nil || string(got) != want {
		t.Errorf("the image says %q, %v, want %q", got, err, want)
	}
	if _, err := s.ReadFile(t.Context(), made.Digest, "gone", 100); !errs.IsKind(err, errs.NotFound) {
		t.Errorf("ReadFile(whited out) = %v, want not found", err)
	}
}

var wantConfig = lehr.ImageConfig{
	Env: []lehr.EnvVar{{Name: "PATH", Value: "/bin"}, {Name: "TEXT", Value: "two\nlines"}, {Name: "NONE"}}, User: "1000:1000",
	Workdir: "/srv", Entrypoint: []string{"/init"}, Cmd: []string{"a", "b"}, Shell: []string{"/bin/bash", "-c"},
	Labels:  []lehr.EnvVar{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}},
	Exposed: []string{"80/tcp", "9/udp"}, Debian: true,
}

func TestImportLayoutChoosesThePlatform(t *testing.T) {
	t.Parallel()
	here, there := testImage(t, "here", runtime.GOARCH), testImage(t, "there", "s390x")
	variant := testImage(t, "variant", runtime.GOARCH)
	linux := &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	newer := &v1.Platform{OS: "linux", Architecture: runtime.GOARCH, Variant: "v3"}
	foreign := &v1.Platform{OS: "linux", Architecture: "s390x"}
	attestation := platformOf(there, linux, "")
	attestation.Annotations = map[string]string{referenceType: "attestation-manifest"}
	nested := mutate.AppendManifests(empty.Index, platformOf(there, foreign, ""), platformOf(here, linux, ""))
	for name, tt := range map[string]struct {
		index v1.ImageIndex
		ref   string
	}{
		"one without a platform": {index: mutate.AppendManifests(empty.Index, platformOf(here, nil, ""))},
		"several platforms":      {index: mutate.AppendManifests(empty.Index, platformOf(there, foreign, ""), platformOf(here, linux, ""))},
		"index within an index":  {index: mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: nested})},
		"attestation beside":     {index: mutate.AppendManifests(empty.Index, attestation, platformOf(here, linux, ""))},
		"variant beside":         {index: mutate.AppendManifests(empty.Index, platformOf(variant, newer, ""), platformOf(here, linux, ""))},
		"one image twice":        {index: mutate.AppendManifests(empty.Index, platformOf(here, linux, "a"), platformOf(here, linux, "b"))},
		"by name":                {index: mutate.AppendManifests(empty.Index, platformOf(variant, linux, "a"), platformOf(here, linux, "b")), ref: "b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t)
			made, err := importDir(t, s, writeLayout(t, tt.index), Options{Ref: tt.ref})
			if err != nil {
				t.Fatalf("ImportLayout() = %v", err)
			}
			wantSays(t, s, made, "here")
			if diff := cmp.Diff(wantConfig, made.Config); diff != "" {
				t.Errorf("configuration differs (-want +got):\n%s", diff)
			}
			if digest, _ := here.Digest(); made.Source != "oci layout "+digest.String() {
				t.Errorf("Source = %q, want the manifest's digest", made.Source)
			}
		})
	}
}

func TestImportLayoutRefuses(t *testing.T) {
	t.Parallel()
	here := testImage(t, "here", runtime.GOARCH)
	other := testImage(t, "other", runtime.GOARCH)
	one := mutate.AppendManifests(empty.Index, platformOf(here, nil, ""))
	blob := func(t *testing.T, dir string, h v1.Hash) string {
		t.Helper()
		return filepath.Join(dir, "blobs", "sha256", h.Hex)
	}
	layers, err := here.Layers()
	if err != nil {
		t.Fatal(err)
	}
	first, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := here.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		index  v1.ImageIndex
		change func(t *testing.T, dir string)
		o      Options
		want   string
	}{
		"other platform": {index: mutate.AppendManifests(empty.Index, platformOf(testImage(t, "x", "s390x"), nil, "")), want: "linux/s390x"},
		"lying platform": {index: mutate.AppendManifests(empty.Index, platformOf(testImage(t, "x", "s390x"), &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, "")), want: "is for linux/s390x"},
		"no image":       {index: empty.Index, want: "it has none"},
		"two images":     {index: mutate.AppendManifests(empty.Index, platformOf(here, nil, "a"), platformOf(other, nil, "b")), want: "has 2 images"},
		"no such name":   {index: one, o: Options{Ref: "name"}, want: "no image name"},
		"missing layer":  {index: one, change: func(t *testing.T, dir string) { remove(t, blob(t, dir, first)) }, want: "lacks the blob " + first.String()},
		"missing config": {index: one, change: func(t *testing.T, dir string) { remove(t, blob(t, dir, config)) }, want: "lacks the blob " + config.String()},
		"damaged layer":  {index: one, change: func(t *testing.T, dir string) { flip(t, blob(t, dir, first)) }, want: "blob " + first.String() + " of the layout has the digest"},
		"damaged index":  {index: one, change: func(t *testing.T, dir string) { put(t, filepath.Join(dir, "index.json"), "{") }, want: "cannot be read"},
		"escaping index": {index: one, change: func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "index.json"), `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../../../etc/passwd","size":1}]}`)
		}, want: "cannot be read"},
		"large index": {index: one, change: func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "index.json"), strings.Repeat(" ", maxDocument+1))
		}, want: "more than"},
		"too large": {index: one, o: Options{Limits: image.Limits{MaxBytes: 100}}, want: "more than 100 bytes"},
		"encrypted": {index: mutate.AppendManifests(empty.Index, platformOf(foreignLayer(t, here), nil, "")), want: "has the type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t)
			dir := writeLayout(t, tt.index)
			if tt.change != nil {
				tt.change(t, dir)
			}
			_, err := importDir(t, s, dir, tt.o)
			if kind := errs.KindOf(err); kind != errs.Invalid && kind != errs.Unsupported || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ImportLayout() = %v (%s), want invalid with %q", err, kind, tt.want)
			}
			if images, err := s.List(); err != nil || len(images) > 0 {
				t.Errorf("List() = %v, %v, want no image", images, err)
			}
		})
	}
}

func TestImportLayoutRefusesOtherStreams(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	for name, in := range map[string]string{"no tar": strings.Repeat("no tar ", 200), "empty": "", "gzip": "\x1f\x8b" + strings.Repeat("x", 600), "short": "x"} {
		if _, err := ImportLayout(t.Context(), s, strings.NewReader(in), Options{}); !errs.IsKind(err, errs.Invalid) {
			t.Errorf("%s: ImportLayout() = %v, want invalid", name, err)
		}
	}
}

// foreignLayer returns img with a layer type that nobody knows.
func foreignLayer(t *testing.T, img v1.Image) v1.Image {
	t.Helper()
	out, err := mutate.Append(img, mutate.Addendum{Layer: layer(t, nil), MediaType: types.MediaType("application/vnd.oci.image.layer.v1.tar+encrypted")})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, path, string(b))
}
