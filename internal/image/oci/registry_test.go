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
		wantError(t, name+": Resolve()", err, tt.kind, tt.code, tt.part)
	}
	s.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		_, _ = w.Write(bytes.Repeat([]byte(" "), maxDocument+10))
		return true
	})
	_, err = c.Resolve(t.Context(), good, Login{})
	wantError(t, "Resolve(endless manifest)", err, errs.Invalid, "invalid", "more than")
	s.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		_, _ = io.WriteString(w, manifest(""))
		return true
	})
	_, err = c.Resolve(t.Context(), good.Pinned(digestOf(t, here)), Login{})
	wantError(t, "Resolve(another manifest)", err, errs.Invalid, CodeDigest, "something else")
	s.server.Close()
	_, err = c.Resolve(t.Context(), good, Login{})
	wantError(t, "Resolve(closed)", err, errs.Unavailable, CodeUnreachable, "cannot be reached")
}

func TestSizesAreCheckedBeforeLayersAreFetched(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	ref := s.push("base:x", testImage(t, "here", runtime.GOARCH))
	s.answer(nil)
	c := NewClient(ClientOptions{Registries: func() Registries { return listed(s.host) }, Limits: image.Limits{MaxBytes: 10}})
	dir, store := openStoreIn(t)
	_, err := c.Pull(t.Context(), store, ref, Login{}, nil)
	wantError(t, "Pull(too large)", err, errs.Invalid, image.CodeTooLarge, "more than 10 bytes")
	if got := len(s.requests("/blobs/")); got != 1 {
		t.Errorf("%d blobs were asked for, want the configuration alone", got)
	}
	wantEmpty(t, dir, store)
}

// A layer that breaks off goes on from there, and one that the registry gets
// wrong is refused with its digest.
func TestPullOfBrokenLayers(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	big := strings.Repeat("0123456789abcdef", 1<<14)
	img, err := mutate.AppendLayers(testImage(t, "here", runtime.GOARCH), layer(t, map[string]string{"big": big}))
	if err != nil {
		t.Fatal(err)
	}
	ref := s.push("base:x", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := layers[2].Digest()
	if err != nil {
		t.Fatal(err)
	}
	in, err := layers[2].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	isLayer := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, hash.String()) }
	cut := func(w http.ResponseWriter, b []byte, length int) {
		w.Header().Set("Content-Length", fmt.Sprint(length))
		_, _ = w.Write(b)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	var asked atomic.Int32
	half := len(content) / 2
	for name, tt := range map[string]struct {
		answer     func(w http.ResponseWriter, r *http.Request)
		kind       errs.Kind // empty: it works
		code, part string
	}{
		"breaks off once": {answer: func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) == 1 {
				cut(w, content[:half], len(content))
			}
			if got, want := r.Header.Get("Range"), fmt.Sprintf("bytes=%d-", half); got != want {
				t.Errorf("Range = %q, want %q", got, want)
			}
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(content[half:])
		}},
		"knows no ranges": {answer: func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) == 1 {
				cut(w, content[:half], len(content))
			}
			_, _ = w.Write(content)
		}},
		"too busy at first": {answer: func(w http.ResponseWriter, _ *http.Request) {
			switch asked.Add(1) {
			case 1:
				w.WriteHeader(http.StatusTooManyRequests)
			case 2:
				w.WriteHeader(http.StatusInternalServerError)
			default:
				_, _ = w.Write(content)
			}
		}},
		"always broken": {answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, kind: errs.Unavailable, code: CodeUnreachable, part: "cannot be reached"},
		"short":         {answer: func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(content[:10]) }, kind: errs.Unavailable, code: CodeUnreachable, part: "broke off"},
		"wrong": {answer: func(w http.ResponseWriter, _ *http.Request) {
			b := bytes.Clone(content)
			b[half] ^= 1
			_, _ = w.Write(b)
		}, kind: errs.Invalid, code: CodeDigest, part: "with the digest"},
		"long":    {answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(append(bytes.Clone(content), 0)) }, kind: errs.Invalid, code: CodeDigest, part: "more than the"},
		"missing": {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, kind: errs.NotFound, code: CodeNotFound},
	} {
		asked.Store(0)
		s.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				tt.answer(w, r)
			}
			return isLayer(r)
		})
		dir, store := openStoreIn(t)
		made, err := s.client().Pull(t.Context(), store, ref, Login{}, nil)
		if tt.kind != "" {
			if !errs.IsKind(err, tt.kind) || tt.code != "" && errs.CodeOf(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.part) {
				t.Errorf("%s: Pull() = %v, want %s, %s with %q", name, err, tt.kind, tt.code, tt.part)
			}
			wantEmpty(t, dir, store)
			continue
		}
		if err != nil {
			t.Errorf("%s: Pull() = %v", name, err)
			continue
		}
		if got, err := store.ReadFile(t.Context(), made.Digest, "big", 1<<20); err != nil || string(got) != big {
			t.Errorf("%s: the file has %d bytes, %v, want %d", name, len(got), err, len(big))
		}
	}
}

func TestSilentRegistry(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	s := newStation(t)
	s.answer(func(http.ResponseWriter, *http.Request) bool { <-done; return true })
	t.Cleanup(func() { close(done) })
	c := NewClient(ClientOptions{Registries: func() Registries { return listed(s.host) }, Answer: 20 * time.Millisecond, Pause: time.Millisecond})
	_, err := c.Resolve(t.Context(), s.ref("base:x"), Login{})
	wantError(t, "Resolve(silent)", err, errs.Unavailable, CodeUnreachable, "in time")
	if got := len(s.requests("/v2/")); got != defaultTries {
		t.Errorf("the registry was asked %d times, want %d", got, defaultTries)
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
	wantError(t, "Resolve(broken)", err, errs.Unavailable, CodeUnreachable, "502 Bad Gateway")
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
