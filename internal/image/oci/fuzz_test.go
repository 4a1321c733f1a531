package oci

import (
	"bytes"
	"context"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
)

// blobs is a source of one document for everything.
type blobs []byte

func (b blobs) name() string                         { return "the test" }
func (b blobs) manifest(v1.Hash) ([]byte, error)     { return b, nil }
func (b blobs) config(v1.Descriptor) ([]byte, error) { return b, nil }

// FuzzDocuments reads anything as index, manifest and configuration at once.
func FuzzDocuments(f *testing.F) {
	for _, s := range []string{
		`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + zeros + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:` + zeros + `","size":1}]}`,
		`{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:` + zeros + `","size":1}],"config":{"digest":"sha256:` + zeros + `"},"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["sha256:` + zeros + `"]},"config":{"Env":["A=1","=","B"],"User":"u"}}`,
		`{"schemaVersion":1,"fsLayers":[]}`, `null`, `[]`, `{`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(what string, err error) {
			if err != nil && errs.KindOf(err) == errs.Internal {
				t.Errorf("%s = %v, which has no kind", what, err)
			}
		}
		_, err := isIndex(b, "x")
		check("isIndex()", err)
		_, err = choose(blobs(b), b, "")
		check("choose()", err)
		p, err := pictureOf(blobs(b), v1.Hash{Algorithm: "sha256", Hex: zeros})
		check("pictureOf()", err)
		if err != nil {
			return
		}
		if err := p.check(); err == nil {
			for _, v := range imageConfig(p.config.Config).Env {
				if v.Name == "" {
					t.Errorf("a variable without a name in %q", b)
				}
			}
		}
	})
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// FuzzImportArchive reads anything as a layout or a docker archive; what is
// refused leaves nothing.
func FuzzImportArchive(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte(`[{"Config":"c","Layers":["l"]}]`), []byte(`{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["sha256:`+zeros+`"]}}`))
	dir := f.TempDir()
	s, err := image.OpenStore(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		archive := tarOf(t, [2]string{"manifest.json", string(manifest)}, [2]string{"c", string(config)}, [2]string{"l", "l"})
		for _, in := range []io.Reader{bytes.NewReader(archive), bytes.NewReader(manifest)} {
			_, err := ImportLayout(context.Background(), s, in, Options{Limits: image.Limits{MaxBytes: 1 << 20, MaxInodes: 1000}})
			if err != nil && errs.KindOf(err) == errs.Internal {
				t.Errorf("ImportLayout(%q, %q) = %v, which has no kind", manifest, config, err)
			}
		}
	})
}
