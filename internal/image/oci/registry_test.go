package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/image"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func TestResolveAndPull(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	here := testImage(t, "here", runtime.GOARCH)
	index := mutate.AppendManifests(
		empty.Index, platformOf(testImage(t, "there", "s390x"), linux("s390x"), ""), platformOf(here, linux(runtime.GOARCH), ""),
	)
	tagged := s.pushIndex("team/base:slim", index)
	byIndex := tagged.Pinned(digestOf(t, index))
	byImage := lehr.ImageRef{Registry: tagged.Registry, Repository: tagged.Repository, Digest: digestOf(t, here)}
	c := s.client()
	for _, ref := range []lehr.ImageRef{tagged, byIndex, byImage} {
		r, err := c.Resolve(t.Context(), ref, Login{})
		if err != nil || r.Ref != ref.Pinned(digestOf(t, here)) {
			t.Fatalf("Resolve(%s) = %s, %v, want the digest of the image for this machine", ref, r.Ref, err)
		}
		want := wantConfig
		want.Debian = false
		if diff := cmp.Diff(want, r.Config); diff != "" {
			t.Errorf("configuration of %s (-want +got):\n%s", ref, diff)
		}
		store := openStore(t)
		var p Progress
		made, err := c.Pull(t.Context(), store, r.Ref, Login{}, func(now Progress) { p = now })
		if err != nil {
			t.Fatalf("Pull(%s) = %v", r.Ref, err)
		}
		wantSays(t, store, made, "here")
		if diff := cmp.Diff(wantConfig, made.Config); diff != "" {
			t.Errorf("configuration (-want +got):\n%s", diff)
		}
		if made.Source != "oci "+r.Ref.String() {
			t.Errorf("Source = %q, want %q", made.Source, "oci "+r.Ref.String())
		}
		if p.Layers != 2 || p.LayersDone != 2 || p.Bytes == 0 || p.Bytes != p.BytesDone {
			t.Errorf("progress = %+v, want all of 2 layers", p)
		}
	}
}

func TestPullReadsEveryCompression(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	for _, kind := range []compression.Compression{compression.GZip, compression.ZStd, compression.None} {
		raw, err := layer(t, map[string]string{"says": "packed"}).Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(raw)
		if err != nil {
			t.Fatal(err)
		}
		media := map[compression.Compression]types.MediaType{
			compression.GZip: types.DockerLayer, compression.ZStd: types.OCILayerZStd, compression.None: types.OCIUncompressedLayer,
		}[kind]
		packed, err := tarball.LayerFromOpener(
			func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
			tarball.WithCompression(kind), tarball.WithMediaType(media),
		)
		if err != nil {
			t.Fatal(err)
		}
		img, err := mutate.AppendLayers(testImage(t, "before", runtime.GOARCH), packed)
		if err != nil {
			t.Fatal(err)
		}
		store := openStore(t)
		made, err := s.client().Pull(t.Context(), store, s.push("packed:"+string(kind), img), Login{}, nil)
		if err != nil {
			t.Errorf("Pull(%s) = %v", kind, err)
			continue
		}
		wantSays(t, store, made, "packed")
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	here := testImage(t, "here", runtime.GOARCH)
	good := s.push("good:x", here)
	foreign := s.push("foreign:x", testImage(t, "x", "s390x"))
	foreignIndex := s.pushIndex("foreign:i", mutate.AppendManifests(empty.Index, platformOf(testImage(t, "x", "s390x"), linux("s390x"), "")))
	put := func(path, media, body string) lehr.ImageRef {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.server.URL+"/v2/"+strings.Replace(path, ":", "/manifests/", 1), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", media)
		res, err := http.DefaultClient.Do(req)
		if err != nil || res.StatusCode != http.StatusCreated {
			t.Fatalf("PUT %s = %v, %v", path, res, err)
		}
		_ = res.Body.Close()
		return s.ref(path)
	}
	config, err := here.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	manifest := func(layer string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":1,"digest":%q},"layers":[%s]}`,
			types.OCIManifestSchema1, config, layer)
	}
	c := s.client()
	for name, tt := range map[string]struct {
		ref        lehr.ImageRef
		kind       errs.Kind
		code, part string
	}{
		"no repository":  {s.ref("none:x"), errs.NotFound, CodeNotFound, "has no image"},
		"no tag":         {s.ref("good:y"), errs.NotFound, CodeNotFound, "has no image"},
		"no digest":      {good.Pinned(lehr.DigestOf(nil)), errs.NotFound, CodeNotFound, "has no image"},
		"other platform": {foreign, errs.Invalid, CodePlatform, "linux/s390x"},
		"other index":    {foreignIndex, errs.Invalid, CodePlatform, "it has linux/s390x"},
		"schema 1":       {put("old:x", string(types.DockerManifestSchema1Signed), `{"schemaVersion":1,"fsLayers":[]}`), errs.Unsupported, "manifest_schema1", "schema 1"},
		"two in one":     {put("two:x", string(types.OCIManifestSchema1), `{"schemaVersion":2,"manifests":[],"layers":[]}`), errs.Invalid, "invalid", "neither"},
		"no json":        {put("no:x", string(types.OCIManifestSchema1), `nothing`), errs.Invalid, "invalid", "cannot be read"},
	} {
		_, err := c.Resolve(t.Context(), tt.ref, Login{})
		wantError(t, name+": Resolve()", err, wanted{tt.kind, tt.code, tt.part})
	}
	s.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		_, _ = w.Write(bytes.Repeat([]byte(" "), maxDocument+10))
		return true
	})
	_, err = c.Resolve(t.Context(), good, Login{})
	wantError(t, "Resolve(endless manifest)", err, wanted{errs.Invalid, "invalid", "more than"})
	s.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		_, _ = io.WriteString(w, manifest(""))
		return true
	})
	_, err = c.Resolve(t.Context(), good.Pinned(digestOf(t, here)), Login{})
	wantError(t, "Resolve(another manifest)", err, wanted{errs.Invalid, CodeDigest, "something else"})
	s.server.Close()
	_, err = c.Resolve(t.Context(), good, Login{})
	wantError(t, "Resolve(closed)", err, wanted{errs.Unavailable, CodeUnreachable, "cannot be reached"})
}

func TestSizesAreCheckedBeforeLayersAreFetched(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	ref := s.push("base:x", testImage(t, "here", runtime.GOARCH))
	s.answer(nil)
	c := NewClient(ClientOptions{Registries: func() Registries { return listed(s.host) }, Limits: image.Limits{MaxBytes: 10}})
	dir, store := openStoreIn(t)
	_, err := c.Pull(t.Context(), store, ref, Login{}, nil)
	wantError(t, "Pull(too large)", err, wanted{errs.Invalid, image.CodeTooLarge, "more than 10 bytes"})
	if got := len(s.requests("/blobs/")); got != 1 {
		t.Errorf("%d blobs were asked for, want the configuration alone", got)
	}
	wantEmpty(t, dir, store)
}

// brokenLayer is an image with a large layer that a station gives out wrongly.
type brokenLayer struct {
	*station
	ref     lehr.ImageRef
	big     string // content of the layer's file
	hash    v1.Hash
	content []byte // of the layer
	asked   atomic.Int32
}

func newBrokenLayer(t *testing.T) *brokenLayer {
	t.Helper()
	b := &brokenLayer{station: newStation(t), big: strings.Repeat("0123456789abcdef", 1<<14)}
	img, err := mutate.AppendLayers(testImage(t, "here", runtime.GOARCH), layer(t, map[string]string{"big": b.big}))
	if err != nil {
		t.Fatal(err)
	}
	b.ref = b.push("base:x", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if b.hash, err = layers[2].Digest(); err != nil {
		t.Fatal(err)
	}
	in, err := layers[2].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if b.content, err = io.ReadAll(in); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *brokenLayer) half() int { return len(b.content) / 2 }

// cut sends the first half and breaks off.
func (b *brokenLayer) cut(w http.ResponseWriter) {
	w.Header().Set("Content-Length", fmt.Sprint(len(b.content)))
	_, _ = w.Write(b.content[:b.half()])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// A layer that breaks off goes on from there, and a busy registry is asked
// again.
func TestPullOfBrokenLayers(t *testing.T) {
	t.Parallel()
	b := newBrokenLayer(t)
	b.pulls(t, map[string]func(w http.ResponseWriter, r *http.Request){
		"breaks off once": func(w http.ResponseWriter, r *http.Request) {
			if b.asked.Add(1) == 1 {
				b.cut(w)
			}
			if got, want := r.Header.Get("Range"), fmt.Sprintf("bytes=%d-", b.half()); got != want {
				t.Errorf("Range = %q, want %q", got, want)
			}
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(b.content[b.half():])
		},
		"knows no ranges": func(w http.ResponseWriter, _ *http.Request) {
			if b.asked.Add(1) == 1 {
				b.cut(w)
			}
			_, _ = w.Write(b.content)
		},
		"too busy at first": func(w http.ResponseWriter, _ *http.Request) {
			switch b.asked.Add(1) {
			case 1:
				w.WriteHeader(http.StatusTooManyRequests)
			case 2:
				w.WriteHeader(http.StatusInternalServerError)
			default:
				_, _ = w.Write(b.content)
			}
		},
	}, func(what string, store *image.Store, made image.Imported, err error) {
		if err != nil {
			t.Errorf("%s: Pull() = %v", what, err)
			return
		}
		if got, err := store.ReadFile(t.Context(), made.Digest, "big", 1<<20); err != nil || string(got) != b.big {
			t.Errorf("%s: the file has %d bytes, %v, want %d", what, len(got), err, len(b.big))
		}
	})
}

// pulls pulls the image while its layer is answered in each way.
func (b *brokenLayer) pulls(
	t *testing.T, ways map[string]func(w http.ResponseWriter, r *http.Request),
	judge func(what string, store *image.Store, made image.Imported, err error),
) {
	t.Helper()
	for what, answer := range ways {
		b.asked.Store(0)
		b.answer(func(w http.ResponseWriter, r *http.Request) bool {
			isLayer := strings.HasSuffix(r.URL.Path, b.hash.String())
			if isLayer {
				answer(w, r)
			}
			return isLayer
		})
		dir, store := openStoreIn(t)
		made, err := b.client().Pull(t.Context(), store, b.ref, Login{}, nil)
		judge(what, store, made, err)
		if err != nil {
			wantEmpty(t, dir, store)
		}
	}
}

// A layer that the registry gets wrong is refused, and nothing of it is left.
func TestPullRefusesWrongLayers(t *testing.T) {
	t.Parallel()
	b := newBrokenLayer(t)
	want := map[string]wanted{
		"always broken": {errs.Unavailable, CodeUnreachable, "cannot be reached"},
		"short":         {errs.Unavailable, CodeUnreachable, "broke off"},
		"wrong":         {errs.Invalid, CodeDigest, "with the digest"},
		"long":          {errs.Invalid, CodeDigest, "more than the"},
		"missing":       {errs.NotFound, CodeNotFound, ""},
	}
	b.pulls(t, map[string]func(w http.ResponseWriter, r *http.Request){
		"always broken": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"short":         func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b.content[:10]) },
		"wrong": func(w http.ResponseWriter, _ *http.Request) {
			wrong := bytes.Clone(b.content)
			wrong[b.half()] ^= 1
			_, _ = w.Write(wrong)
		},
		"long":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(append(bytes.Clone(b.content), 0)) },
		"missing": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
	}, func(what string, _ *image.Store, _ image.Imported, err error) {
		wantError(t, what+": Pull()", err, want[what])
	})
}

func TestSilentRegistry(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	s := newStation(t)
	s.answer(func(http.ResponseWriter, *http.Request) bool { <-done; return true })
	t.Cleanup(func() { close(done) })
	c := NewClient(ClientOptions{Registries: func() Registries { return listed(s.host) }, Answer: 20 * time.Millisecond, Pause: time.Millisecond})
	_, err := c.Resolve(t.Context(), s.ref("base:x"), Login{})
	wantError(t, "Resolve(silent)", err, wanted{errs.Unavailable, CodeUnreachable, "in time"})
	if got := len(s.requests("/v2/")); got > defaultTries {
		t.Errorf("the registry was asked %d times, want at most %d", got, defaultTries)
	}
}

// A busy registry is asked again, a broken one not for ever.
func TestResolveTriesAgain(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	ref := s.push("base:x", testImage(t, "here", runtime.GOARCH))
	var asked atomic.Int32
	busy := func(times int32, status int) func(w http.ResponseWriter, r *http.Request) bool {
		asked.Store(0)
		return func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") && asked.Add(1) <= times {
				w.WriteHeader(status)
				return true
			}
			return false
		}
	}
	s.answer(busy(1, http.StatusTooManyRequests))
	if _, err := s.client().Resolve(t.Context(), ref, Login{}); err != nil {
		t.Errorf("Resolve(busy once) = %v", err)
	}
	s.answer(busy(99, http.StatusBadGateway))
	_, err := s.client().Resolve(t.Context(), ref, Login{})
	wantError(t, "Resolve(broken)", err, wanted{errs.Unavailable, CodeUnreachable, "502 Bad Gateway"})
	if asked.Load() != defaultTries {
		t.Errorf("asked %d times, want %d", asked.Load(), defaultTries)
	}
}

func TestCancelledPullLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	ref := s.push("base:x", testImage(t, "here", runtime.GOARCH))
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	var blobs atomic.Int32
	s.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && blobs.Add(1) == 2 { // the configuration was the first
			cancel(stop)
			<-r.Context().Done()
			return true
		}
		return false
	})
	dir, store := openStoreIn(t)
	if _, err := s.client().Pull(ctx, store, ref, Login{}, nil); !errors.Is(err, stop) {
		t.Errorf("Pull(cancelled) = %v, want the cause", err)
	}
	wantEmpty(t, dir, store)
}

func TestMirror(t *testing.T) {
	t.Parallel()
	origin, mirror := newStation(t), newStation(t)
	ref := origin.push("base:x", testImage(t, "here", runtime.GOARCH))
	mirror.push("base:x", testImage(t, "here", runtime.GOARCH))
	only := origin.push("base:only", testImage(t, "only", runtime.GOARCH))
	known := listed(origin.host, mirror.host)
	h := known.Hosts[origin.host]
	h.Mirror = mirror.host
	known.Hosts[origin.host] = h
	origin.answer(nil)
	r, err := client(known).Resolve(t.Context(), ref, Login{})
	if err != nil || r.Ref.Registry != origin.host || len(origin.requests("")) > 0 {
		t.Errorf("Resolve() = %s, %v and asked the origin %d times, want its name from the mirror", r.Ref, err, len(origin.requests("")))
	}
	if _, err := client(known).Resolve(t.Context(), only, Login{}); err != nil {
		t.Errorf("Resolve(not at the mirror) = %v", err)
	}
	mirror.answer(nil)
	if _, err := client(known).Resolve(t.Context(), ref, Login{Username: "me", Password: "x"}); err != nil || len(mirror.requests("")) > 0 {
		t.Errorf("Resolve(login) = %v, and the mirror was asked %d times, want none", err, len(mirror.requests("")))
	}
	mirror.server.Close()
	if _, err := client(known).Resolve(t.Context(), ref, Login{}); err != nil {
		t.Errorf("Resolve(mirror is down) = %v", err)
	}
}

// An index may name its images by other hashes, of which nothing here is
// checked: none of them is taken unseen.
func TestManifestsOfOtherHashesAreRefused(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	good := s.push("good:x", testImage(t, "here", runtime.GOARCH))
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"size":1,"digest":"sha512:%s","platform":{"os":"linux","architecture":%q}}]}`,
		types.OCIImageIndex, types.OCIManifestSchema1, strings.Repeat("0", 128), runtime.GOARCH)
	s.answer(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/manifests/index"):
			_, _ = io.WriteString(w, index)
			return true
		case strings.Contains(r.URL.Path, "/manifests/sha512:"):
			r.URL.Path = strings.Replace(r.URL.Path, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:], good.Tag, 1)
		}
		return false
	})
	_, err := s.client().Resolve(t.Context(), s.ref("good:index"), Login{})
	wantError(t, "Resolve(sha512)", err, wanted{errs.Unsupported, "unsupported", "sha512"})
}
