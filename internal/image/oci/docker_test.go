package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/image/pack"
)

// tarOf packs entries; a content that begins with "-> " is a symbolic link.
func tarOf(t *testing.T, entries ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e[0], Size: int64(len(e[1])), Mode: 0o644}
		if target, link := strings.CutPrefix(e[1], "-> "); link {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, target, 0
			e[1] = ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// dockerEntries are those of the archive that docker save before version 25
// wrote: one folder a layer.
func dockerEntries(t *testing.T, img v1.Image, tags ...string) [][2]string {
	t.Helper()
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	one := dockerImage{Config: strings.TrimPrefix(hashOf(raw), "sha256:") + ".json", RepoTags: tags}
	entries := [][2]string{{one.Config, string(raw)}}
	for i, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		path := strings.Repeat(string(rune('a'+i)), 8) + "/layer.tar"
		one.Layers = append(one.Layers, path)
		entries = append(entries, [2]string{path, string(content)})
	}
	list, err := json.Marshal([]dockerImage{one})
	if err != nil {
		t.Fatal(err)
	}
	return append(entries, [2]string{"manifest.json", string(list)}, [2]string{"repositories", "{}"})
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestImportDockerArchives(t *testing.T) {
	t.Parallel()
	here := testImage(t, "here", runtime.GOARCH)
	old := dockerEntries(t, here, "base:x")
	linked := append([][2]string{}, old...)
	for i, e := range linked {
		if e[0] == "bbbbbbbb/layer.tar" {
			linked[i] = [2]string{e[0], "-> ../cccccccc/layer.tar"}
			linked = append(linked, [2]string{"cccccccc/layer.tar", e[1]})
		}
	}
	var written bytes.Buffer
	tag, err := name.NewTag("base:x")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.Write(tag, here, &written); err != nil {
		t.Fatal(err)
	}
	layoutTar := layoutArchive(t, here)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		archive []byte
		ref     string
	}{
		"folders of layers":    {archive: tarOf(t, old...)},
		"linked layers":        {archive: tarOf(t, linked...)},
		"with gzip":            {archive: gzipped(t, tarOf(t, old...))},
		"by name":              {archive: tarOf(t, old...), ref: "base:x"},
		"compressed layers":    {archive: written.Bytes()},
		"layout with gzip":     {archive: gzipped(t, layoutTar)},
		"layout with zstd":     {archive: enc.EncodeAll(layoutTar, nil)},
		"both, as docker 25's": {archive: joined(t, layoutTar, [2]string{"manifest.json", "not looked at"})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t)
			made, err := ImportLayout(t.Context(), s, bytes.NewReader(tt.archive), Options{Ref: tt.ref})
			if err != nil {
				t.Fatalf("ImportLayout() = %v", err)
			}
			wantSays(t, s, made, "here")
			if diff := cmp.Diff(wantConfig, made.Config); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
}

// layoutArchive is the tar of a layout with one image.
func layoutArchive(t *testing.T, img v1.Image) []byte {
	t.Helper()
	dir := writeLayout(t, mutate.AppendManifests(empty.Index, platformOf(img, nil, "")))
	_, r, err := pack.Open(t.Context(), "oci:"+dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// joined is a tar with more entries.
func joined(t *testing.T, b []byte, more ...[2]string) []byte {
	t.Helper()
	var all [][2]string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return tarOf(t, append(all, more...)...)
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			all = append(all, [2]string{h.Name, string(content)})
		}
	}
}

func TestImportDockerArchiveRefuses(t *testing.T) {
	t.Parallel()
	good := dockerEntries(t, testImage(t, "here", runtime.GOARCH), "base:x")
	change := func(name, content string) []byte {
		out := append([][2]string{}, good...)
		for i, e := range out {
			if e[0] == name {
				out[i] = [2]string{name, content}
			}
		}
		return tarOf(t, out...)
	}
	manifest := good[len(good)-2][1]
	for name, tt := range map[string]struct {
		archive []byte
		ref     string
		want    string
	}{
		"damaged layer":  {archive: change("aaaaaaaa/layer.tar", good[1][1]+strings.Repeat("\x00", 512)), want: "has the digest"},
		"swapped layers": {archive: change("aaaaaaaa/layer.tar", good[2][1]), want: "has the digest"},
		"missing layer":  {archive: tarOf(t, good[0], good[1], good[3]), want: "lacks bbbbbbbb/layer.tar"},
		"circle":         {archive: change("aaaaaaaa/layer.tar", "-> layer.tar"), want: "lacks"},
		"link outside":   {archive: change("aaaaaaaa/layer.tar", "-> /etc/passwd"), want: "lacks"},
		"no json":        {archive: change("manifest.json", "{"), want: "cannot be read"},
		"no image":       {archive: change("manifest.json", "[]"), want: "has no image"},
		"two images":     {archive: change("manifest.json", "["+manifest[1:len(manifest)-1]+","+manifest[1:len(manifest)-1]+"]"), want: "has 2 images: base:x, base:x"},
		"other name":     {archive: tarOf(t, good...), ref: "other:x", want: "has no image other:x"},
		"outside":        {archive: change("manifest.json", `[{"Config":"../../../etc/passwd","Layers":[]}]`), want: "lacks"},
		"fewer layers":   {archive: change("manifest.json", strings.Replace(manifest, `"aaaaaaaa/layer.tar",`, "", 1)), want: "has 1 layers, the configuration 2"},
		"foreign":        {archive: tarOf(t, dockerEntries(t, testImage(t, "x", "s390x"))...), want: "linux/s390x"},
		"an entry twice": {archive: tarOf(t, append(append([][2]string{}, good...), good[0])...), want: "twice"},
		"cut off":        {archive: tarOf(t, good...)[:3000], want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, s := openStoreIn(t)
			_, err := ImportLayout(t.Context(), s, bytes.NewReader(tt.archive), Options{Ref: tt.ref})
			if !errs.IsKind(err, errs.Invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ImportLayout() = %v, want invalid with %q", err, tt.want)
			}
			wantEmpty(t, dir, s)
		})
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	here := testImage(t, "here", runtime.GOARCH)
	dir := writeLayout(t, mutate.AppendManifests(empty.Index, platformOf(here, nil, "one"), platformOf(testImage(t, "two", runtime.GOARCH), nil, "two")))
	f := Folder{Path: dir, Name: "one"}
	digest, config, err := f.Resolve()
	if err != nil || digest != digestOf(t, here) || config.User != wantConfig.User {
		t.Fatalf("Resolve() = %s, %+v, %v", digest, config, err)
	}
	s := openStore(t)
	made, err := f.Import(t.Context(), s, digest, image.Limits{})
	if err != nil {
		t.Fatalf("Import() = %v", err)
	}
	wantSays(t, s, made, "here")
	_, err = Folder{Path: dir, Name: "two"}.Import(t.Context(), s, digest, image.Limits{})
	wantError(t, "Import(another digest)", err, wanted{errs.NotFound, CodeNotFound, "holds"})
	_, _, err = Folder{Path: filepath.Join(dir, "none")}.Resolve()
	wantError(t, "Resolve(no folder)", err, wanted{errs.NotFound, CodeNotFound, "is not the folder"})
	layers, err := here.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(dir, "blobs", "sha256", h.Hex))
	if _, err := f.Import(t.Context(), s, digest, image.Limits{}); !errs.IsKind(err, errs.Invalid) {
		t.Errorf("Import(damaged layer) = %v, want invalid", err)
	}
}
